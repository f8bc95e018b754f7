"""The words of reports and captures by language: one TOML file each in ``messages/``. Coded meanings are not words: they stay English."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from pipelines.errors import ConfigError

DEFAULT = "en"
_FOLDER = Path(__file__).parent / "messages"
_PHRASE = "phrase."  # table of a language's file: sentences of the analysis with their {placeholders}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


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

    def translate(self, sentence: str) -> str:
        """Return what the analysis says in English in this language, where it has the sentence (``[phrase]``), else as it is."""
        for template, words in self.phrases:
            if found := template.fullmatch(sentence):
                return words.format(**found.groupdict())
        return sentence

    @cached_property
    def phrases(self) -> list[tuple[re.Pattern[str], str]]:
        """Sentences of the analysis as patterns whose groups are their placeholders, and how this language has them."""
        pieces = ((_PLACEHOLDER.split(key.removeprefix(_PHRASE)), words) for key, words in self.table.items() if key.startswith(_PHRASE))
        return [(re.compile("".join(f"(?P<{p}>.+)" if i % 2 else re.escape(p) for i, p in enumerate(parts))), w) for parts, w in pieces]

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
