"""Everything that real scanners and readers left in ../shared/data goes through a node; and so do thousands of damaged headers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import Verification

from node.app import App, build
from node.config import Settings
from node.dicom.scu import Address, Answer, Sent, send
from node.jobs import FINAL, JobState
from pipelines.errors import InputError
from pipelines.imaging.series import find_dicom_files
from tests.e2e.conftest import Pacs
from tests.e2e.servers import wait_until
from tests.e2e.test_scp import send_bytes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]
FOLDERS = ["mr_adc_ge", "mr_dwi_ge", "mr_dwi_uih", "mr_enhanced", "mr_pelvis_prostatex0001"]
FOLDERS += ["sr_seg_dcmqi", "sr_seg_highdicom", "us", "us_mr_pydicom"]
ANSWERS = {0x0000, 0x0110, 0x0111, 0xA700, 0xA900, 0xC000}


@pytest.fixture
def app(settings: Settings, pacs: Pacs) -> Iterator[App]:
    pacs.start()
    made = build(settings)
    made.start()
    yield made
    made.stop()


def _send_each(app: App, files: list[Path]) -> dict[Path, Sent]:
    """Send file by file: one that cannot be sent must not keep the others back."""
    answers = {}
    for path in files:
        try:
            (answers[path],) = send([path], Address("CERVINODE", "127.0.0.1", app.port), calling_ae_title="SCANNER", timeout_s=20)
        except InputError:
            continue  # no file meta information: no SCU could send it
    return answers


@pytest.mark.parametrize("folder", FOLDERS)
def test_real_studies_are_taken_and_answered(app: App, pacs: Pacs, shared_data: Path, folder: str) -> None:
    files = find_dicom_files(shared_data / folder)
    answers = _send_each(app, files)
    refused = {path.name: sent.detail for path, sent in answers.items() if sent.answer is not Answer.ACCEPTED}
    expected = ("0xC000", "0xA900", "does not accept", "must not exceed 64 characters", "it has no SOPClassUID")
    assert all(any(words in detail for words in expected) for detail in refused.values()), refused
    kept = [path for path, sent in answers.items() if sent.answer is Answer.ACCEPTED]
    assert len(kept) >= 0.8 * len(files), refused
    studies = {str(pydicom.dcmread(path, specific_tags=["StudyInstanceUID"]).StudyInstanceUID) for path in kept}
    wait_until(lambda: _planned(app, studies), seconds=120, what=f"every study of {folder} is answered")
    for job in app.ledger.jobs():
        assert job.state is JobState.REFUSED, job.detail
        assert job.outcome is not None
        assert job.outcome.code in ("MISSING_SEQUENCE", "MIXED_PATIENTS"), job.outcome
        assert job.outcome.reasons
    reported = {str(d.StudyInstanceUID) for d in pacs.received}
    assert reported == {job.order.study_instance_uid for job in app.ledger.jobs()}


def _planned(app: App, studies: set[str]) -> bool:
    jobs = app.ledger.jobs()
    return {j.order.study_instance_uid for j in jobs} >= studies and all(j.state in FINAL for j in jobs)


def test_damaged_headers_never_stop_the_listener(app: App, make_study: Callable[..., list[Dataset]]) -> None:
    """Three thousand data sets with changed, removed and inserted bytes: each gets an answer, and the next echo too."""
    (whole,) = make_study(1)
    encoded = encode(whole, False, True)
    assert encoded is not None
    header = encoded.index(whole.PixelData[:64]) - 12
    rng = np.random.default_rng(5)
    association = _associate(app)
    seen = set()
    for number in range(3000):
        if not association.is_established:
            association = _associate(app)
        seen.add(send_bytes(association, _damage(encoded, header, rng), sop_instance_uid=str(whole.SOPInstanceUID)))
        if number % 500 == 0:
            assert association.send_c_echo().Status == 0x0000
    association.release()
    assert seen <= ANSWERS
    assert {0x0000, 0xA900, 0xC000} <= seen


def _damage(encoded: bytes, header: int, rng: np.random.Generator) -> bytes:
    damaged = bytearray(encoded)
    for _ in range(int(rng.integers(1, 6))):
        at, kind = int(rng.integers(0, header)), int(rng.integers(0, 3))
        if kind == 0:
            damaged[at] = int(rng.integers(0, 256))
        elif kind == 1:
            del damaged[at : at + int(rng.integers(1, 9))]
        else:
            damaged[at:at] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(damaged)


def _associate(app: App) -> Any:
    ae = AE("SCANNER")
    ae.add_requested_context(MRImageStorage, [ExplicitVRLittleEndian])
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", app.port, ae_title="CERVINODE")
    assert association.is_established
    return association
