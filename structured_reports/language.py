"""The words of reports and captures by language: one TOML file each in ``messages/``. Coded meanings are not words: they stay English."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipelines.errors import ConfigError

DEFAULT = "en"
_FOLDER = Path(__file__).parent / "messages"


@dataclass(frozen=True, eq=False)
class Messages:
    """The words of one language. ``language`` is its tag (RFC 5646), ``name`` its English name."""

    language: str
    table: Mapping[str, str]

    @property
    def name(self) -> str:
        """English name of the language: the meaning of its code."""
        return self.table["language.name"]

    def __call__(self, key: str, **values: object) -> str:
        """Return a sentence with its placeholders filled."""
        return self.table[key].format(**values)

    def known(self, key: str, default: str) -> str:
        """Return a word of the language for something that came with words of its own, else those."""
        return self.table.get(key, default)


def languages() -> list[str]:
    """Return the languages that there are words for, English among them."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


@cache
def load_messages(language: str) -> Messages:
    """Read the words of a language; what its file leaves out is English.

    Raises
    ------
    ConfigError
        There is no such language.
    """
    if language not in languages():
        raise ConfigError(f"there are no words for the language {language!r}; there are: {', '.join(languages())}")
    return Messages(language, {**_read(DEFAULT), **_read(language)})


def _read(language: str) -> dict[str, str]:
    return dict(_flatten(tomllib.loads((_FOLDER / f"{language}.toml").read_text(encoding="utf-8"))))


def _flatten(table: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in table.items():
        flat += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", str(value))]
    return flat
