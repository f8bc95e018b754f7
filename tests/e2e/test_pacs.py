"""The whole chain against foreign programs: dcmtk's storescu sends, Debian's Orthanc receives, dciodvfy judges."""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, SecondaryCaptureImageStorage, SegmentationStorage

from pipelines.imaging.series import find_dicom_files
from pipelines.phantoms.dicom import write_study
from pipelines.systems import catalogue
from structured_reports.attributes import GRAPHIC_SERIES
from tests.bundles import write_bundle
from tests.e2e import servers

pytestmark = pytest.mark.slow

DCIODVFY = Path("/usr/bin/dciodvfy")
_CLOCK = {
    "InstanceCreationDate",
    "InstanceCreationTime",
    "ContentDate",
    "ContentTime",
    "SeriesDate",
    "SeriesTime",
    "DateOfSecondaryCapture",
}
_CLOCK |= {"TimeOfSecondaryCapture", "ContributionDateTime", "ObservationDateTime", "AcquisitionDate", "AcquisitionTime"}

T2_ADC_SYSTEM = """
from dataclasses import replace
from pipelines.spec import Cube, Preprocess, RoiRule
from pipelines.systems.olnm_mri import SPEC as OLNM
from pipelines.types import Code, SeriesRole

ROLES = (SeriesRole.T2W, SeriesRole.ADC)
SPEC = replace(
    OLNM, name="t2_adc", title="Test system on T2 and ADC",
    required=ROLES, b_value=None, preprocess=Preprocess(normalise=(SeriesRole.T2W,)), roi=RoiRule((SeriesRole.T2W,)),
    blocks=(
        replace(OLNM.blocks[0], roles=ROLES, image_types={"Original": {}}, classes={"shape": (), "firstorder": ()}, count=32,
                settings={"binCount": 32}),
        replace(OLNM.cnn, roles=ROLES, view=Cube(side_mm=60.0, size=60)),
    ),
)
"""


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "study"
    write_study(folder, seed=11, vendor="PHILIPS", preset="fast")
    return folder


class Site:
    """A node and an Orthanc that know each other."""

    def __init__(self, pacs: servers.Orthanc, folder: Path, port: int) -> None:
        self.pacs, self.folder, self.port = pacs, folder, port

    def wait_for(self, sop_class: str, *, count: int = 1, seconds: float = 180) -> dict[str, list[str]]:
        """Wait until the PACS has results of a class; return all results."""
        servers.wait_until(
            lambda: len(self.pacs.results().get(sop_class, [])) >= count, seconds=seconds, what=f"{count} x {sop_class}, see {self.folder}"
        )
        return self.pacs.results()

    def datasets(self) -> list[pydicom.Dataset]:
        """Return every result in the PACS."""
        found = self.pacs.results()
        return [pydicom.dcmread(io.BytesIO(self.pacs.file(i))) for ids in found.values() for i in ids]


