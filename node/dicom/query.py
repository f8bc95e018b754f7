"""Ask a peer what belongs to a study (C-FIND) and have it send us what is missing (C-MOVE), by the Study Root model (PS3.4 C.6.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelMove

from node.dicom.scu import Address, associate, describe, make_ae, release
from pipelines.errors import TransportError
from pipelines.types import as_float

_PENDING = {0xFF00, 0xFF01}  # PS3.4 C.4.1.1.4, C.4.2.1.5
_SUCCESS = 0x0000


@dataclass(frozen=True, slots=True)
class AnnouncedSeries:
    """A series that a peer has; ``n_instances`` is ``None`` where it does not say how many instances."""

    series_instance_uid: str
    description: str
    n_instances: int | None


def find_series(peer: Address, study_instance_uid: str, *, calling_ae_title: str, timeout_s: float) -> list[AnnouncedSeries]:
    """Return the series of a study that a peer has, none if it does not know the study (C-FIND at SERIES level).

    Raises
    ------
    TransportError
        The peer cannot be reached, does not support it, or answers with a failure.
    """
    wanted = _identifier("SERIES", StudyInstanceUID=study_instance_uid)
    wanted.SeriesInstanceUID = wanted.SeriesDescription = wanted.Modality = ""
    wanted.NumberOfSeriesRelatedInstances = None
    answers = _find(peer, wanted, calling_ae_title=calling_ae_title, timeout_s=timeout_s)
    return [
        AnnouncedSeries(
            series_instance_uid=str(answer.get("SeriesInstanceUID", "")),
            description=str(answer.get("SeriesDescription", "")),
            n_instances=_count(answer.get("NumberOfSeriesRelatedInstances")),
        )
        for answer in answers
    ]


def count_instances(peer: Address, study_instance_uid: str, series_instance_uid: str, *, calling_ae_title: str, timeout_s: float) -> int:
    """Return how many instances of a series a peer has (C-FIND at IMAGE level).

    Raises
    ------
    TransportError
        The peer cannot be reached, does not support it, or answers with a failure.
    """
    wanted = _identifier("IMAGE", StudyInstanceUID=study_instance_uid, SeriesInstanceUID=series_instance_uid)
    wanted.SOPInstanceUID = ""
    answers = _find(peer, wanted, calling_ae_title=calling_ae_title, timeout_s=timeout_s)
    return len({str(answer.get("SOPInstanceUID", "")) for answer in answers} - {""})


def move_series(
    peer: Address, study_instance_uid: str, series_instance_uids: Iterable[str], *, calling_ae_title: str, timeout_s: float
) -> None:
    """Have a peer send series to ``calling_ae_title``, ourselves, which it must know as a destination (C-MOVE).

    Raises
    ------
    TransportError
        The peer cannot be reached, does not support it, or could not send everything.
    """
    model = StudyRootQueryRetrieveInformationModelMove
    association = _open(peer, model, calling_ae_title, timeout_s)
    try:
        for uid in series_instance_uids:
            wanted = _identifier("SERIES", StudyInstanceUID=study_instance_uid, SeriesInstanceUID=uid)
            for status, _ in association.send_c_move(wanted, calling_ae_title, model):
                _check(status, peer, "C-MOVE")
    except (RuntimeError, ValueError) as error:
        raise TransportError(f"{peer}: {error}") from error
    finally:
        release(association)


def _find(peer: Address, wanted: Dataset, *, calling_ae_title: str, timeout_s: float) -> list[Dataset]:
    model = StudyRootQueryRetrieveInformationModelFind
    association = _open(peer, model, calling_ae_title, timeout_s)
    try:
        return list(_matches(association.send_c_find(wanted, model), peer))
    except (RuntimeError, ValueError) as error:
        raise TransportError(f"{peer}: {error}") from error
    finally:
        release(association)


def _matches(answers: Iterable[tuple[Any, Dataset | None]], peer: Address) -> Iterator[Dataset]:
    for status, identifier in answers:
        _check(status, peer, "C-FIND")
        if identifier is not None:
            yield identifier


def _open(peer: Address, model: str, calling_ae_title: str, timeout_s: float) -> Any:
    ae = make_ae(calling_ae_title, timeout_s)
    ae.add_requested_context(model)
    association = associate(ae, peer)
    if not association.accepted_contexts:
        raise TransportError(f"{peer} supports no query of this kind")
    return association


def _check(status: Any, peer: Address, what: str) -> None:
    if status.get("Status") not in {*_PENDING, _SUCCESS}:
        raise TransportError(f"{peer} answered {what} with {describe(status)}")


def _identifier(level: str, **keys: str) -> Dataset:
    wanted = Dataset()
    wanted.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(wanted, keyword, value)
    return wanted


def _count(value: object) -> int | None:
    number = as_float(value)
    return None if number is None else int(number)
