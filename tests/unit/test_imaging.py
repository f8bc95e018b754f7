"""Series, roles, b-values and regions, on a real study and on small ones made in code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from pipelines.errors import InputError, MissingRoi, MissingSequence
from pipelines.imaging.diffusion import b_value
from pipelines.imaging.geometry import build_volume, centroid, to_sitk
from pipelines.imaging.intensity import body_mask, preprocess
from pipelines.imaging.regions import find_roi
from pipelines.imaging.sequences import choose, classify, describe_found
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.systems import catalogue
from pipelines.types import RoiOrigin, SeriesRole
from tests import mr

SPEC = catalogue()["olnm_mri"]


def test_real_study_roles(real_pelvis: Path) -> None:
    roles = {s.header.series_number: classify(s).role for s in read_series(find_dicom_files(real_pelvis))}
    assert roles == {4: "T2W", 6: "T2W", 7: "DWI", 8: "ADC", 9: None}


def test_real_study_b_values_come_from_private_bytes(real_pelvis: Path) -> None:
    dwi = next(s for s in read_series(find_dicom_files(real_pelvis)) if s.header.series_number == 7)
    assert dwi.header.b_values == (50.0, 400.0, 800.0)


def test_real_study_prefers_axial_and_splits_b(real_pelvis: Path) -> None:
    spec = replace(SPEC, required=(SeriesRole.T2W, SeriesRole.DWI))
    chosen = choose(read_series(find_dicom_files(real_pelvis)), spec)
    assert chosen[SeriesRole.T2W].header.series_number == 6
    assert len(chosen[SeriesRole.DWI].instances) == 19
    assert {b_value(d) for d in chosen[SeriesRole.DWI].instances} == {800.0}
    assert build_volume(chosen[SeriesRole.DWI]).volume.spatial_shape == (19, 128, 84)


def test_real_study_lacks_what_olnm_needs(real_pelvis: Path) -> None:
    series = read_series(find_dicom_files(real_pelvis))
    with pytest.raises(MissingSequence, match="no T1W series found; no T2W_FS series found"):
        choose(series, SPEC)
    assert any('9 "ep2d_diff_tra_DYNDIST_MIXCALC_BVAL"' in line and "calculated" in line for line in describe_found(series))


@pytest.mark.parametrize(
    ("folder", "b"),
    [("mr_dwi_ge", 1000.0)],
)
def test_vendor_b_values(shared_data: Path, folder: str, b: float) -> None:
    series = read_series(find_dicom_files(shared_data / folder))
    assert max(v for s in series for v in s.header.b_values) == b


def _private(creator: str, group: int, element: int, vr: str, value: object) -> Dataset:
    d = Dataset()
    d.private_block(group, creator, create=True).add_new(element, vr, value)
    return d


def test_b_value_of_each_dialect() -> None:
    assert b_value(_private("SIEMENS MR HEADER", 0x0019, 0x0C, "UN", b"400 ")) == 400
    assert b_value(_private("SIEMENS MR HEADER", 0x0019, 0x0C, "IS", "800")) == 800
    assert b_value(_private("GEMS_PARM_01", 0x0043, 0x39, "IS", [1_000_000_800, 8, 0, 0])) == 800
    assert b_value(_private("Philips Imaging DD 001", 0x2001, 0x03, "FL", 800.0)) == 800
    assert b_value(_private("Philips Imaging DD 001", 0x2001, 0x03, "FL", 1.0)) == 0
    assert b_value(_private("SOMEONE ELSE", 0x0019, 0x0C, "IS", "800")) is None
    assert b_value(Dataset()) is None


def test_roles_by_physics_not_by_name(tmp_path: Path) -> None:
    misnamed = replace(mr.T2W_FS, description="AX T1 PRE")
    series = read_series(find_dicom_files(mr.write_study(tmp_path, (misnamed, mr.T1W, mr.DWI_B0, mr.DWI_B800))))
    chosen = choose(series, SPEC)
    assert chosen[SeriesRole.T2W_FS].header.description == "AX T1 PRE"
    assert "ScanOptions FS" in chosen[SeriesRole.T2W_FS].reason
    assert chosen[SeriesRole.T1W].header.description == "t1_tse_tra"


def test_repeated_series_takes_the_later_one(tmp_path: Path) -> None:
    again = replace(mr.T1W, number=12)
    series = read_series(find_dicom_files(mr.write_study(tmp_path, (*mr.OLNM_STUDY, again))))
    assert choose(series, SPEC)[SeriesRole.T1W].header.series_number == 12


def test_contrast_agent_makes_it_ce(tmp_path: Path) -> None:
    after = replace(mr.T1W, attributes={"ContrastBolusAgent": "Gd"})
    series = read_series(find_dicom_files(mr.write_study(tmp_path, (after,))))
    assert classify(series[0]).role is SeriesRole.CE_T1W


def test_b_far_from_the_wanted_is_missing(tmp_path: Path) -> None:
    low = replace(mr.DWI_B800, attributes={"ScanningSequence": "EP", "DiffusionBValue": 400.0})
    series = read_series(find_dicom_files(mr.write_study(tmp_path, (mr.T1W, mr.T2W_FS, mr.DWI_B0, low))))
    with pytest.raises(MissingSequence, match="no DWI with b near 800 s/mm2"):
        choose(series, SPEC)


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    whole = next(mr.write_study(tmp_path).iterdir())
    (tmp_path / "broken.dcm").write_bytes(whole.read_bytes()[:420])
    with pytest.raises(InputError, match=r"broken\.dcm"):
        read_series(find_dicom_files(tmp_path))


def test_folder_without_dicom_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(InputError, match="holds no DICOM file"):
        find_dicom_files(tmp_path)


def test_rtstruct_contours_become_the_mask(tmp_path: Path) -> None:
    folder = mr.write_study(tmp_path)
    _write_rtstruct(folder, radius_mm=10.0)
    series = read_series(find_dicom_files(folder))
    volumes = {role: build_volume(c) for role, c in choose(series, SPEC).items()}
    roi = find_roi(series, volumes)
    assert roi is not None
    assert (roi.origin, roi.segment_algorithm_type) == (RoiOrigin.RTSTRUCT, "")
    assert roi.role is SeriesRole.T2W_FS
    assert np.allclose(centroid(roi.volume), mr.CENTRE_MM, atol=0.3)
    area = roi.volume.array.sum(axis=(1, 2)).max() * np.prod(roi.volume.spacing[1:])
    assert area == pytest.approx(np.pi * 10.0**2 * (1 - 0.5**2), rel=0.06)  # pixels of 1.6 mm; the hole has half the radius
    assert np.flatnonzero(roi.volume.array.any(axis=(1, 2))).tolist() == [6, 7, 8, 9]


def test_rtstruct_in_another_frame_is_refused(tmp_path: Path) -> None:
    folder = mr.write_study(tmp_path)
    _write_rtstruct(folder, radius_mm=10.0, frame="1.2.3")
    series = read_series(find_dicom_files(folder))
    volumes = {role: build_volume(c) for role, c in choose(series, SPEC).items()}
    with pytest.raises(MissingRoi, match=r"frame of reference 1\.2\.3"):
        find_roi(series, volumes)


def _write_rtstruct(folder: Path, *, radius_mm: float, frame: str = mr.FRAME_OF_REFERENCE) -> None:
    """Circles with a round hole on slices 6 to 9 of the fat-suppressed T2."""
    sources = mr.make_series(mr.T2W_FS)
    along_row, down_column, normal = mr.orientation(mr.T2W_FS.tilt_deg)
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    contours = []
    for k in range(6, 10):
        middle = mr.CENTRE_MM + normal * (k - 7.5) * mr.T2W_FS.spacing_mm[0]
        for radius in (radius_mm, radius_mm / 2):
            points = middle + radius * (np.cos(angles)[:, None] * along_row + np.sin(angles)[:, None] * down_column)
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
            contours.append(contour)
    d = Dataset()
    d.SOPClassUID, d.SOPInstanceUID, d.Modality = RTStructureSetStorage, generate_uid(), "RTSTRUCT"
    d.StudyInstanceUID, d.SeriesInstanceUID, d.StructureSetDate = mr.STUDY, generate_uid(), "20260102"
    structure = Dataset()
    structure.ROINumber, structure.ROIName, structure.ReferencedFrameOfReferenceUID = 1, "GTV cervix", frame
    d.StructureSetROISequence = DicomSequence([structure])
    roi = Dataset()
    roi.ReferencedROINumber, roi.ContourSequence = 1, DicomSequence(contours)
    d.ROIContourSequence = DicomSequence([roi])
    referenced_series, referenced_study, referenced_frame = Dataset(), Dataset(), Dataset()
    referenced_series.SeriesInstanceUID = sources[0].SeriesInstanceUID if frame == mr.FRAME_OF_REFERENCE else "1.2.3.4"
    referenced_study.RTReferencedSeriesSequence = DicomSequence([referenced_series])
    referenced_frame.RTReferencedStudySequence = DicomSequence([referenced_study])
    d.ReferencedFrameOfReferenceSequence = DicomSequence([referenced_frame])
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    d.save_as(folder / "rtstruct.dcm", enforce_file_format=True)


def test_preprocessing_removes_a_bias_field_and_scales(tmp_path: Path) -> None:
    image = build_volume(choose(read_series(find_dicom_files(mr.write_study(tmp_path))), SPEC)[SeriesRole.T1W])
    ramp = np.linspace(0.6, 1.6, image.volume.spatial_shape[2], dtype=np.float32)
    biased = replace(image, volume=image.volume.with_array(image.volume.array * ramp))
    body = _body(image)
    tissue = body & (image.volume.array < 350)
    corrected = preprocess(biased, SPEC.preprocess)
    inside = corrected.array[body]
    assert inside.mean() == pytest.approx(0.0, abs=15)
    assert inside.std() == pytest.approx(100.0, rel=0.15)
    columns = np.broadcast_to(np.arange(ramp.size), tissue.shape)[tissue]
    assert abs(np.corrcoef(columns, corrected.array[tissue])[0, 1]) < 0.5 * abs(np.corrcoef(columns, biased.volume.array[tissue])[0, 1])


def _body(image: object) -> np.ndarray:
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(body_mask(to_sitk(image.volume))) > 0  # type: ignore[attr-defined]


def test_adc_is_never_normalised(real_pelvis: Path) -> None:
    spec = replace(SPEC, required=(SeriesRole.ADC,))
    image = build_volume(choose(read_series(find_dicom_files(real_pelvis)), spec)[SeriesRole.ADC])
    assert np.array_equal(preprocess(image, spec.preprocess).array, image.volume.array)
