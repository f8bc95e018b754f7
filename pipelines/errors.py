"""The one error tree of the product.

Every leaf has a stable ``code`` (shown in the console, the ledger and the SR), the job state it leads to, and whether trying
again can help. The docstring is the default message, so raising a leaf without text still says something in English.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pydicom import Dataset

    from pipelines.types import Drawing

_MOST_PROBLEMS = 8  # in a message


class CervinodeError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "ERROR"
    job_state: ClassVar[str] = "FAILED"
    retry: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class InputError(CervinodeError):
    """The study cannot be analysed as it is."""

    code = "INPUT"
    job_state = "REFUSED"


class MissingSequence(InputError):
    """A sequence that the system requires was not found in the study."""

    code = "MISSING_SEQUENCE"


class BadGeometry(InputError):
    """The slices of a series do not form a regular volume."""

    code = "BAD_GEOMETRY"


class UndecodablePixels(InputError):
    """The pixel data of an instance cannot be decoded."""

    code = "UNDECODABLE_PIXELS"


class MissingRoi(InputError):
    """No usable region of interest was sent and none could be segmented."""

    code = "MISSING_ROI"


class UnusableDrawing(MissingRoi):
    """The segmentation network marked nothing, or an implausible size: see ``drawing``."""

    def __init__(self, message: str, drawing: Drawing) -> None:
        super().__init__(message)
        self.drawing = drawing


class MissingClinical(InputError):
    """A clinical value that the system requires is not known."""

    code = "MISSING_CLINICAL"


class NotApplicable(InputError):
    """The patient is not one of those that the system was made for."""

    code = "NOT_APPLICABLE"


class IncompleteStudy(InputError):
    """Images or sequences that were to come have not come."""

    code = "INCOMPLETE"


class MixedPatients(InputError):
    """Instances of several patients carry the same Study Instance UID."""

    code = "MIXED_PATIENTS"


class BundleError(CervinodeError):
    """The model bundle is missing, damaged, or was trained under another method."""

    code = "BUNDLE"


class InferenceError(CervinodeError):
    """The computation did not give a usable number."""

    code = "INFERENCE"


class NotFinite(InferenceError):
    """A feature or a probability is not a finite number."""

    code = "NOT_FINITE"


class ResultError(CervinodeError):
    """A result object failed its own check and was not sent."""

    code = "RESULT"


class RejectedObjects(ResultError):
    """Result objects failed their check: ``problems`` names all that was found, ``objects`` are those of the run, of which none is sent."""

    def __init__(self, objects: Iterable[Dataset], problems: Iterable[str]) -> None:
        self.objects, self.problems = tuple(objects), tuple(dict.fromkeys(problems))
        more = len(self.problems) - _MOST_PROBLEMS
        super().__init__("; ".join([*self.problems[:_MOST_PROBLEMS], *([f"{more} more problems"] if more > 0 else [])]))


class CohortError(CervinodeError):
    """The training cohort cannot be used as it is."""

    code = "COHORT"


class ConfigError(CervinodeError):
    """The configuration is not valid; nothing was changed."""

    code = "CONFIG"


class TransportError(CervinodeError):
    """The peer could not be reached or did not take the object."""

    code = "TRANSPORT"
    retry = True
