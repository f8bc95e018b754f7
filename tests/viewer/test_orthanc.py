"""Orthanc's own viewer shows the captures, for a site that has no other."""

from __future__ import annotations

import io
import json
import urllib.request
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.viewer.browser import Ohif
from tests.viewer.cases import ULTRASOUND, Case
from tests.viewer.conftest import Viewer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # software rendering on a busy machine


def _get(viewer: Viewer, path: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(f"{viewer.orthanc}{path}", data=json.dumps(body).encode() if body else None)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("name", ["phantom", "chinese", "refused", *ULTRASOUND])
def test_preview_is_the_capture(viewer: Viewer, studies: dict[str, Case], name: str) -> None:
    for capture in studies[name].captures:
        (instance,) = _get(viewer, "/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": str(capture.SOPInstanceUID)}})
        with urllib.request.urlopen(f"{viewer.orthanc}/instances/{instance}/preview", timeout=30) as answer:
            preview = np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"))
        assert np.array_equal(preview, capture.pixel_array)


def test_explorer_shows_the_capture(viewer: Viewer, studies: dict[str, Case], ohif: Ohif) -> None:
    capture = studies["chinese"].captures[0]
    (instance,) = _get(viewer, "/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": str(capture.SOPInstanceUID)}})
    page = ohif.page
    page.goto(f"{viewer.orthanc}/app/explorer.html#instance?uuid={instance}")
    page.get_by_text("王^小东").first.wait_for()
    page.get_by_text("Preview the instance").click()
    page.locator("#lbImage").wait_for()
    page.wait_for_timeout(1500)  # the picture is faded in
    ohif.keep("orthanc-explorer")
    assert f"/instances/{instance}/preview" in page.locator("#lbImage").evaluate("e => getComputedStyle(e).backgroundImage")
