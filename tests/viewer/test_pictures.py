"""Every picture that the tests before this file take of a viewer is there to be looked at (``docs/viewer.md``)."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.viewer.cases import ULTRASOUND, Case
from tests.viewer.conftest import SCREENSHOTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
_SIZES = ("1366x768", "1280x1024", "1920x1080")


def _expected(studies: dict[str, Case]) -> set[str]:
    names = {"study-list", "orthanc-explorer"}
    for name, case in ((n, c) for n, c in studies.items() if n != "versions"):
        names |= {f"{name}-series", f"{name}-report"}
        names |= {f"{name}-capture-{i + 1}" for i in range(len(case.captures))}
        names |= {f"{name}-contour"} if "gfx" in case.objects else set()
        names |= {f"{name}-segmentation", f"{name}-without-segmentation"} if "seg" in case.objects else set()
    names |= {"versions-contour", "versions-contour-2"}
    last = len(studies["phantom"].captures)
    return names | {f"phantom-capture-{i}-at-{size}" for i in (1, last) for size in _SIZES}


def test_every_picture_was_taken_and_shows_something(studies: dict[str, Case]) -> None:
    assert {name for name, case in studies.items() if "seg" in case.objects} == {"phantom", "chinese", "versions"}
    assert {name for name, case in studies.items() if "gfx" in case.objects} == {"phantom", "chinese", "versions", *ULTRASOUND}
    found = {path.stem: path for path in SCREENSHOTS.glob("*.png")}
    assert _expected(studies) - found.keys() == set(), "run the whole of tests/viewer, which takes them"
    for name in _expected(studies):
        pixels = np.asarray(Image.open(found[name]).convert("L"))
        assert pixels.shape[0] >= 768, name
        assert pixels.std() > 5, f"{name} is blank"
