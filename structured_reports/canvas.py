"""Drawing for a dark reading room: few colours, large type, nothing that relies on telling red from green."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

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


def colour_map(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Map values 0 to 1, of any shape, to RGB 0 to 255 with a last axis of 3."""
    steps = np.linspace(0, 1, len(_VIRIDIS))
    return np.stack([np.interp(values, steps, _VIRIDIS[:, channel]) for channel in range(3)], axis=-1)


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own scalable font: the same letters on every machine."""
    return ImageFont.load_default(size=size)


class Page:
    """A page under construction; all lengths are pixels from the upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)

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

        The font has Latin letters only; others become question marks.
        """
        line = " ".join(fit_text(words, "ISO_IR 100").split())
        if width is not None and font(size).getlength(line) > width:
            while line and font(size).getlength(line + "...") > width:
                line = line[:-1]
            line = line.rstrip() + "..."
        self.draw.text(xy, line, font=font(size), fill=colour, anchor=anchor, stroke_width=halo, stroke_fill=(0, 0, 0))
        return float(font(size).getlength(line))

    def paragraph(self, xy: tuple[float, float], words: str, *, size: int, width: float, lines: int, colour: Colour = TEXT) -> float:
        """Write words into at most ``lines`` lines; return the y below them."""
        x, y = xy
        rest = fit_text(words, "ISO_IR 100").split()
        for number in range(1, lines + 1):
            if not rest:
                break
            count = 1
            while count < len(rest) and font(size).getlength(" ".join(rest[: count + 1])) <= width:
                count += 1
            line, rest = (rest, []) if number == lines else (rest[:count], rest[count:])
            self.text((x, y), " ".join(line), size=size, colour=colour, width=width)
            y += size * 1.35
        return y

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill a rectangle; the last row and column are outside."""
        if right - left >= 1 and bottom - top >= 1:
            self.draw.rectangle((round(left), round(top), round(right) - 1, round(bottom) - 1), fill=colour)

    def pixels(self) -> NDArray[np.uint8]:
        """Return the page, shape (rows, columns, 3)."""
        return np.asarray(self.image, dtype=np.uint8)
