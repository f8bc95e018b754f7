"""ADC maps: the unit they were sent in, and those that are computed from diffusion images of several series."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from node.jobs import JobOrder
from node.planning import BundleReference, make_job
from node.worker import _chosen
from pipelines.engine import load_case
from pipelines.errors import InputError, MissingSequence
from pipelines.imaging.adc import read_unit
from pipelines.imaging.diffusion import b_value, is_trace
from pipelines.imaging.geometry import build_volume
from pipelines.imaging.sequences import choose, classify, rank
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.systems import catalogue
from pipelines.types import ImageVolume, Series, SeriesRole
from tests import mr

SPEC = replace(catalogue()["olnm_mri"], required=(SeriesRole.ADC,))
ADC_MAP = replace(mr.T2W, number=30, description="adc", attributes={"ScanningSequence": "EP"}, shape=(6, 24, 24))
TISSUE = np.arange(600, 600 + 6 * 24 * 24, dtype=np.float64).reshape(6, 24, 24) * 0.4  # 1e-6 mm2/s, 240 to 1622
B0 = replace(mr.DWI_B0, number=31, description="dwi b0", attributes={"ScanningSequence": "EP"}, shape=(6, 24, 24), spacing_mm=(5, 5, 5))
EP = {"ScanningSequence": "EP"}


def _read(folder: Path, images: Iterable[Dataset]) -> list[Series]:
    for d in images:
        mr.save(d, folder)
    return read_series(find_dicom_files(folder))


@pytest.mark.parametrize(
    ("written", "factor"),
    [
        ("mm2/s", 1e6),
        ("um2/s", 1),
        ("um2/ms", 1e3),
        ("10*-6.mm2/s", 1),
        ("10-3.mm2/s", 1e3),
        ("10^-3 mm^2/s", 1e3),
        ("(10^-6 mm2/s)", 1),
        ("1.0e-06 mm²/s", 1),
        ("x 10-5 mm2/sec", 10),
        ("10*-9.m2/s", 1e3),
        ("μm²/s", 1),
        ("US", None),
        ("normalized", None),
        ("s/mm2", None),
        ("1e-99999999 mm2/s", None),
        ("", None),
    ],
)
def test_units_are_read_however_they_are_written(written: str, factor: float | None) -> None:
    assert read_unit(written) == factor


def _map(scale: float, **attributes: object) -> list[Dataset]:
    """Return an ADC map of TISSUE; ``scale`` is the rescale slope: 1e-6 mm2/s per modality unit is 1."""
    images = mr.make_series(ADC_MAP, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], **attributes)
    for d, array in zip(images, TISSUE, strict=True):
        d.PixelData = np.round(array).astype("<u2").tobytes()
        d.RescaleSlope, d.RescaleIntercept = scale, 0
    return images


def _real_world(images: list[Dataset], slope: float, unit: str) -> list[Dataset]:
    for d in images:
        code, item = Dataset(), Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
        item.RealWorldValueSlope, item.RealWorldValueIntercept, item.MeasurementUnitsCodeSequence = slope, 0.0, [code]
        d.RealWorldValueMappingSequence = [item]
    return images


def _adc(folder: Path, images: Iterable[Dataset]) -> ImageVolume:
    return build_volume(choose(_read(folder, images), SPEC)[SeriesRole.ADC])


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (lambda: _map(1), "sent in 1e-6 mm2/s by its values"),
        (lambda: _map(1e-3), "sent in 1e-3 mm2/s by its values, brought to 1e-6 mm2/s"),
        (lambda: _map(1e-6), "sent in mm2/s by its values, brought"),
        (lambda: _map(1e-3, RescaleType="10^-3 mm^2/s"), "sent in 1e-3 mm2/s by its header, brought"),
        (lambda: _map(0.1, RescaleType="10^-5 mm2/s"), "sent in 10 x 1e-6 mm2/s by its header, brought"),
        (lambda: _map(1, RescaleType="mm2/s"), "sent in 1e-6 mm2/s by its values, whatever its header says"),
        (lambda: _map(1, RescaleType="US"), "sent in 1e-6 mm2/s by its values"),
        (lambda: _real_world(_map(7), 1e-6, "mm2/s"), "sent in mm2/s by its header"),
        (lambda: _real_world(_map(7), 1.0, "um2/s"), "sent in 1e-6 mm2/s by its header"),
        (lambda: _real_world(_map(1), 5.0, "1"), "sent in 1e-6 mm2/s by its values"),
    ],
)
def test_maps_of_every_unit_are_brought_to_one(tmp_path: Path, images: Callable[[], list[Dataset]], words: str) -> None:
    for name, sent in (("classic", images()), ("enhanced", [_enhanced(images())])):
        image = _adc(tmp_path / name, sent)
        assert np.allclose(image.volume.array, np.round(TISSUE), rtol=1e-5)
        assert words in image.reason


def _enhanced(images: list[Dataset]) -> Dataset:
    d = mr.make_enhanced(images)
    for frame, image in zip(d.PerFrameFunctionalGroupsSequence, images, strict=True):
        if "RescaleType" in image:
            frame.PixelValueTransformationSequence[0].RescaleType = image.RescaleType
        if "RealWorldValueMappingSequence" in image:
            frame.RealWorldValueMappingSequence = image.RealWorldValueMappingSequence
    for keyword in ("RescaleType", "RealWorldValueMappingSequence"):
        d.pop(keyword, None)
    return d


@pytest.mark.parametrize("scale", [0.03, 1e-9, 0])
def test_map_without_a_plausible_unit_is_refused(tmp_path: Path, scale: float) -> None:
    with pytest.raises(InputError, match=r'series 30 "adc" .*: an ADC map whose median is .* has no unit'):
        _adc(tmp_path, _map(scale))


def test_real_maps_are_in_the_common_unit(shared_data: Path, real_pelvis: Path) -> None:
    for folder in (shared_data / "mr_adc_ge", real_pelvis):
        image = build_volume(choose(read_series(find_dicom_files(folder)), SPEC)[SeriesRole.ADC])
        assert "sent in 1e-6 mm2/s by its values" in image.reason
        assert 800 < np.median(image.volume.array[image.volume.array > 0]) < 1300


def _weighted(number: int, b: float, **attributes: object) -> list[Dataset]:
    """Return the diffusion images of one b-value as a series of its own: 1000 exp(-b TISSUE)."""
    images = mr.make_series(replace(B0, number=number, description=f"dwi b{b:g}"), DiffusionBValue=b, **attributes)
    for d, array in zip(images, TISSUE, strict=True):
        d.PixelData = np.round(4000 * np.exp(-b * array * 1e-6)).astype("<u2").tobytes()
    return images


def test_adc_is_computed_from_b_values_that_came_as_series_of_their_own(tmp_path: Path) -> None:
    series = _read(tmp_path, [*_weighted(31, 0), *_weighted(32, 800), *_weighted(33, 50)])
    choice = choose(series, SPEC)[SeriesRole.ADC]
    assert 'b = 0 s/mm2 of series 31 "dwi b0"' in choice.reason and 'b = 800 s/mm2 of series 32 "dwi b800"' in choice.reason
    assert "taken to have one receiver gain" in choice.reason
    assert choice.header.series_number == 31 and len(choice.instances) == 18
    image = build_volume(choice)
    assert np.allclose(image.volume.array, TISSUE, atol=2)
    assert {d.SeriesNumber for d in image.sources} == {31}, "the header is that of the images that stand for the slices"


def test_order_for_a_map_of_several_series_gives_the_worker_all_of_them(tmp_path: Path) -> None:
    series = _read(tmp_path, [*_weighted(31, 0), *_weighted(32, 800)])
    job = make_job(series, SPEC, bundle=BundleReference("1", "d"), station="N", created_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert job is not None
    order = JobOrder.model_validate_json(job.order.model_dump_json())
    image = load_case(series, _chosen(order, series), SPEC).volumes[SeriesRole.ADC]
    assert np.allclose(image.volume.array, TISSUE, atol=2)


def test_enhanced_series_of_one_b_value_each_are_joined_too(tmp_path: Path) -> None:
    series = _read(tmp_path, [mr.make_enhanced(_weighted(31, 0)), mr.make_enhanced(_weighted(32, 800))])
    choice = choose(series, SPEC)[SeriesRole.ADC]
    image = load_case(series, {SeriesRole.ADC: replace(choice, frames=())}, SPEC).volumes[SeriesRole.ADC]
    assert np.allclose(image.volume.array, TISSUE, atol=2)


def _moved(images: list[Dataset]) -> list[Dataset]:
    for d in images:
        d.ImagePositionPatient = [v + 2.5 for v in d.ImagePositionPatient]
    return images


@pytest.mark.parametrize(
    "other",
    [
        lambda: _weighted(32, 800, FrameOfReferenceUID=generate_uid()),
        lambda: _weighted(32, 800, PixelSpacing=[4, 4]),
        lambda: _weighted(32, 800, EchoTime=60),
        lambda: _weighted(32, 800, RepetitionTime=9000),
        lambda: _weighted(32, 800, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "FA"]),
        lambda: _weighted(32, 800)[:5],
        lambda: _moved(_weighted(32, 800)),
    ],
)
def test_series_that_do_not_belong_together_make_no_map(tmp_path: Path, other: Callable[[], list[Dataset]]) -> None:
    with pytest.raises(MissingSequence, match="no ADC series found"):
        choose(_read(tmp_path, [*_weighted(31, 0), *other()]), SPEC)


def test_map_of_one_series_or_of_the_scanner_wins_over_one_of_several(tmp_path: Path) -> None:
    alone = [*mr.make_series(mr.DWI_B0), *mr.make_series(mr.DWI_B800)]
    split = [*_weighted(31, 0), *_weighted(32, 800)]
    ranked = rank(_read(tmp_path, [*alone, *split, *_map(1)]), SPEC)[SeriesRole.ADC]
    assert [c.header.series_number for c in ranked] == [30, 5, 31]
    again = rank(_read(tmp_path / "again", [*split, *_weighted(40, 800, AcquisitionTime="113000")]), SPEC)[SeriesRole.ADC]
    assert len(again) == 1 and "of series 40" in again[0].reason and "of series 32" not in again[0].reason


def test_canon_says_nothing_of_images_without_diffusion_weighting(tmp_path: Path) -> None:
    images = [*mr.make_series(replace(mr.DWI_B0, attributes=EP)), *mr.make_series(mr.DWI_B800)]
    for d in images:
        d.Manufacturer = "CANON_MEC"
    (series,) = _read(tmp_path / "canon", images)
    assert series.header.b_values == (0.0, 800.0)
    assert "b = 0, 800 s/mm2" in choose([series], SPEC)[SeriesRole.ADC].reason
    for d in images:
        d.Manufacturer = "TESTVENDOR"
    (series,) = _read(tmp_path / "other", images)
    assert series.header.b_values == (800.0,)


def test_dialects_of_hitachi_and_of_ge_trace_images() -> None:
    hitachi, trace, direction = Dataset(), Dataset(), Dataset()
    mr.set_private(hitachi, "MMCPrivate", 0x0029, 0x30, "FD", 1000.0)
    mr.set_private(trace, "GEMS_PARM_01", 0x0043, 0x30, "SS", 19)
    mr.set_private(direction, "GEMS_PARM_01", 0x0043, 0x30, "UN", b"\x10\x00")
    assert b_value(hitachi) == 1000 and is_trace(trace) and not is_trace(direction)


@pytest.mark.parametrize(
    ("description", "role"),
    [
        ("Apparent Diffusion Coefficient (mm2/s)", SeriesRole.ADC),
        ("Average DC (10^-6 mm2/s)", SeriesRole.ADC),
        ("Exponential Apparent Diffusion Coefficient", None),
        ("Fractional Ansio.", None),
        ("Fractional Anisotropy", None),
    ],
)
def test_maps_that_ge_tells_apart_by_name_only(tmp_path: Path, description: str, role: SeriesRole | None) -> None:
    sequence = replace(mr.DWI_B800, description=description)
    (series,) = _read(tmp_path, mr.make_series(sequence, ImageType=["DERIVED", "SECONDARY", "PROCESSED"]))
    assert classify(series).role == role