def _tables(site_folder: Path, pacs: servers.Orthanc, port: int, **node: Any) -> dict[str, Any]:
    return {
        "node": {"port": port, "storage_root": str(site_folder / "data"), "quiet_s": 3.0, **node},
        "peers": [
            {"ae_title": "MODALITY", "host": "127.0.0.1", "port": 11113},
            {"ae_title": pacs.aet, "host": "127.0.0.1", "port": pacs.port},
        ],
        "routes": [{"from": ["MODALITY"], "systems": [node.pop("system", "olnm_mri")], "to": [pacs.aet], "wait_s": 0}],
    }


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A node in its embedded form."""
    port = servers.free_port()
    with servers.orthanc(tmp_path / "orthanc", {"CERVINODE": port, "MODALITY": 11113}) as pacs:
        config = servers.write_config(tmp_path, **_tables(tmp_path, pacs, port))
        with servers.node(config, port):
            yield Site(pacs, tmp_path, port)


def _judge(datasets: list[pydicom.Dataset], folder: Path) -> None:
    """Ask dciodvfy about every object."""
    servers.require(DCIODVFY)
    for i, dataset in enumerate(datasets):
        path = folder / f"judged-{i}.dcm"
        dataset.save_as(path)
        text = subprocess.run([str(DCIODVFY), "-new", str(path)], capture_output=True, text=True, errors="replace", check=False)
        errors = [line for line in (text.stdout + text.stderr).splitlines() if line.startswith("Error")]
        assert errors == [], f"{dataset.SOPClassUID.name}: {errors}"


def _probability_percent(sr: pydicom.Dataset) -> float:
    for group in _containers(sr):
        for item in group.get("ContentSequence", []):
            if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodeValue == "P.OLNM":
                return float(item.MeasuredValueSequence[0].NumericValue)
    raise AssertionError("the SR has no probability")


def _containers(item: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    yield item
    for child in item.get("ContentSequence", []):
        yield from _containers(child)


def _texts(item: pydicom.Dataset) -> str:
    return "\n".join(str(c.TextValue) for c in _containers(item) if c.get("ValueType") == "TEXT")


def test_study_comes_back_as_sr_seg_and_captures(site: Site, phantom: Path, tmp_path: Path) -> None:
    servers.storescu(phantom, site.pacs.port, calling="MODALITY", called="ORTHANC")
    servers.storescu(phantom, site.port, calling="MODALITY")
    results = site.wait_for(Comprehensive3DSRStorage)
    assert set(results) == {Comprehensive3DSRStorage, ComprehensiveSRStorage, SegmentationStorage, SecondaryCaptureImageStorage}
    assert len(site.pacs.get("/patients")) == len(site.pacs.get("/studies")) == 1
    datasets = site.datasets()
    source = pydicom.dcmread(find_dicom_files(phantom)[0], stop_before_pixels=True)
    for dataset in datasets:
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
            assert dataset.get(keyword) == source.get(keyword), keyword
        assert "DEMO" in dataset.SeriesDescription
    known = {str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID) for p in find_dicom_files(phantom)}
    known |= {str(d.SOPInstanceUID) for d in datasets}
    for dataset in datasets:
        referenced = {str(e.value) for e in dataset.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
        assert referenced <= known
    _judge(datasets, tmp_path)
    sr = next(d for d in datasets if d.SOPClassUID == Comprehensive3DSRStorage)
    predicted = _predict(phantom, tmp_path / "predicted")
    assert _probability_percent(sr) == pytest.approx(100 * predicted["results"][0]["probability"], abs=0.051)  # one decimal in the SR
    listed = _jobs(tmp_path / "node.toml")
    assert listed[0]["state"] == "DONE"
    assert listed[0]["outcome"]["probability"] == predicted["results"][0]["probability"]


def _predict(study: Path, out: Path) -> dict[str, Any]:
    command = [str(servers.CERVINODE), "predict", str(study), "--system", "olnm_mri", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads((out / "summary.json").read_text()))


def _jobs(config: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [str(servers.CERVINODE), "jobs", "list", "--config", str(config), "--json"], capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout))


def test_late_image_makes_a_new_version_and_noise_does_not(site: Site, phantom: Path, tmp_path: Path) -> None:
    files = find_dicom_files(phantom)
    by_series: dict[str, list[Path]] = {}
    for path in files:
        by_series.setdefault(str(pydicom.dcmread(path, stop_before_pixels=True).SeriesDescription), []).append(path)
    spair = next(paths for name, paths in by_series.items() if "spair" in name.lower())
    last = max(spair, key=lambda p: int(pydicom.dcmread(p, stop_before_pixels=True).InstanceNumber))
    early, late = tmp_path / "early", tmp_path / "late"
    for folder in (early, late):
        folder.mkdir()
    for path in files:
        name = f"{path.parent.name}-{path.name}"  # numbers alone repeat from series to series
        (late if path == last else early).joinpath(name).write_bytes(path.read_bytes())
    servers.storescu(early, site.port, calling="MODALITY")
    site.wait_for(Comprehensive3DSRStorage)
    servers.storescu(late, site.port, calling="MODALITY")
    site.wait_for(Comprehensive3DSRStorage, count=2)
    reports = sorted(
        (d for d in site.datasets() if d.SOPClassUID == Comprehensive3DSRStorage), key=lambda d: "PredecessorDocumentsSequence" in d
    )
    first, second = reports
    predecessor = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert predecessor == first.SOPInstanceUID
    servers.storescu(phantom, site.port, calling="MODALITY")  # all of it again: nothing new
    time.sleep(5)
    assert len(site.pacs.results()[Comprehensive3DSRStorage]) == 2


def test_distributed_form_gives_identical_objects(phantom: Path, tmp_path: Path) -> None:
    servers.require(servers.REDIS)
    embedded, distributed = tmp_path / "embedded", tmp_path / "distributed"
    objects: list[dict[str, bytes]] = []
    redis_port = servers.free_port()
    for folder in (embedded, distributed):
        folder.mkdir()
        port = servers.free_port()
        with servers.orthanc(folder / "orthanc", {"CERVINODE": port, "MODALITY": 11113}) as pacs:
            tables = _tables(folder, pacs, port, quiet_s=15.0)  # a busy machine sends with pauses
            if folder is embedded:
                with servers.node(servers.write_config(folder, **tables), port):
                    objects.append(_collect(Site(pacs, folder, port), phantom))
                continue
            tables |= {"broker": {"url": f"redis://127.0.0.1:{redis_port}/0"}, "worker": {"embedded": 0}}
            config = servers.write_config(folder, **tables)
            redis = [str(servers.REDIS), "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
            worker = [str(servers.CERVINODE), "worker", "--config", str(config)]
            with servers.process(redis, folder / "redis.log"), servers.node(config, port), servers.process(worker, folder / "worker.log"):
                objects.append(_collect(Site(pacs, folder, port), phantom))
    assert objects[0].keys() == objects[1].keys() and len(objects[0]) > 5
    for uid in objects[0]:
        assert objects[0][uid] == objects[1][uid], uid


def _collect(site: Site, study: Path) -> dict[str, bytes]:
    """Return the results by what they are, encoded without dates, times and UIDs of their own: two nodes work at two times.

    The segmentation stays as it is: it is the same object whoever makes it.
    """
    servers.storescu(study, site.port, calling="MODALITY")
    site.wait_for(Comprehensive3DSRStorage)
    datasets, collected = site.datasets(), {}
    own = [d for d in datasets if d.SOPClassUID != SegmentationStorage]
    places = {d.SOPInstanceUID: f"{d.SeriesNumber}.{d.InstanceNumber}" for d in own}
    places |= {d.SeriesInstanceUID: str(d.SeriesNumber) for d in own}
    places |= {uid: f"{GRAPHIC_SERIES}.0" for d in own if d.SeriesNumber == GRAPHIC_SERIES for uid in _tracking_uids(d)}
    for dataset in datasets:
        name = places.get(dataset.SOPInstanceUID, str(dataset.SOPInstanceUID))
        for element in dataset.iterall() if dataset.SOPInstanceUID in places else ():
            if element.keyword in _CLOCK:
                element.value = ""
            elif element.VR == "UI" and element.value in places:
                element.value = places[element.value]
        buffer = io.BytesIO()
        pydicom.Dataset(dataset).save_as(buffer, implicit_vr=False, little_endian=True)
        collected[name] = buffer.getvalue()
    return collected


def _tracking_uids(report: pydicom.Dataset) -> Iterator[str]:
    for element in report.iterall():
        if element.keyword == "ContentSequence":
            yield from (i.UID for i in element.value if i.ValueType == "UIDREF" and i.ConceptNameCodeSequence[0].CodeValue == "112040")


def test_real_study_without_the_sequences_is_refused_with_reasons(site: Site, real_pelvis: Path, phantom: Path, tmp_path: Path) -> None:
    servers.storescu(_images(real_pelvis), site.port, calling="MODALITY")
    results = site.wait_for(Comprehensive3DSRStorage)
    assert set(results) == {SecondaryCaptureImageStorage, Comprehensive3DSRStorage}
    page, sr = sorted(site.datasets(), key=lambda d: str(d.Modality))
    text = _texts(sr)
    assert "no T1W series found" in text
    assert "no T2W_FS series found" in text
    assert "t2_tse_tra" in text
    assert sr.PatientID == "ProstateX-0001"
    _judge([page, sr], tmp_path)
    assert [(j["state"], j["outcome"]["code"]) for j in _jobs(tmp_path / "node.toml")] == [("REFUSED", "MISSING_SEQUENCE")]
    servers.storescu(phantom, site.port, calling="MODALITY")  # the node stays healthy
    site.wait_for(SegmentationStorage)


@pytest.mark.filterwarnings("ignore:The string .* is unlikely to represent the intended person name")
def test_real_study_runs_with_a_system_that_it_fits(real_pelvis: Path, tmp_path: Path) -> None:
    systems, models = tmp_path / "systems", tmp_path / "models"
    systems.mkdir()
    (systems / "t2_adc.py").write_text(T2_ADC_SYSTEM)
    write_bundle(models, catalogue(systems)["t2_adc"], with_segmenter=False)
    study = tmp_path / "study"
    study.mkdir()
    for path in find_dicom_files(real_pelvis):
        image = pydicom.dcmread(path)
        image.PatientSex = "F"  # the study is a man's, which a system of the cervix refuses
        image.save_as(study / f"{image.SOPInstanceUID}.dcm")
    drawn = _draw_on_t2(study)
    port = servers.free_port()
    with servers.orthanc(tmp_path / "orthanc", {"CERVINODE": port, "MODALITY": 11113}) as pacs:
        tables = _tables(tmp_path, pacs, port, systems_path=str(systems), models_root=str(models))
        tables["routes"][0]["systems"] = ["t2_adc"]
        with servers.node(servers.write_config(tmp_path, **tables), port):
            site = Site(pacs, tmp_path, port)
            servers.storescu(study, port, calling="MODALITY")
            site.wait_for(Comprehensive3DSRStorage)
            datasets = site.datasets()
    _judge(datasets, tmp_path)
    seg = next(d for d in datasets if d.SOPClassUID == SegmentationStorage)
    ours = hd.seg.Segmentation.from_dataset(seg).get_volume(combine_segments=True)
    theirs = hd.seg.segread(drawn).get_volume(combine_segments=True)
    assert ours.geometry_equal(theirs)
    assert np.array_equal(ours.array > 0, theirs.array > 0)


def _images(folder: Path) -> Path:
    """Return the folder below that holds the images; a licence text lies beside it, at which storescu would stop."""
    return next(p for p in folder.iterdir() if p.is_dir())


def _draw_on_t2(study: Path) -> Path:
    """Add a person's SEG, an ellipsoid on the oblique axial T2, and return its file."""
    headers = [pydicom.dcmread(p) for p in find_dicom_files(study)]
    t2 = sorted((d for d in headers if d.SeriesNumber == 6), key=lambda d: int(d.InstanceNumber))
    k, r, c = np.indices((len(t2), t2[0].Rows, t2[0].Columns))
    mask = (((k - 9) / 5) ** 2 + ((r - 200) / 40) ** 2 + ((c - 190) / 30) ** 2 < 1).astype(np.uint8)
    description = hd.seg.SegmentDescription(
        1, "Lesion", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm, hd.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    uid = hd.UID()
    seg = hd.seg.Segmentation(t2, mask, "BINARY", [description], hd.UID(), 900, uid, 1, "Reader", "Workstation", "1", "1")
    path = study / f"{uid}.dcm"
    seg.save_as(path)
    return path
