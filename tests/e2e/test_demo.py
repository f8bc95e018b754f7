"""The demonstration as a newcomer runs it."""

from __future__ import annotations

import html
import json
import subprocess
from pathlib import Path

import pydicom
import pytest

from pipelines.systems import catalogue
from structured_reports.wording import percent_words
from tests.e2e import servers

pytestmark = pytest.mark.slow


def _demo(out: Path, *arguments: str) -> tuple[str, dict]:
    done = subprocess.run([str(servers.CERVINODE), "demo", "--out", str(out), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((out / "summary.json").read_text())


def test_demo_shows_what_came_back(tmp_path: Path) -> None:
    printed, summary = _demo(tmp_path)
    results = {r["system"]: r for r in summary["results"]}
    assert set(results) == set(catalogue()) and len(summary["results"]) == len(results)
    for result in results.values():
        assert result["status"] == "DONE"
        assert 0 < result["probability"] < 1
        several = result["system"] == "histotype_mri"
        assert (result["threshold"] is None) == several
        assert "carcinoma" in result["call"] if several else result["call"] in ("positive", "negative")
    datasets = {one["sop_instance_uid"]: pydicom.dcmread(tmp_path / one["path"]) for one in summary["objects"]}
    assert all(ds.SOPInstanceUID == uid for uid, ds in datasets.items())
    assert len({ds.StudyInstanceUID for ds in datasets.values()}) == 1, "MRI and ultrasound of one study"
    assert sorted({o["sop_class"] for o in summary["objects"]}) == [
        "Comprehensive 3D SR Storage",
        "Comprehensive SR Storage",
        "Secondary Capture Image Storage",
        "Segmentation Storage",
    ]
    assert {"read", "segment", "radiomics", "cnn", "total"} <= summary["timings_s"].keys()
    page = (tmp_path / "index.html").read_text()
    assert all(html.escape(percent_words(result["probability"], 1)) in page for result in results.values())
    assert "Probability of occult lymph node metastasis" in page
    assert page.index("<h2>Overview</h2>") < page.index("Probability of occult lymph node metastasis"), "what is read first comes first"
    captures = sum(o["sop_class"] == "Secondary Capture Image Storage" for o in summary["objects"])
    assert page.count("data:image/png") >= captures + 6  # and six slices with the outline
    assert "http" not in page  # self-contained
    last = printed[printed.index("Cervinode demo:") :].splitlines()
    assert len(last) <= 20
    assert "not for clinical use" in last[-1]


def test_demo_takes_the_users_study(tmp_path: Path, real_pelvis: Path) -> None:
    printed, summary = _demo(tmp_path, "--study", str(real_pelvis))
    assert {(r["status"], r["probability"]) for r in summary["results"]} == {("REFUSED", None)}
    assert "no T1W series found" in printed
    assert "no T1W series found" in (tmp_path / "index.html").read_text()
    assert "Patient's Sex (0010,0040) is M" in printed  # of the systems whose sequences are there
