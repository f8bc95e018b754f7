"""OHIF in a headless browser, and what it draws in terms of the images: pixels of the canvas at places of the source."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from tests.e2e.servers import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATIENCE_S = 180.0  # software rendering on a busy machine
_GRID = "[data-cy=viewport-grid]"
_ROW = "[data-cy^=study-browser-thumbnail]"
_CANVAS = "[data-cy=viewport-pane] canvas"
_COLOURED = 30  # difference of the largest and the smallest of red, green and blue; source images are grey
_VIEWPORT = "cornerstone.getRenderingEngines().flatMap(e => e.getViewports())[0]"
_SHOWN = f"""() => {{
    const viewport = {_VIEWPORT}, world = viewport.canvasToWorld([0, 0]), id = viewport.getCurrentImageId();
    const to_image = p => cornerstone.utilities.worldToImageCoords(id, viewport.canvasToWorld(p));
    return {{
        id, ratio: viewport.canvas.width / viewport.canvas.clientWidth,
        world: [[0, 0], [1, 0], [0, 1]].map(p => Array.from(viewport.canvasToWorld(p))),
        image: [[0, 0], [1, 0], [0, 1]].map(p => Array.from(to_image(p))),
        png: document.querySelector('{_CANVAS}').toDataURL('image/png'),
    }}
}}"""
_SCROLL = f"async index => {{ await {_VIEWPORT}.setImageIdIndex(index); {_VIEWPORT}.render() }}"
_SHAPES = """() => [...document.querySelectorAll('[data-cy=viewport-pane] svg.svg-layer polyline')].map(e => e.getAttribute('points'))
    .concat([...document.querySelectorAll('[data-cy=viewport-pane] svg.svg-layer path')].map(e => e.getAttribute('d')))"""

# OHIF's own words and icons over the image, as (left, top, right, bottom) of the canvas.
_OVERLAYS = f"""() => {{
    const origin = document.querySelector('{_CANVAS}').getBoundingClientRect(), pane = document.querySelector('[data-cy=viewport-pane]');
    const boxes = [...pane.querySelectorAll('svg:not(.svg-layer)')].map(e => e.getBoundingClientRect());
    const walk = document.createTreeWalker(pane, NodeFilter.SHOW_TEXT), range = document.createRange();
    while (walk.nextNode()) {{ range.selectNodeContents(walk.currentNode); boxes.push(range.getBoundingClientRect()) }}
    return boxes.filter(b => b.width > 1 && b.height > 1)
        .map(b => [b.left - origin.left, b.top - origin.top, b.right - origin.left, b.bottom - origin.top]);
}}"""

_CUT = f"""() => {{
    const canvas = document.querySelector('{_CANVAS}').getBoundingClientRect();
    return [...document.querySelectorAll('[data-cy=viewport-pane] svg.svg-layer tspan')]
        .filter(e => e.getBoundingClientRect().right > canvas.right).map(e => e.textContent);
}}"""


@dataclass(frozen=True, eq=False)
class Shown:
    """What a viewport shows: the instance, the canvas, and where a point of the canvas (x, y) lies."""

    sop_instance_uid: str
    frame: int
    pixels: NDArray[np.uint8]  # (rows, columns, 3)
    world: NDArray[np.float64]  # patient coordinates of the canvas points (0, 0), (1, 0) and (0, 1), mm
    image: NDArray[np.float64]  # (column, row) of the same, from the corner of the first pixel

    @property
    def coloured(self) -> NDArray[np.bool_]:
        """Which pixels of the canvas are not grey."""
        wide = self.pixels.astype(int)
        return np.asarray(wide.max(-1) - wide.min(-1) > _COLOURED)

    def indices(self, source: Dataset) -> NDArray[np.float64]:
        """Return (column, row) in ``source`` of every canvas pixel's centre, by its own geometry where it has one, else by the viewer's."""
        points = self.image - 0.5  # the viewer counts from the corner of the first pixel
        if "ImagePositionPatient" in source:
            along_row, down_column = np.array(source.ImageOrientationPatient, dtype=float).reshape(2, 3)
            offset = self.world - np.array(source.ImagePositionPatient, dtype=float)
            spacing = np.array(source.PixelSpacing, dtype=float)[::-1]
            points = np.stack([offset @ along_row, offset @ down_column], axis=-1) / spacing
        y, x = np.indices(self.pixels.shape[:2]) + 0.5
        return np.asarray(points[0] + x[..., None] * (points[1] - points[0]) + y[..., None] * (points[2] - points[0]))

    def sample(self, picture: NDArray[Any], source: Dataset) -> NDArray[Any]:
        """Return a picture on the grid of ``source`` as it would lie on the canvas; zero outside."""
        column, row = np.round(np.moveaxis(self.indices(source), -1, 0)).astype(int)
        inside = (row >= 0) & (row < picture.shape[0]) & (column >= 0) & (column < picture.shape[1])
        values = picture[row.clip(0, picture.shape[0] - 1), column.clip(0, picture.shape[1] - 1)]
        return np.where(inside.reshape(inside.shape + (1,) * (values.ndim - 2)), values, 0)


class Ohif:
    """A reader at the workstation."""

    def __init__(self, page: Page, address: str, screenshots: Path) -> None:
        self.page, self.address, self._screenshots = page, address, screenshots

    def open_list(self) -> None:
        """Open the study list."""
        self.page.goto(self.address)
        self.page.locator("table").first.wait_for()

    def open_study(self, study_instance_uid: str) -> None:
        """Open a study, and confirm that OHIF is for investigational use."""
        self.page.goto(f"{self.address}viewer?StudyInstanceUIDs={study_instance_uid}")
        self.page.locator(_ROW).first.wait_for()
        confirm = self.page.locator("[data-cy=confirm-and-hide-button]")
        if confirm.count():
            confirm.click()
        wait_until(lambda: self.page.locator(_CANVAS).count(), seconds=PATIENCE_S, what="OHIF shows the first series")

    def series(self) -> list[tuple[str, str]]:
        """Return (modality, description) of the series list."""
        rows = [text.split("\n") for text in self.page.locator(_ROW).all_inner_texts()]
        return [(row[0], row[1]) for row in rows]

    def open_series(self, description: str) -> None:
        """Open a series with a double click on its row."""
        self.page.locator(_ROW).filter(has=self.page.get_by_text(description, exact=True)).first.dblclick()

    def open_report(self, description: str, *, heading: str = "Oncology Measurement Report") -> str:
        """Open a series of a structured report and return the text that is read."""
        self.open_series(description)
        grid = self.page.locator(_GRID)
        grid.get_by_text(heading).wait_for()
        return grid.inner_text()

    def open_captures(self, description: str, first: Dataset) -> None:
        """Open a series of captures."""
        self.open_series(description)
        self.wait_for(lambda shown: shown.sop_instance_uid == first.SOPInstanceUID, what="the first capture")

    def open_segmentation(self, description: str) -> Shown:
        """Open a series of a segmentation, agree to load it, and return what is drawn."""
        self.open_series(description)
        self.page.get_by_role("button", name="Yes").click()
        return self.wait_for(lambda shown: bool(shown.coloured.any()), what="the segmentation is drawn")

    def open_contour(self, description: str, *, wanted: str = "RESEARCH ONLY") -> tuple[Shown, NDArray[np.float64], list[str]]:
        """Open a report with a contour; return what is shown, the points drawn as (x, y) of the canvas, and the lines beside them.

        It is open once ``wanted`` stands among the lines.
        """
        self.open_series(description)
        layer = self.page.locator("[data-cy=viewport-pane] svg.svg-layer")
        wait_until(lambda: wanted in (layer.first.text_content() or ""), seconds=PATIENCE_S, what="the numbers are drawn")
        shapes = [re.findall(r"-?\d+(?:\.\d+)?", shape or "") for shape in self.page.evaluate(_SHAPES)]
        longest = max(shapes, key=len)
        lines = layer.first.locator("tspan").all_text_contents()
        return self.shown(), np.array(longest, dtype=float).reshape(-1, 2), lines

    def contour_lines(self) -> list[str]:
        """Return the lines beside all outlines that are drawn now."""
        lines: list[str] = self.page.locator("[data-cy=viewport-pane] svg.svg-layer").first.locator("tspan").all_text_contents()
        return lines

    def shown(self) -> Shown:
        """Return what the viewport shows now."""
        answer = self.page.evaluate(_SHOWN)
        found = re.search(r"/instances/([0-9.]+)/frames/(\d+)", answer["id"])
        assert found, answer["id"]
        assert answer["ratio"] == 1, "the browser scales the canvas"
        png = base64.b64decode(answer["png"].partition(",")[2])
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        return Shown(found[1], int(found[2]), pixels, np.array(answer["world"]), np.array(answer["image"]))

    def wait_for(self, condition: Callable[[Shown], bool], *, what: str) -> Shown:
        """Return what is shown as soon as it is so."""

        def look() -> Shown | None:
            if not self.page.locator(_CANVAS).count():
                return None
            shown = self.shown()
            return shown if condition(shown) else None

        found: Shown = wait_until(look, seconds=PATIENCE_S, what=what)
        return found

    def overlays(self) -> list[tuple[int, int, int, int]]:
        """Return where OHIF writes over the image, as (left, top, right, bottom) of the canvas."""
        return [(int(box[0]), int(box[1]), int(box[2]) + 1, int(box[3]) + 1) for box in self.page.evaluate(_OVERLAYS)]

    def cut_lines(self) -> list[str]:
        """Return the lines of text drawn with an outline that do not end within the viewport."""
        return [str(line) for line in self.page.evaluate(_CUT)]

    def scroll_to(self, index: int) -> None:
        """Show another image of the series."""
        self.page.evaluate(_SCROLL, index)

    def keep(self, name: str) -> None:
        """Keep a screenshot."""
        self.page.screenshot(path=self._screenshots / f"{name}.png")
