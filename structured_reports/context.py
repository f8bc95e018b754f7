"""What a builder must know besides the result itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from importlib.metadata import version as installed_version

from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from pipelines.spec import PipelineSpec
from pipelines.types import OUR_MODEL_NAME, BundleStatus
from structured_reports.language import DEFAULT

_OFFSET = re.compile(r"([+-])(\d\d)(\d\d)$")


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The main SR that this result replaces, and when it was made, in the time zone of its source."""

    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str = Comprehensive3DSRStorage
    created_at: datetime | None = None

    @classmethod
    def of(cls, report: Dataset) -> Predecessor:
        """Return the predecessor that an SR of this package is."""
        created_at = datetime.strptime(f"{report.ContentDate}{report.ContentTime}", "%Y%m%d%H%M%S")
        return cls(str(report.SeriesInstanceUID), str(report.SOPInstanceUID), str(report.SOPClassUID), created_at)


@dataclass(frozen=True)
class ReportContext:
    """Circumstances of one run. ``created_at`` is the only clock: the same context gives the same bytes.

    Parameters
    ----------
    spec
        The system that ran or was to run.
    created_at
        Time of the job; the content date and time of every object but the segmentation. Best in the node's own time zone: where the
        source declares none, it is written as it is, and readers take it for local time.
    station
        AE title of the node; the device serial number of the results.
    version
        1 for the first result of the study and system, then 2, 3, ...
    predecessor
        The SR of the version before, where there is one.
    sr_class_uid
        Comprehensive 3D, Comprehensive or Enhanced SR of the main report; the content is the same in all three.
    language
        Language of sentences and captures (RFC 5646), one of :func:`structured_reports.language.languages`.
    graphic
        Whether the report with the contour on the key slice is made.
    bundle_status
        Status of the bundle that was to be used, for a refusal; a prediction brings its own.
    """

    spec: PipelineSpec
    created_at: datetime
    station: str
    version: int = 1
    predecessor: Predecessor | None = None
    sr_class_uid: str = Comprehensive3DSRStorage
    language: str = DEFAULT
    graphic: bool = True
    bundle_status: BundleStatus | None = None
    manufacturer: str = "Cervinode project"
    model_name: str = OUR_MODEL_NAME
    software_version: str = field(default_factory=lambda: installed_version("cervinode"))
    pyradiomics_version: str = field(default_factory=lambda: installed_version("pyradiomics"))

    def time_for(self, source: Dataset) -> datetime:
        """Return ``created_at`` in the time zone that the source declares for all its dates (PS3.3 C.12.1.1.8), else as it is."""
        found = _OFFSET.match(str(source.get("TimezoneOffsetFromUTC") or ""))
        if not found or self.created_at.tzinfo is None:
            return self.created_at
        sign, hours, minutes = found.groups()
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        return self.created_at.astimezone(timezone(-offset if sign == "-" else offset))
