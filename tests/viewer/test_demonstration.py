"""The demonstration in OHIF, as ``make viewer`` shows it: five systems of one study, each with its report, and their overview."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
from pydicom import Dataset

from pipelines.imaging.series import find_dicom_files
from structured_reports.wording import percent_words
from tests.e2e import servers
from tests.viewer import cases
from tests.viewer.browser import Ohif
from tests.viewer.conftest import open_page, wait_for_viewer
from tests.viewer.test_ohif import agrees, first_number, hidden

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SYSTEMS = {"olnm_mri": "OLNM", "plnm_us": "PLNM", "lvsi_mri": "LVSI", "lnm_hybrid": "LNM", "histotype_mri": "HIST"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> Iterator[tuple[Path, str]]:
    """The folder that the demonstration left, and where the viewer that was started on it answers."""
    folder = tmp_path_factory.mktemp("demonstration")
    cases.demonstration(folder)
    with servers.process([*command, str(folder)], folder / "viewer.log") as child:
        yield folder, wait_for_viewer(child, folder / "viewer.log").ohif


@pytest.fixture
def ohif(shown: tuple[Path, str], chromium: BrowserContext) -> Iterator[Ohif]:
    """The demonstration's study, opened."""
    with open_page(chromium, shown[1]) as page:
        page.open_study(str(_objects(shown[0])[0].StudyInstanceUID))
        yield page


def _objects(folder: Path) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in find_dicom_files(folder / "objects")]


def _results(folder: Path) -> dict[str, dict[str, Any]]:
    return {result["system"]: result for result in json.loads((folder / "summary.json").read_text())["results"]}


def _named(folder: Path, description: str) -> list[Dataset]:
    found = [d for d in _objects(folder) if d.SeriesDescription == description]
    assert found, description
    return sorted(found, key=lambda d: int(d.InstanceNumber))


def test_series_list_has_all_that_the_five_systems_sent(ohif: Ohif, shown: tuple[Path, str]) -> None:
    sent = {(str(d.Modality), str(d.SeriesDescription)) for d in _objects(shown[0])}
    listed = ohif.series()
    assert sent <= set(listed)
    for short in SYSTEMS.values():
        assert {("SR", f"[RUO] DEMO {short}"), ("SR", f"[RUO] DEMO {short} ROI"), ("OT", f"[RUO] DEMO {short} pages")} <= sent
    ours = [one for one in listed if one in sent]
    assert len(ours) == len(set(ours)), "no series is listed twice"
    ohif.keep("demonstration-series")


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_report_is_read_with_its_own_number(ohif: Ohif, shown: tuple[Path, str], system: str) -> None:
    results = _results(shown[0])
    text = ohif.open_report(f"[RUO] DEMO {SYSTEMS[system]}")
    assert f"probability {percent_words(results[system]['probability'], 1)}" in text.replace("\N{NO-BREAK SPACE}", " "), text
    assert "DEMO MODEL - NOT FOR CLINICAL USE" in text
    assert f"Model: Model {system} " in text
    ohif.keep(f"demonstration-report-{system}")


def test_each_outline_has_the_numbers_of_its_own_report(ohif: Ohif, shown: tuple[Path, str]) -> None:
    """Opened one after the other: OHIF keeps what it knows by tracking UID, and must not mix up five outlines of one tumour."""
    for system, short in SYSTEMS.items():
        (report,) = _named(shown[0], f"[RUO] DEMO {short} ROI")
        _, _, lines = ohif.open_contour(str(report.SeriesDescription), wanted=f"{short} ")
        ohif.keep(f"demonstration-contour-{system}")
        own = [line for line in lines if line.startswith(f"DEMO, RESEARCH ONLY: {short} ")]
        assert own and own[0].endswith(f"{first_number(report):.2f} %"), lines


def test_overview_is_displayed(ohif: Ohif, shown: tuple[Path, str]) -> None:
    (page,) = _named(shown[0], "[RUO] DEMO Overview page")
    ohif.open_captures(str(page.SeriesDescription), page)
    ohif.wait_for(lambda seen: agrees(seen, page.pixel_array, page), what="the overview")
    ohif.keep("demonstration-overview")
    assert hidden(ohif) == []


def test_segmentation_is_drawn(ohif: Ohif, shown: tuple[Path, str]) -> None:
    (seg,) = _named(shown[0], "[RUO] DEMO TUMOUR SEG")
    assert ohif.open_segmentation(str(seg.SeriesDescription)).coloured.any()
    ohif.keep("demonstration-segmentation")
