"""Ultrasound on its way to a system: the image that is chosen, the order that names it, and the case that is read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread

from node.jobs import JobOrder, JobState
from node.planning import BundleReference, Circumstances, make_job
from node.predict import predict
from node.storage.records import Job, PlannedJob
from node.worker import _chosen
from pipelines.engine import load_case
from pipelines.errors import MissingRoi, MissingSequence
from pipelines.imaging.intensity import preprocess
from pipelines.imaging.sequences import choose, describe_found
from pipelines.imaging.series import read_series
from pipelines.spec import Preprocess, Radiomics, RoiRule
from pipelines.systems import catalogue
from pipelines.types import Case, RoiOrigin, Series, SeriesRole
from tests import mr
from tests.bundles import write_bundle
from tests.us import LESION, REGION, Outline, Picture, make, make_report, rectangle, region, write

SPEC = replace(
    catalogue()["olnm_mri"],
    name="tvus",
    required=(SeriesRole.TVUS,),
    b_value=None,
    preprocess=Preprocess(),
    roi=RoiRule((SeriesRole.TVUS,)),
    blocks=(Radiomics((SeriesRole.TVUS,), {"Original": {}}, {"firstorder": ()}, {"binWidth": 5}, 18, plane="largest"),),
    roi_names=("Mass",),
    inclusion=(),
    clinical=(),
)
ELLIPSE = [
    (LESION[0], LESION[1] - LESION[3]),
    (LESION[0], LESION[1] + LESION[3]),
    (LESION[0] - LESION[2], LESION[1]),
    (LESION[0] + LESION[2], LESION[1]),
]
AREA_MM2 = np.pi * (LESION[2] * 0.2) * (LESION[3] * 0.3)
TVUS = SeriesRole.TVUS


def _series(folder: Path, *images: Dataset) -> list[Series]:
    return read_series(write(folder, *images))


def _case(series: Sequence[Series]) -> Case:
    return load_case(series, choose(series, SPEC), SPEC)


def _job(series: Sequence[Series], earlier: Sequence[Job] = ()) -> PlannedJob | None:
    now, known = datetime(2026, 1, 1, tzinfo=UTC), Circumstances(waited_s=0.0)
    return make_job(series, SPEC, bundle=BundleReference("1", "d"), station="NODE", created_at=now, earlier=earlier, known=known)


def _done(job: PlannedJob) -> Job:
    return Job(job.order, job.key, job.destinations, JobState.DONE, None, 1, "", 0.0, 0.0, None)


def test_best_image_becomes_a_volume_of_one_slice(tmp_path: Path) -> None:
    images = [make(Picture(number=1)), make(Picture(number=2, frames=5)), make(Picture(number=3, colour="caliper"))]
    series = _series(tmp_path, *images)
    (choice,) = choose(series, SPEC).values()
    assert (choice.role, choice.score) == (TVUS, 100)
    assert [d.SOPInstanceUID for d in choice.instances] == [images[1].SOPInstanceUID]
    assert choice.reason.startswith("image 2: frame 3 of 5: the middle frame; the scanner declares its B-mode region")
    case = _case(series)
    image = case.volumes[TVUS]
    assert list(case.volumes) == [TVUS] and case.roi is None
    assert case.frame is not None and case.frame.frame_number == 3
    assert image.volume.array.dtype == np.float32
    assert image.volume.array.shape == (1, REGION[2] - REGION[0] + 1, REGION[3] - REGION[1] + 1)
    assert np.array_equal(image.volume.array[0], case.frame.grey) and 0 <= image.volume.array.min() < image.volume.array.max() <= 255
    assert image.volume.spacing == pytest.approx((1.0, 0.2, 0.3))
    assert [d.SOPInstanceUID for d in image.sources] == [images[1].SOPInstanceUID]


def test_image_plane_counts_from_the_first_pixel_of_the_whole_image(tmp_path: Path) -> None:
    volume = _case(_series(tmp_path, make())).volumes[TVUS].volume
    corners = volume.map_indices_to_reference(np.array([[0, 0, 0], [0, 10, 0], [0, 0, 10]]))
    first = np.array([REGION[1] * 0.3, REGION[0] * 0.2, 0.0])
    assert np.allclose(corners, first + np.array([[0, 0, 0], [0, 2, 0], [3, 0, 0]]))
    assert np.linalg.det(volume.direction[:, ::-1]) == pytest.approx(1)


def test_outline_of_a_report_is_the_roi(tmp_path: Path) -> None:
    image = make()
    report = make_report(Outline(image, ELLIPSE, kind="ELLIPSE"))
    case = _case(_series(tmp_path, image, report))
    assert case.roi is not None
    assert (case.roi.role, case.roi.origin, case.roi.segment_algorithm_type) == (TVUS, RoiOrigin.SCOORD, "")
    assert case.roi.description == 'SR outline "Lesion 1", drawn by READER^ONE'
    assert case.roi.source_sop_instance_uid == report.SOPInstanceUID
    assert case.roi.volume.geometry_equal(case.volumes[TVUS].volume)
    assert case.roi.volume.array.dtype == np.uint8
    assert np.count_nonzero(case.roi.volume.array) * 0.2 * 0.3 == pytest.approx(AREA_MM2, rel=0.015)
    centre = case.roi.volume.map_indices_to_reference(np.argwhere(case.roi.volume.array).astype(float)).mean(axis=0)
    assert centre == pytest.approx((LESION[1] * 0.3, LESION[0] * 0.2, 0), abs=0.1)


def test_outlined_image_is_used_though_another_is_better(tmp_path: Path) -> None:
    marked = make(Picture(number=1, colour="caliper"))
    case = _case(_series(tmp_path, marked, make(Picture(number=2)), make_report(Outline(marked, ELLIPSE, kind="ELLIPSE"))))
    assert case.roi is not None and case.volumes[TVUS].sources[0].SOPInstanceUID == marked.SOPInstanceUID


def test_largest_section_in_square_millimetres_is_taken(tmp_path: Path) -> None:
    fine = make(Picture(number=1, regions=(region(delta=(0.01, 0.01)),)))
    coarse = make(Picture(number=2, regions=(region(delta=(0.03, 0.03)),)))
    unknown = make(Picture(number=3, regions=(region(units=(0, 0)),)))
    sections = ((fine, 60), (coarse, 40), (unknown, 70))  # 36 and 144 mm2, and no mm2
    outlines = [Outline(image, rectangle(110, 130, 110 + side, 130 + side)) for image, side in sections]
    (choice,) = choose(_series(tmp_path, fine, coarse, unknown, make_report(*outlines)), SPEC).values()
    assert choice.instances[0].SOPInstanceUID == coarse.SOPInstanceUID


def test_grey_values_are_kept_or_normalised_within_the_sector(tmp_path: Path) -> None:
    image = _case(_series(tmp_path, make())).volumes[TVUS]
    assert np.array_equal(preprocess(image, Preprocess()).array, image.volume.array)
    inside = preprocess(image, Preprocess(normalise=(TVUS,))).array[image.volume.array > 0]
    assert (inside.mean(), inside.std()) == (pytest.approx(0, abs=0.01), pytest.approx(100, rel=1e-4))


def test_uncalibrated_image_has_pixels_for_millimetres_and_says_so(tmp_path: Path) -> None:
    case = _case(_series(tmp_path, make(Picture(regions=(region(units=(0, 0)),)))))
    assert case.frame is not None and case.frame.spacing_mm is None
    assert case.volumes[TVUS].volume.spacing == (1.0, 1.0, 1.0)
    assert "not calibrated in cm: no millimetres" in case.volumes[TVUS].reason


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ((make(Picture(colour="doppler")),), r"no B-mode ultrasound image found: image 1: .* coloured: Doppler"),
        ((make(Picture(regions=(region(spatial_format=3, data_type=3),))),), "it declares a PW spectral Doppler region"),
        (tuple(make(Picture(number=n, colour="doppler")) for n in (1, 2, 3)), r"grey B-mode \(and 2 more images\)$"),
        (tuple(mr.make_series(replace(mr.T1W, shape=(6, 8, 8)))), "^no B-mode ultrasound image found$"),
    ],
)
def test_study_without_bmode_is_refused_in_a_few_sentences(tmp_path: Path, images: tuple[Dataset, ...], words: str) -> None:
    series = _series(tmp_path, *images)
    with pytest.raises(MissingSequence, match=words):
        choose(series, SPEC)
    job = _job(series)
    assert job is not None and job.order.refusal is not None and job.order.refusal.code == "MISSING_SEQUENCE"


def test_everything_that_is_missing_is_named(tmp_path: Path) -> None:
    series = _series(tmp_path, make(Picture(colour="doppler")))
    with pytest.raises(MissingSequence, match="no T1W series found; no B-mode ultrasound image found"):
        choose(series, replace(SPEC, required=(SeriesRole.T1W, TVUS)))
    assert "ultrasound, of which the study's best image counts" in describe_found(series)[0]


def test_outlines_that_name_no_tumour_refuse_the_study_until_the_system_knows_the_name(tmp_path: Path) -> None:
    image = make()
    outlines = [Outline(image, rectangle(110, 130, 130, 150), label=label) for label in ("Bladder", "Mass")]
    series = _series(tmp_path, image, make_report(*outlines))
    with pytest.raises(MissingRoi, match='"Bladder", "Mass"'):
        choose(series, replace(SPEC, roi_names=()))
    assert _case(series).roi is not None


def test_order_names_the_image_and_the_worker_reads_the_same_case(tmp_path: Path) -> None:
    marked = make(Picture(number=1, frames=3))
    images = [marked, make(Picture(number=2)), make_report(Outline(marked, ELLIPSE, kind="ELLIPSE", frame=2))]
    series = _series(tmp_path, *images)
    job = _job(series)
    assert job is not None
    order = JobOrder.model_validate_json(job.order.model_dump_json())
    (chosen,) = order.chosen
    assert (chosen.role, chosen.sop_instance_uids) == (TVUS, (marked.SOPInstanceUID,))
    assert "frame 2 of 3: the largest outlined section" in chosen.reason
    case, direct = load_case(series, _chosen(order, series), SPEC), _case(series)
    assert case.frame is not None and case.roi is not None and direct.roi is not None
    assert case.frame.frame_number == 2 and case.volumes[TVUS].reason == chosen.reason
    assert np.array_equal(case.volumes[TVUS].volume.array, direct.volumes[TVUS].volume.array)
    assert np.array_equal(case.roi.volume.array, direct.roi.volume.array)


def test_report_that_comes_late_makes_a_version_that_names_its_predecessor(tmp_path: Path) -> None:
    image = make()
    first = _job(_series(tmp_path, image))
    assert first is not None
    series = _series(tmp_path, image, make_report(Outline(image, ELLIPSE, kind="ELLIPSE")))
    second = _job(series, [_done(first)])
    assert second is not None
    assert (second.order.version, second.order.predecessor) == (2, first.order.job_id)
    assert "READER^ONE" in second.order.chosen[0].reason
    assert _job(series, [_done(first), _done(second)]) is None


def test_study_is_predicted_from_its_outlined_frame_and_refused_without_bmode(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", SPEC, with_segmenter=False)
    marked = make(Picture(number=1, frames=3))
    write(tmp_path / "outlined", marked, make(Picture(number=2)), make_report(Outline(marked, ELLIPSE, kind="ELLIPSE", frame=2)))
    write(tmp_path / "doppler", make(Picture(colour="doppler")))
    outcomes = [
        predict(tmp_path / name, tmp_path / f"{name} out", specs=[SPEC], models_root=tmp_path / "models", station="NODE")[0].outcome
        for name in ("outlined", "doppler")
    ]
    assert [o.status for o in outcomes] == ["DONE", "REFUSED"] and outcomes[0].probability is not None
    assert "coloured: Doppler" in outcomes[1].reasons[0]
    report = max((dcmread(p) for p in (tmp_path / "outlined out").rglob("*.dcm")), key=lambda d: (d.Modality == "SR", len(d.to_json())))
    frames = {
        (i.ReferencedSOPInstanceUID, i.get("ReferencedFrameNumber")) for d in _items(report) for i in d.get("ReferencedSOPSequence", [])
    }
    assert (marked.SOPInstanceUID, 2) in frames
    assert "READER^ONE" in report.to_json()


def _items(d: Dataset) -> list[Dataset]:
    return [d, *(inner for e in d if e.VR == "SQ" for item in e.value for inner in _items(item))]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    images = [make(Picture(number=1)), make(Picture(number=2, series=2)), make(Picture(number=3, series=2, colour="caliper"))]
    outlines = [Outline(i, rectangle(110, 130, 110 + n, 130 + n)) for i, n in zip(images, (20, 30, 40), strict=True)]
    older = make_report(Outline(images[0], ELLIPSE, kind="ELLIPSE"), number=1, time="100000")
    return write(tmp_path_factory.mktemp("us"), *images, older, make_report(*outlines, number=2))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_order_of_arrival_and_duplicates_change_neither_order_nor_volume(files: list[Path], data: st.DataObject) -> None:
    arrived = read_series([*data.draw(st.permutations(files)), *data.draw(st.lists(st.sampled_from(files), max_size=3))])
    expected = read_series(files)
    one, other = _job(arrived), _job(expected)
    assert one is not None and other is not None and (one.key, one.order) == (other.key, other.order)
    case, reference = _case(arrived), _case(expected)
    assert np.array_equal(case.volumes[TVUS].volume.array, reference.volumes[TVUS].volume.array)
    assert case.roi is not None and case.roi.volume.array.sum() == 40 * 40
