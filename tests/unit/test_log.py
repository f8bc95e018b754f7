from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from node import log
from pipelines.errors import BadGeometry


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_line_has_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("info")
    logging.getLogger("node.test").info("study planned", extra=log.fields(study="1.2", n=3))
    logging.getLogger("node.test").debug("not shown")
    (line,) = _lines(capsys)
    assert (line["event"], line["study"], line["n"], line["level"], line["from"]) == ("study planned", "1.2", 3, "info", "node.test")


def test_text_of_a_foreign_exception_is_never_written(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("info")
    for error in (ValueError("Invalid value for PN: 'Doe^Jane'"), BadGeometry("series 3 has a gap")):
        try:
            raise error
        except (ValueError, BadGeometry):
            logging.getLogger("node.test").exception("failed")
    foreign, own = _lines(capsys)
    assert foreign["error"] == "ValueError" and "Doe" not in json.dumps(foreign) and "test_log.py" in str(foreign["place"])
    assert own["reason"] == "series 3 has a gap"


def test_warnings_of_libraries_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        log.set_up("info")
        warnings.warn("Invalid value for VR PN: 'Doe^Jane'", stacklevel=1)
    logging.getLogger("pydicom").warning("Doe^Jane")
    logging.getLogger("pynetdicom.acse").error("Association Rejected")
    assert capsys.readouterr().err == ""
