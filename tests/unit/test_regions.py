"""Regions that people drew: which object, which segment, whose, and where."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from pipelines.errors import InputError, MissingRoi
from pipelines.imaging.geometry import build_volume, to_sitk
from pipelines.imaging.regions import find_roi
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.types import Choice, ImageVolume, Roi, RoiOrigin, SeriesRole
from tests import mr

SOURCES = mr.make_series(mr.T2W_FS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return mr.write_study(tmp_path, (mr.T2W_FS,))


def _box(low: int, high: int) -> np.ndarray:
    mask = np.zeros(mr.T2W_FS.shape, dtype=np.uint8)
    mask[low:high, 30:50, 34:52] = 1
    return mask


def _write(folder: Path, pixels: np.ndarray, *labels: str, sources: list[Dataset] = SOURCES, **options: object) -> hd.seg.Segmentation:
    kinds = options.pop("kinds", [codes.SCT.Tissue] * len(labels))
    attributes = options.pop("attributes", {})
    how = str(options.pop("how", "MANUAL"))
    algorithm = None
    if how != "MANUAL":
        algorithm = hd.AlgorithmIdentificationSequence(name="draws", family=codes.DCM.ArtificialIntelligence, version="1")
    described = [
        hd.seg.SegmentDescription(i + 1, label, codes.SCT.MorphologicallyAbnormalStructure, kind, how, algorithm_identification=algorithm)
        for i, (label, kind) in enumerate(zip(labels, kinds, strict=True))  # type: ignore[call-overload]
    ]
    kind = options.pop("kind", "BINARY")
    seg = hd.seg.Segmentation(sources, pixels, kind, described, hd.UID(), 900, hd.UID(), 1, "Reader", "Workstation", "1", "1", **options)
    for keyword, value in attributes.items():  # type: ignore[attr-defined]
        setattr(seg, keyword, value)
    seg.save_as(folder / f"seg-{seg.SOPInstanceUID}.dcm")
    return seg


def _volumes(folder: Path) -> dict[SeriesRole, ImageVolume]:
    (series,) = [s for s in read_series(find_dicom_files(folder)) if s.header.modality == "MR"]
    return {SeriesRole.T2W_FS: build_volume(Choice(SeriesRole.T2W_FS, series.header, series.instances, 1, ""))}


def _find(folder: Path, *names: str) -> Roi | None:
    return find_roi(read_series(find_dicom_files(folder)), _volumes(folder), names=names)


def test_label_map_segment_is_chosen_by_code(folder: Path) -> None:
    labels = _box(3, 6) * 1 + _box(8, 12) * 2
    _write(folder, labels, "Uterus", "second", kinds=[codes.SCT.Tissue, codes.SCT.Neoplasm], kind="LABELMAP")
    roi = _find(folder)
    assert roi is not None
    assert np.array_equal(roi.volume.array, _box(8, 12))
    assert roi.description == 'SEG segment 2 "second", drawn by hand'
    assert roi.segment_algorithm_type == "MANUAL"


def test_fractional_segment_is_cut_at_half(folder: Path) -> None:
    _write(folder, _box(3, 7) * 0.7 + _box(9, 11) * 0.3, "Tumour", kind="FRACTIONAL", max_fractional_value=200)
    roi = _find(folder)
    assert roi is not None
    assert np.array_equal(roi.volume.array, _box(3, 7))


@pytest.mark.parametrize("slices", [(5, 6), (0, 1)])
def test_single_slice_and_gaps_lie_where_they_were_drawn(folder: Path, slices: tuple[int, int]) -> None:
    _write(folder, _box(*slices), "Tumour")
    assert np.array_equal(_find(folder).volume.array, _box(*slices))  # type: ignore[union-attr]


def test_segment_of_two_pieces_keeps_the_gap(folder: Path) -> None:
    _write(folder, _box(2, 4) + _box(9, 11), "Tumour")
    assert np.array_equal(_find(folder).volume.array, _box(2, 4) + _box(9, 11))  # type: ignore[union-attr]


def test_configured_name_comes_before_code_and_words(folder: Path) -> None:
    both = np.stack([_box(2, 4), _box(8, 10)], axis=-1)
    _write(folder, both, "Tumour", "HRCTV", kinds=[codes.SCT.Neoplasm, codes.SCT.Tissue])
    assert _find(folder, "hrctv").description.startswith('SEG segment 2 "HRCTV"')  # type: ignore[union-attr]
    assert _find(folder).description.startswith('SEG segment 1 "Tumour"')  # type: ignore[union-attr]


def test_nodes_are_not_taken_for_the_tumour(folder: Path) -> None:
    _write(folder, np.stack([_box(2, 4), _box(8, 10)], axis=-1), "GTV-N left", "GTV-T")
    assert '"GTV-T"' in _find(folder).description  # type: ignore[union-attr]


def test_single_organ_is_no_tumour(folder: Path) -> None:
    _write(folder, _box(4, 6), "Bladder")
    with pytest.raises(MissingRoi, match='no segment that names a tumour: "Bladder"'):
        _find(folder)


def test_organ_drawn_later_does_not_hide_the_tumour(folder: Path) -> None:
    _write(folder, _box(4, 9), "Tumor", attributes={"ContentDate": "20260101"})
    _write(folder, _box(4, 6), "Bladder", attributes={"ContentDate": "20260201"})
    roi = _find(folder)
    assert roi is not None
    assert '"Tumor"' in roi.description


def test_two_tumours_are_not_guessed_between(folder: Path) -> None:
    _write(folder, np.stack([_box(2, 4), _box(8, 10)], axis=-1), "Tumour old", "Tumour new")
    with pytest.raises(MissingRoi, match=r'2 segments that name a tumour.*"Tumour old", "Tumour new"'):
        _find(folder)
    assert np.array_equal(_find(folder, "Tumour new").volume.array, _box(8, 10))  # type: ignore[union-attr]


def test_newest_wins_and_ours_never_does(folder: Path) -> None:
    _write(folder, _box(2, 4), "Tumour", attributes={"ContentDate": "20260103", "ContentTime": "080000"})
    later = _write(folder, _box(8, 10), "Tumour", attributes={"ContentDate": "20260103", "ContentTime": "170000"}, how="AUTOMATIC")
    _write(folder, _box(5, 6), "Tumour", attributes={"ContentDate": "20270101", "ManufacturerModelName": "Cervinode"})
    roi = _find(folder)
    assert roi is not None
    assert (roi.origin, roi.source_sop_instance_uid) == (RoiOrigin.SEG, later.SOPInstanceUID)
    assert roi.description.endswith("drawn by other software")
    assert roi.segment_algorithm_type == "AUTOMATIC"
    assert np.array_equal(roi.volume.array, _box(8, 10))


def test_region_of_another_frame_or_study_is_refused(folder: Path) -> None:
    far = mr.make_series(mr.T2W_FS, FrameOfReferenceUID=generate_uid())
    seg = _write(folder, _box(2, 4), "Tumour", sources=far)
    with pytest.raises(MissingRoi, match=f"lies in frame of reference {far[0].FrameOfReferenceUID}, the images in"):
        _find(folder)
    (folder / f"seg-{seg.SOPInstanceUID}.dcm").unlink()
    _write(folder, _box(2, 4), "Tumour", attributes={"StudyInstanceUID": generate_uid()})
    with pytest.raises(InputError, match="belongs to another study"):
        _find(folder)


def test_region_beside_the_images_or_unreadable_is_refused(folder: Path) -> None:
    beside = mr.make_series(mr.T2W_FS, SeriesInstanceUID=generate_uid())
    for d in beside:
        d.ImagePositionPatient = [v + 900 for v in d.ImagePositionPatient]
    seg = _write(folder, _box(2, 4), "Tumour", sources=beside)
    with pytest.raises(MissingRoi, match="marks nothing within the images"):
        _find(folder)
    path = folder / f"seg-{seg.SOPInstanceUID}.dcm"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(MissingRoi, match=r"SEG .* cannot be read"):
        _find(folder)


@pytest.mark.parametrize(
    ("seg", "images", "reference"),
    [
        ("liver.dcm", "ct-3slice", "liver_seg.nrrd"),
        ("sparse-labelmap-ppv5.dcm", "24x38x3/image", None),
        ("24x38x3/seg/label.seg", "24x38x3/image", "24x38x3/nrrd/label.nrrd"),
        ("23x38x3/seg/label.seg", "23x38x3/image", "23x38x3/nrrd/label.nrrd"),
    ],
)
def test_real_segmentations_lie_where_their_makers_say(shared_data: Path, seg: str, images: str, reference: str | None) -> None:
    folder = shared_data / "sr_seg_dcmqi" / "segmentations"
    (series,) = read_series(find_dicom_files(folder / images))
    image = build_volume(Choice(SeriesRole.T2W_FS, series.header, series.instances, 1, ""))
    roi = find_roi(read_series([folder / seg]), {SeriesRole.T2W_FS: image})
    assert roi is not None
    assert roi.description == 'SEG segment 1 "Liver", drawn semi-automatically'
    assert roi.segment_algorithm_type == "SEMIAUTOMATIC"
    if reference is None:
        assert roi.volume.array.any()
    else:
        drawn = sitk.Resample(sitk.ReadImage(str(folder / reference)), to_sitk(image.volume), sitk.Transform(), sitk.sitkNearestNeighbor)
        assert np.array_equal(sitk.GetArrayFromImage(drawn) > 0, roi.volume.array > 0)


def test_real_segmentation_without_a_tumour_is_refused_by_its_labels(shared_data: Path) -> None:
    folder = shared_data / "sr_seg_dcmqi" / "segmentations"
    (series,) = read_series(find_dicom_files(folder / "ct-3slice"))
    image = build_volume(Choice(SeriesRole.T2W_FS, series.header, series.instances, 1, ""))
    with pytest.raises(MissingRoi, match='"GREEN", "ORANGE", "PURPLE"'):
        find_roi(read_series([folder / "partial_overlaps.dcm"]), {SeriesRole.T2W_FS: image})
