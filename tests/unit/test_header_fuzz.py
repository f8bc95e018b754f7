"""Headers that nobody should send: whatever stands in them, only errors with a sentence come out."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag

from pipelines.engine import load_case
from pipelines.errors import CervinodeError
from pipelines.imaging.geometry import build_volume
from pipelines.imaging.regions import find_roi
from pipelines.imaging.sequences import choose, classify, describe_found, rank
from pipelines.imaging.series import read_series
from pipelines.systems import catalogue
from pipelines.types import SeriesRole
from tests import mr, us

SPEC = replace(catalogue()["olnm_mri"], required=(SeriesRole.DWI, SeriesRole.ADC))
US_SPEC = replace(SPEC, required=(SeriesRole.TVUS,))
_TINY = [replace(s, shape=(5, 8, 8)) for s in (mr.DWI_B0, mr.DWI_B800)]
_CLASSIC = [d for s in _TINY for d in mr.make_series(s)]
_ENHANCED = mr.make_enhanced(_CLASSIC)
_KEYWORDS = sorted(
    {e.keyword for e in _CLASSIC[0].iterall() if e.keyword}
    | {e.keyword for e in _ENHANCED.iterall() if e.keyword}
    | {"RescaleSlope", "RescaleIntercept", "StackID", "TemporalPositionIdentifier", "ContrastBolusAgent", "ContrastBolusStartTime"}
    | {"RescaleType", "RealWorldValueMappingSequence", "Manufacturer"}
    | {"InversionTime", "TriggerTime", "DiffusionDirectionality", "SequenceName", "ImageComments", "ComplexImageComponent"}
)
_VALUES = st.one_of(
    st.sampled_from(
        [b"", b"\\", b"nan", b"inf", b"-1", b"0", b"1e400", b"1\\2", b"1\\2\\3", b"0\\0\\0\\0\\0\\0", b"SEG", b"RTSTRUCT", b"SR"]
    ),
    st.sampled_from([b"MOSAIC", b"DERIVED\\PRIMARY\\ADC", b"250000", b"\x00", b"\xff\xfe", b"99999999999999999999", b"9" * 70, b"T\xe4g"]),
    st.binary(max_size=24),
)
_VRS = st.sampled_from(["DS", "IS", "US", "UN", "LO", "CS", "SQ", "FD", "FL", "UI", "TM", "DA", "OB", "AT", "SS"])
_CHANGES = st.lists(
    st.tuples(st.sampled_from(_KEYWORDS), st.sampled_from(["delete", "value", "retype", "sequence"]), _VRS, _VALUES), max_size=4
)
_CASES = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))


def _mutate(d: Dataset, changes: list[tuple[str, str, str, bytes]]) -> None:
    # Sequences first: adding one, pydicom reads Pixel Representation, which another change may have made unreadable.
    for keyword, how, vr, raw in sorted(changes, key=lambda change: change[1] != "sequence"):
        tag = Tag(keyword)
        known = (d.get_item(tag).VR if tag in d else vr) or vr
        if how == "delete":
            d.pop(tag, None)
        elif how == "sequence":
            item = Dataset()
            item.PatientID = "x"
            d.add_new(tag, "SQ", DicomSequence([item]))
        else:
            vr = vr if how == "retype" else known
            even = raw + b" " * (len(raw) % 2)
            d[tag] = RawDataElement(tag, vr, len(even), even, 0, False, True)


def _survive(paths: list[Path]) -> None:
    """Do all that node, worker and inspect do with headers; only our own errors may come out, and they say something."""
    try:
        series = read_series(paths)
    except CervinodeError as error:
        assert str(error)
        return
    assert len(describe_found(series)) == len(series)
    assert all(classify(one).reason for one in series)
    volumes = {}
    for role, choices in rank(series, SPEC).items():
        for choice in choices:
            with contextlib.suppress(CervinodeError):
                volumes[role] = build_volume(choice)
    with contextlib.suppress(CervinodeError):
        choose(series, SPEC)
    with contextlib.suppress(CervinodeError):
        find_roi(series, volumes)


def _write(d: Dataset, path: Path) -> None:
    """Write a data set that the library would rather not."""
    with contextlib.suppress(Exception):
        d.save_as(path, enforce_file_format=True)
        return
    path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("classic")
    return [mr.save(d, folder) for d in _CLASSIC]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@_CASES
@given(changes=_CHANGES, which=st.integers(0, 9), every=st.booleans())
def test_mutated_single_frame_headers(
    classic: list[Path], tmp_path_factory: pytest.TempPathFactory, changes: Any, which: int, every: bool
) -> None:
    folder = classic[0].parent.parent / "mutated"
    folder.mkdir(exist_ok=True)
    paths = list(classic)
    for i in range(len(paths)) if every else (which,):
        d = dcmread(classic[i])
        _mutate(d, changes)
        paths[i] = folder / f"{i}.dcm"
        _write(d, paths[i])
    _survive([p for p in paths if p.exists()])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@_CASES
@given(changes=_CHANGES, where=st.integers(-2, 9), macro=st.integers(0, 6))
def test_mutated_multi_frame_headers(classic: list[Path], changes: Any, where: int, macro: int) -> None:
    d = copy.deepcopy(_ENHANCED)
    target = d
    if where >= -1:
        target = d.SharedFunctionalGroupsSequence[0] if where == -1 else d.PerFrameFunctionalGroupsSequence[where]
        inner = [e for e in target if e.VR == "SQ"]
        if macro < len(inner):
            target = inner[macro].value[0]
    _mutate(target, changes)
    path = classic[0].parent.parent / "enhanced.dcm"
    _write(d, path)
    _survive([path] if path.exists() else [classic[0]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@_CASES
@given(
    hits=st.lists(st.tuples(st.integers(132, 2600), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.integers(0, 4000),
    multi=st.booleans(),
)
def test_damaged_bytes(classic: list[Path], hits: list[tuple[int, int]], cut: int, multi: bool) -> None:
    whole = classic[0].parent.parent / "whole.dcm"
    if not whole.exists():
        _write(_ENHANCED, whole)
    content = bytearray((whole if multi else classic[4]).read_bytes())
    for position, byte in hits:
        content[position % len(content)] = byte
    path = classic[0].parent.parent / "damaged.dcm"
    path.write_bytes(bytes(content[:cut] if cut > 3000 else content))
    _survive([path] if multi else [*classic[:4], path, *classic[5:]])


_CLIP = us.make(us.Picture(frames=2, regions=(us.region(), us.region(spatial_format=0, data_type=13, box=(60, 150, 119, 159)))))
_REPORT = us.make_report(us.Outline(_CLIP, us.rectangle(100, 120, 150, 160), frame=2))
_US_KEYWORDS = sorted({e.keyword for d in (_CLIP, _REPORT) for e in d.iterall() if e.keyword} | {"RepresentativeFrameNumber"})
_US_VALUES = st.one_of(
    _VALUES, st.sampled_from([b"RGB", b"PALETTE COLOR", b"MONOCHROME1", b"POLYLINE", b"ELLIPSE", b"\x03\x00", b"1\\2\\3"])
)
_US_CHANGES = st.lists(
    st.tuples(st.sampled_from(_US_KEYWORDS), st.sampled_from(["delete", "value", "retype", "sequence"]), _VRS, _US_VALUES), max_size=4
)


def _datasets(d: Dataset) -> list[Dataset]:
    """Return a data set and all items within it."""
    return [d, *(inner for e in d if e.VR == "SQ" for item in e.value for inner in _datasets(item))]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@_CASES
@given(changes=_US_CHANGES, report=st.booleans(), where=st.integers(0, 40))
def test_mutated_ultrasound_and_its_reports(tmp_path_factory: pytest.TempPathFactory, changes: Any, report: bool, where: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "ultrasound"
    folder.mkdir(exist_ok=True)
    sources = [copy.deepcopy(_CLIP), copy.deepcopy(_REPORT)]
    inner = _datasets(sources[report])
    _mutate(inner[where % len(inner)], changes)
    paths = [folder / "image.dcm", folder / "report.dcm"]
    for d, path in zip(sources, paths, strict=True):
        _write(d, path)
    with contextlib.suppress(CervinodeError):
        series = read_series([p for p in paths if p.exists()])
        assert load_case(series, choose(series, US_SPEC), US_SPEC).frame is not None


@pytest.mark.parametrize("breaks", [lambda d: d.pop("PixelData"), lambda d: setattr(d, "Rows", 60000)])
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_survivors_are_checked_at_all(classic: list[Path], tmp_path: Path, breaks: Callable[[Dataset], object]) -> None:
    d = dcmread(classic[3])
    breaks(d)
    path = tmp_path / "3.dcm"
    d.save_as(path)
    _survive([*classic[:3], path, *classic[4:]])
