from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from node.config import Settings, load_settings, to_environment
from pipelines.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "deploy" / "node.example.toml"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("CERVINODE_"):
            monkeypatch.delenv(name)


def _write(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text)
    return path


def test_example_loads() -> None:
    settings = load_settings(EXAMPLE)
    assert settings.node.port == 11112
    assert settings.quiet_s("MR_SCANNER") == 300
    assert settings.quiet_s("PACS") == 60
    assert settings.routes[0].to == ("PACS",)


def test_example_names_every_setting() -> None:
    text = EXAMPLE.read_text()
    example = tomllib.loads(text.replace("# systems_path", "systems_path"))
    for table, field in Settings.model_fields.items():
        model, given = field.annotation, example[table]
        if isinstance(given, list):
            model = model.__args__[0]  # type: ignore[union-attr]
            given = {key: value for entry in given for key, value in entry.items()}
        assert isinstance(model, type) and issubclass(model, BaseModel)
        assert {f.serialization_alias or name for name, f in model.model_fields.items()} == set(given), table


def test_example_shows_the_defaults() -> None:
    defaults, example = Settings(), load_settings(EXAMPLE)
    for table in ("broker", "worker", "delivery", "web"):
        assert getattr(defaults, table) == getattr(example, table)
    paths = {"storage_root", "models_root"}
    assert defaults.node.model_dump(exclude=paths) == example.node.model_dump(exclude=paths)
    assert defaults.node.models_root.resolve() == example.node.models_root.resolve()


def test_every_setting_has_a_reason() -> None:
    for field in Settings.model_fields.values():
        model: Any = field.annotation
        model = getattr(model, "__args__", (model,))[0]
        for name, setting in model.model_fields.items():
            assert setting.description, name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[node]\nport = 99999\n", "[node] port: "),
        ("[node]\nport = 99999\n", "(value 99999)"),
        ("[node]\nprot = 1\n", "[node] prot: Extra inputs"),
        ("[nodes]\nport = 1\n", "[nodes]: Extra inputs"),
        ("[node]\nport = \n", "line 2"),
        ('[node]\nae_title = "A\\\\B"\n', "no backslash"),
        ('[node]\nae_title = "                  "\n', "1 to 16 characters"),
        ('[node]\nae_title = "SEVENTEEN_LETTERS"\n', "1 to 16 characters"),
        ('[[peers]]\nae_title = "P"\nhost = "h"\nport = 1\n[[peers]]\nae_title = "Q"\nhost = "h"\nport = 0\n', "[peers] number 2 port: "),
        ('[[peers]]\nae_title = "P"\nhost = "h"\nport = 1\n[[peers]]\nae_title = "P"\nhost = "h"\nport = 1\n', "'P' is listed twice"),
        ('[web]\ntoken = "short"\n', "at least 16 characters"),
        ('[[routes]]\nsystems = ["s"]\nexpect = ["T9W"]\n', "expect"),
        ('[[peers]]\nae_title = "P"\nhost = "h"\nport = 1\nmay_send = false\nquery = true\n', "'P' is to be queried but may not send"),
        ('[[routes]]\nsystems = ["s"]\nto = ["X"]\n', "'to' names 'X'"),
        ('[[routes]]\nsystems = ["s"]\nfrom = ["X"]\n', "'from' names 'X'"),
    ],
)
def test_wrong_configuration_is_named_in_one_sentence(tmp_path: Path, text: str, expected: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_token_is_never_shown(tmp_path: Path) -> None:
    for line in ('token = "secret"', 'token = "a secret with an \\u00e9"'):
        with pytest.raises(ConfigError) as caught:
            load_settings(_write(tmp_path, f"[web]\n{line}\n"))
        assert "secret" not in str(caught.value)
    assert "secret" not in repr(load_settings(_write(tmp_path, '[web]\ntoken = "a secret of some length"\n')))


def test_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "none.toml")


def test_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CERVINODE_NODE__PORT", "1234")
    monkeypatch.setenv("CERVINODE_BROKER__URL", "redis://q/0")
    settings = load_settings(_write(tmp_path, '[node]\nport = 5\nae_title = "ONE"\n'))
    assert (settings.node.port, settings.node.ae_title, settings.broker.url) == (1234, "ONE", "redis://q/0")


def test_wrong_environment_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CERVINODE_NODE__PORT", "none")
    with pytest.raises(ConfigError, match=r"environment: \[node\] port"):
        load_settings()


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    settings = load_settings(_write(tmp_path, '[node]\nstorage_root = "data"\nsystems_path = "/abs"\n'))
    assert settings.node.storage_root == tmp_path / "data"
    assert settings.node.systems_path == Path("/abs")


def test_environment_for_a_child_gives_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(EXAMPLE)
    for name, value in to_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().node = Settings().node  # type: ignore[misc]
