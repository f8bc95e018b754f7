"""Structured logs: one JSON object per line on stderr. UIDs, AE titles and reasons; never names or identifiers of patients."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

from pipelines.errors import CervinodeError

_FOREIGN = ("pydicom", "celery", "kombu", "redis", "highdicom", "matplotlib", "radiomics")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "from": record.name,
            "event": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["error"] = type(error).__name__
            if isinstance(error, CervinodeError):  # the message of a foreign one can quote a header value
                line["reason"] = str(error)
            line["place"] = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(record.exc_info[2])][-8:]
        return json.dumps(line, default=str)


def set_up(level: str) -> None:
    """Send our own logs from ``level`` on to stderr, and of the libraries only what is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # its errors reach us as events and answers
    logging.captureWarnings(True)  # pydicom's quote header values
    for name in (*_FOREIGN, "py.warnings"):
        logging.getLogger(name).setLevel(logging.ERROR)


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Return ``extra`` for a logging call: ``log.info("study planned", extra=fields(study=uid))``."""
    return {"fields": values}
