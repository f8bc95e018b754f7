"""What is written on pages, line by line, as the reader sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import ImageDraw


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Collect every line that is drawn meanwhile; one that had no room ends in three dots."""
    lines: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def keep(self: ImageDraw.ImageDraw, xy: Any, text: str, *args: Any, **style: Any) -> None:
        lines.append(text)
        draw(self, xy, text, *args, **style)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", keep)
        yield lines
