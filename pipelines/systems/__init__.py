"""The catalogue of prediction systems: one declaration file each."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pipelines.errors import ConfigError
from pipelines.features.clinical import KNOWN
from pipelines.spec import PipelineSpec

_HERE = Path(__file__).parent


def catalogue(extra_dir: Path | None = None) -> dict[str, PipelineSpec]:
    """Return every declared system by name: the shipped ones and those in ``extra_dir``.

    Raises
    ------
    ConfigError
        A declaration file has no ``SPEC``, its name is taken, or it uses a clinical value that is not known before surgery.
    """
    specs: dict[str, PipelineSpec] = {}
    for folder in [_HERE, *([extra_dir] if extra_dir else [])]:
        for path in sorted(folder.glob("[!_]*.py")):
            spec = _load(path)
            if spec.name in specs:
                raise ConfigError(f"{path}: a system named {spec.name!r} exists already")
            specs[spec.name] = spec
    return specs


def _load(path: Path) -> PipelineSpec:
    module_spec = importlib.util.spec_from_file_location(f"pipelines.systems.{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    spec = getattr(module, "SPEC", None)
    if not isinstance(spec, PipelineSpec):
        raise ConfigError(f"{path}: defines no SPEC of type PipelineSpec")
    for name in spec.clinical_names:
        if name not in KNOWN:
            raise ConfigError(f"{path}: uses the clinical value {name!r}, which is not known")
        if KNOWN[name].available_at != "preop":
            raise ConfigError(f"{path}: uses the clinical value {name!r}, which is known only after surgery")
    return spec
