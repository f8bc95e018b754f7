"""The studies that the viewers are shown: a folder each, with ``sources`` and ``objects``, and what must be seen of them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.uid import generate_uid

from pipelines.imaging.series import find_dicom_files
from pipelines.phantoms.dicom import write_study
from pipelines.types import Refusal
from structured_reports.context import Predecessor
from tests import mr, us
from tests.e2e import servers
from tests.results import SEQUENCES, make_prediction, make_result, make_ultrasound, save_objects

CHINESE_NAME = "王^小东"
REFUSAL = Refusal(
    "olnm_mri",
    "Occult lymph node metastasis (MRI)",
    "MISSING_SEQUENCE",
    ("no T2W_FS series found",),
    ('series 2 "t1_tse_tra" (MR, 16 images): T1W',),
)
FAILURE = replace(REFUSAL, code="INTERNAL", reasons=("internal error: MemoryError",), failed=True)
UNREADABLE = Refusal(
    "plnm_us",
    "Pelvic lymph node metastasis (ultrasound)",
    "MISSING_ROI",
    ("the largest region is 3 mm across, outside 8 to 70 mm",),
    ('series 1 "US transvaginal" (US, 1 image): TVUS',),
)
ULTRASOUND = {
    "still": us.Picture(series=1),
    "cine": us.Picture(series=2, frames=3, lesion_scale=(0.6, 1.0, 0.7)),
    "uncalibrated": us.Picture(series=3, regions=()),
}


@dataclass(frozen=True)
class Case:
    """One study: ``objects`` are our results by name (sr, gfx, seg, sc1, ...), ``sources`` the images that they rest on.

    What lies in a folder of its own, a later version, has its name behind: "gfx 2".
    """

    folder: Path
    objects: dict[str, Dataset]
    sources: dict[str, Dataset]

    @classmethod
    def read(cls, folder: Path) -> Case:
        """Read a folder."""
        names = {9201: "sr", 9202: "gfx", 9101: "seg"}
        objects = {}
        for path in find_dicom_files(folder / "objects"):
            d, later = pydicom.dcmread(path), path.parent.name if path.parent.name != "objects" else ""
            objects[f"{names.get(d.SeriesNumber, f'sc{d.InstanceNumber}')} {later}".strip()] = d
        images = (pydicom.dcmread(path) for path in find_dicom_files(folder / "sources"))
        return cls(folder, objects, {str(d.SOPInstanceUID): d for d in images})

    @property
    def study_instance_uid(self) -> str:
        """The study's UID."""
        return str(self.objects["sr"].StudyInstanceUID)

    @property
    def captures(self) -> list[Dataset]:
        """The captures in their order."""
        return sorted((d for name, d in self.objects.items() if name.startswith("sc")), key=lambda d: int(d.InstanceNumber))

    def description(self, name: str) -> str:
        """Return the series description of a result."""
        return str(self.objects[name].SeriesDescription)


def phantom(folder: Path) -> Case:
    """Run the shipped system, networks and all, on a synthetic pelvis."""
    study = write_study(folder / "sources", seed=7).folder
    command = [str(servers.CERVINODE), "predict", str(study), "--system", "olnm_mri", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Case.read(folder)


def chinese(folder: Path) -> Case:
    """Make a result in Chinese on a patient whose name is in GB18030."""
    identity = _identity("chinese") | {"SpecificCharacterSet": "GB18030", "PatientName": CHINESE_NAME, "StudyDescription": "盆腔MR"}
    result = make_result(**identity)
    mr.write_study(folder / "sources", tuple(SEQUENCES.values()), **identity)
    save_objects(replace(result, context=replace(result.context, language="zh")).build(), folder / "objects")
    return Case.read(folder)


def versions(folder: Path) -> Case:
    """Make two results on one region, the second in place of the first, with another probability."""
    identity = _identity("versions")
    mr.write_study(folder / "sources", tuple(SEQUENCES.values()), **identity)
    first = make_result(**identity)
    objects = first.build()
    save_objects(objects, folder / "objects")
    context = replace(first.context, version=2, predecessor=Predecessor.of(objects[-1]))
    other = make_prediction(probability=0.3021, call="negative", interval=(0.21, 0.4))
    save_objects(replace(first, prediction=other, context=context).build(), folder / "objects" / "2")
    return Case.read(folder)


def refused(folder: Path) -> Case:
    """Make a refusal."""
    identity = _identity("refused")
    mr.write_study(folder / "sources", (mr.T1W,), **identity)
    save_objects(make_result(**identity).refuse(REFUSAL), folder / "objects")
    return Case.read(folder)


def failed(folder: Path) -> Case:
    """Make the report of an analysis that broke."""
    identity = _identity("failed")
    mr.write_study(folder / "sources", (mr.T1W,), **identity)
    save_objects(make_result(**identity).refuse(FAILURE), folder / "objects")
    return Case.read(folder)


def refused_ultrasound(folder: Path) -> Case:
    """Make a refusal of an ultrasound image."""
    picture = us.Picture(series=4, attributes=_identity("refused-us"))
    us.write(folder / "sources", us.make(picture))
    save_objects(make_ultrasound(picture).refuse(UNREADABLE), folder / "objects")
    return Case.read(folder)


def demonstration(folder: Path) -> None:
    """Run the demonstration: five systems of one study, MRI and ultrasound, and their overview."""
    done = subprocess.run([str(servers.CERVINODE), "demo", "--out", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def ultrasound(folder: Path, name: str) -> Case:
    """Make a result on one of the ultrasound pictures."""
    picture = replace(ULTRASOUND[name], attributes=_identity(name))
    us.write(folder / "sources", us.make(picture))
    save_objects(make_ultrasound(picture).build(), folder / "objects")
    return Case.read(folder)


def _identity(name: str) -> dict[str, str]:
    return {
        "StudyInstanceUID": str(generate_uid(entropy_srcs=["tests", "viewer", name])),
        "PatientID": f"VIEWER-{name.upper()}"[:16],
        "AccessionNumber": name.upper()[:16],
    }
