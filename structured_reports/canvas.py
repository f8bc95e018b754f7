"""Drawing for a dark reading room: few colours, large type, nothing that relies on telling red from green."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from structured_reports.language import DEFAULT, Messages, load_messages
from structured_reports.source import fit_text

Colour = tuple[int, int, int]

BACKGROUND: Colour = (13, 15, 19)
PANEL: Colour = (24, 28, 34)
LINE: Colour = (74, 82, 94)
TEXT: Colour = (236, 239, 243)
MUTED: Colour = (168, 177, 189)
WARNING: Colour = (255, 214, 10)  # yellow: the status banner and nothing else
FOR: Colour = (255, 159, 67)  # orange and blue stay apart in every common colour vision deficiency
AGAINST: Colour = (96, 178, 255)
OUTLINE: Colour = (0, 229, 238)

# Viridis at equal steps from 0 to 1: perceptually uniform, safe for colour-blind readers.
_VIRIDIS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=float)
# Pillow's own font has Latin letters. Others come from a font of the system, where there is one: Debian's fonts-wqy-microhei,
# fonts-wqy-zenhei, fonts-noto-cjk.
_FONTS = {
    "zh": (
        Path("/usr/share/fonts/truetype/wqy/wqy-microhei.ttc"),
        Path("/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc"),
        Path("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc"),
    )
}
_PACKAGES = {"zh": "fonts-wqy-microhei or fonts-noto-cjk"}
_LATIN = "ISO_IR 100"
_PIECES = re.compile(r"[^\s\u2e80-\uffef]+\s*|[\u2e80-\uffef]\s*")  # words; of scripts without spaces single letters
_JOINTS = re.compile(r"(?=.)[A-Z]{0,16}[^A-Z:_/,.\s-]{0,16}[:_/,.-]*\s*")  # parts of a word that is too long for a line


def colour_map(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Map values 0 to 1, of any shape, to RGB 0 to 255 with a last axis of 3."""
    steps = np.linspace(0, 1, len(_VIRIDIS))
    return np.stack([np.interp(values, steps, _VIRIDIS[:, channel]) for channel in range(3)], axis=-1)


def drawable(say: Messages) -> Messages:
    """Return the words if this machine has a font with their letters, else the English ones."""
    latin = all(fit_text(words, _LATIN) == words for words in say.table.values())
    return say if latin or _font_file(say.language) else load_messages(DEFAULT)


def describe_missing_font(language: str) -> str:
    """Say that captures will not be in a language because this machine has no font with its letters; empty where it has."""
    say = load_messages(language)
    if drawable(say) is say:
        return ""
    return f"there is no font for the language {language!r}, so captures will be in English; install Debian's {_PACKAGES[language]}"


@cache
def identify_font(language: str) -> str:
    """Return what tells the font of a language's pages from others: a digest of its file, empty for Pillow's own."""
    path = _font_file(language)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""


@cache
def _font_file(language: str) -> Path | None:
    return next((path for path in _FONTS.get(language, ()) if path.is_file()), None)


@cache
def font(size: int, language: str = DEFAULT) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a language's font: Pillow's own scalable one, the same on every machine, where that has the letters."""
    path = _font_file(language)
    return ImageFont.truetype(str(path), size) if path else ImageFont.load_default(size=size)


class Page:
    """A page under construction; all lengths are pixels from the upper left corner."""

    def __init__(self, width: int, height: int, language: str = DEFAULT) -> None:
        self.image = Image.new("RGB", (width, height), BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)
        self._language = language

    def _fit(self, words: str) -> str:
        """Return one line without the letters that the font lacks."""
        line = " ".join(words.split())
        return line if _font_file(self._language) else fit_text(line, _LATIN)

    def width(self, words: str, *, size: int) -> float:
        """Return how wide a line becomes."""
        return float(font(size, self._language).getlength(self._fit(words)))

    def text(
        self,
        xy: tuple[float, float],
        words: str,
        *,
        size: int,
        colour: Colour = TEXT,
        anchor: str = "la",
        width: float | None = None,
        halo: int = 0,
    ) -> float:
        """Write one line, shortened to ``width``, with a black ``halo`` where it lies on an image; return how wide it became.

        Letters that the font lacks become question marks.
        """
        line, letters = self._fit(words), font(size, self._language)
        if width is not None and letters.getlength(line) > width:
            while line and letters.getlength(line + "...") > width:
                line = line[:-1]
            line = line.rstrip() + "..."
        self.draw.text(xy, line, font=letters, fill=colour, anchor=anchor, stroke_width=halo, stroke_fill=(0, 0, 0))
        return float(letters.getlength(line))

    def wrap(self, words: str, *, size: int, width: float, lines: int) -> list[str]:
        """Break words into at most ``lines`` lines; the last one may be longer than ``width``.

        A word that is longer than a line is broken too, best where a name has a joint.
        """
        rest: list[str] = []
        for piece in _PIECES.findall(self._fit(words)):
            rest += [piece] if self.width(piece.rstrip(), size=size) <= width else _JOINTS.findall(piece)
        broken: list[str] = []
        while rest:
            count = 1
            while count < len(rest) and self.width("".join(rest[: count + 1]), size=size) <= width:
                count += 1
            line, rest = (rest, []) if len(broken) == lines - 1 else (rest[:count], rest[count:])
            broken.append("".join(line).rstrip())
        return broken

    def paragraph(self, xy: tuple[float, float], words: str, *, size: int, width: float, lines: int, colour: Colour = TEXT) -> float:
        """Write words into at most ``lines`` lines; return the y below them."""
        x, y = xy
        for line in self.wrap(words, size=size, width=width, lines=lines):
            self.text((x, y), line, size=size, colour=colour, width=width)
            y += size * 1.35
        return y

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill a rectangle; the last row and column are outside."""
        if right - left >= 1 and bottom - top >= 1:
            self.draw.rectangle((round(left), round(top), round(right) - 1, round(bottom) - 1), fill=colour)

    def pixels(self) -> NDArray[np.uint8]:
        """Return the page, shape (rows, columns, 3)."""
        return np.asarray(self.image, dtype=np.uint8)
