"""The demonstration: a node, a small PACS, and a study that goes in over DICOM and comes back as results over DICOM.

Everything is the real thing on loopback: listener, embedded Redis, worker process, delivery. Only the receiving PACS is a toy that
keeps what it gets.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, evt

from node.app import App, build
from node.clinical import enter
from node.config import NodeTable, Peer, Settings
from node.demo_page import render_page
from node.dicom.scu import Address, Answer, send
from node.jobs import FINAL, OVERVIEW, JobState
from node.planning import refer_to_bundle
from node.storage.records import Job
from pipelines.errors import TransportError
from pipelines.imaging.series import find_dicom_files
from pipelines.phantoms.dicom import write_study
from pipelines.phantoms.scanners import COMPLETE
from pipelines.phantoms.ultrasound_dicom import write_ultrasound_study
from pipelines.systems import catalogue
from pipelines.types import SeriesRole
from structured_reports.wording import percent_words

_SENDER = "DEMO_MODALITY"
_PACS = "DEMO_PACS"
_SEED = 7
_NODE_MM = 6.0  # short axis of the largest node in the demonstration's patient
_TIMEOUT_S = 900.0
_QUIET_S = 1.0  # the demonstration sends in one go; a real modality needs more
_STAGES = {
    "read": "reading volumes",
    "segment": "drawing the tumour",
    "preprocess": "correcting bias fields",
    "shape": "measuring the tumour's shape",
    "radiomics": "measuring radiomic features",
    "histogram": "measuring the histogram",
    "cnn": "running the networks",
    "classify": "classifying",
    "explain": "explaining",
    "report": "writing SR, SEG and captures",
}


class Progress:
    """Name the current step: on a terminal one line that changes, elsewhere a line per step."""

    def __init__(self) -> None:
        self._current = ""
        self._since = time.monotonic()

    def show(self, step: str) -> None:
        """Show a step, if it is a new one."""
        if step == self._current:
            return
        self._current = step
        elapsed = f"{time.monotonic() - self._since:6.1f} s"
        if sys.stdout.isatty():
            sys.stdout.write(f"\r\x1b[K{elapsed}  {step}")
        else:
            sys.stdout.write(f"{elapsed}  {step}\n")
        sys.stdout.flush()

    def finish(self) -> None:
        """End the changing line."""
        if sys.stdout.isatty():
            sys.stdout.write("\r\x1b[K")


def run(study: Path | None, out: Path) -> int:
    """Run the demonstration and leave ``objects/``, ``summary.json`` and ``index.html`` in ``out``.

    ``study`` is a folder of DICOM files; without one a synthetic pelvis is made in ``out/phantom``. Returns 0 when results came back, 1
    when a job FAILED.

    Raises
    ------
    InputError
        ``study`` holds no DICOM file.
    TransportError
        The study could not be sent, or the results did not come in time.
    """
    progress = Progress()
    with tempfile.TemporaryDirectory(prefix="cervinode-demo-") as scratch:
        work = Path(scratch)
        known: dict[str, dict[str, object]] = {}
        if study is None:
            progress.show("making a synthetic study")
            study, known = _make_study(out / "phantom", ultrasound=bool(_usable(NodeTable())["US"]))
        files = find_dicom_files(study)
        objects = out / "objects"
        shutil.rmtree(objects, ignore_errors=True)
        objects.mkdir(parents=True)
        with receiving_pacs(objects) as pacs_port:
            jobs, timings = _send_and_wait(work, files, known, pacs_port, progress)
        progress.finish()
        summary = _summarise(jobs, objects, timings, f"{len(files)} images sent from {study.name}")
        summary["study_folder"] = str(study.resolve())
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        (out / "index.html").write_text(render_page([out / o["path"] for o in summary["objects"]], files, summary), encoding="utf-8")
    _print_summary(summary, out)
    return int(any(r["status"] == JobState.FAILED for r in summary["results"]))


def _make_study(folder: Path, *, ultrasound: bool) -> tuple[Path, dict[str, dict[str, object]]]:
    """Write a study of MRI and, where a system reads it, ultrasound; return its folder and what the ward knows of the patient."""
    shutil.rmtree(folder, ignore_errors=True)
    mri = write_study(folder / "mri", seed=_SEED, vendor="SIEMENS", preset="fast", roles=COMPLETE, node_short_axis_mm=_NODE_MM)
    values: dict[str, object] = {"node_short_axis_mm": _NODE_MM}
    if ultrasound:
        us = write_ultrasound_study(folder / "ultrasound", seed=_SEED, preset="fast", in_mr_study=True)
        values |= {"max_tumour_diameter_mm": round(us.latents.diameter_mm), "rbc_1e12_per_l": 4.2}
    return folder, {mri.study_instance_uid: values}


def _usable(node: NodeTable) -> dict[str, list[str]]:
    """Return the systems that have a bundle, by the modality that they read."""
    usable = [spec for spec in catalogue().values() if refer_to_bundle(node.models_root, spec).digest]
    return {
        "MR": [spec.name for spec in usable if SeriesRole.TVUS not in spec.required],
        "US": [spec.name for spec in usable if SeriesRole.TVUS in spec.required],
    }


@contextmanager
def receiving_pacs(folder: Path) -> Iterator[int]:
    """Run a storage SCP on loopback that writes what it gets to ``folder``; yield its port."""

    def keep(event: Any) -> int:
        (folder / f"{event.request.AffectedSOPInstanceUID}.dcm").write_bytes(event.encoded_dataset())
        return 0x0000

    ae = AE(_PACS)
    ae.supported_contexts = AllStoragePresentationContexts
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()


def _settings(work: Path, pacs_port: int, *, wait_s: float | None) -> Settings:
    """Return settings that no environment variable changes: every system that has a bundle runs."""
    node = NodeTable(port=0, storage_root=work / "node", quiet_s=_QUIET_S, log_level="error")
    return Settings.model_validate(
        {
            "node": node,
            "peers": [
                Peer(ae_title=_SENDER, host="127.0.0.1", port=pacs_port),
                Peer(ae_title=_PACS, host="127.0.0.1", port=pacs_port, may_send=False),
            ],
            "routes": [
                {"from": [_SENDER], "modalities": [modality], "systems": systems, "to": [_PACS], "wait_s": wait_s}
                for modality, systems in _usable(node).items()
                if systems
            ],
        }
    )


def _send_and_wait(
    work: Path, files: list[Path], known: dict[str, dict[str, object]], pacs_port: int, progress: Progress
) -> tuple[list[Job], dict[str, float]]:
    settings = _settings(work, pacs_port, wait_s=None if known else 0)  # nobody enters values of a study that was brought along
    progress.show("starting the node: listener, Redis, worker")
    app = build(settings)
    clock = [time.monotonic()]
    app.start()
    try:
        clock.append(time.monotonic())
        progress.show(f"sending {len(files)} images by C-STORE")
        answers = send(files, Address(settings.node.ae_title, "127.0.0.1", app.port), calling_ae_title=_SENDER, timeout_s=60)
        clock.append(time.monotonic())
        refused = [a for a in answers if a.answer is not Answer.ACCEPTED]
        if len(refused) == len(answers):
            raise TransportError(f"the node took none of the images: {refused[0].detail}")
        for study, values in known.items():
            enter(app.ledger, study, values, how="entered by the demonstration", actor="demo")
        jobs = _wait(app, progress)
        clock.append(time.monotonic())
    finally:
        app.stop()
    start, send_, rest = (b - a for a, b in pairwise(clock))
    computed: dict[str, float] = defaultdict(float)
    for stage, seconds in (item for job in jobs if job.outcome for item in job.outcome.timings_s.items()):
        computed[stage] += seconds
    other = max(0.0, rest - sum(computed.values()))
    timings = {
        "start the node": start,
        "C-STORE in": send_,
        **computed,
        "quiet time, queue, C-STORE back": other,
        "total": start + send_ + rest,
    }
    return jobs, {stage: round(seconds, 3) for stage, seconds in timings.items()}


def _wait(app: App, progress: Progress) -> list[Job]:
    end = time.monotonic() + _TIMEOUT_S
    progress.show("waiting for the study to be complete (quiet time)")
    while time.monotonic() < end:
        overview_due = bool(app.ledger.studies_with_new_results())  # asked first: afterwards it is among the jobs
        jobs = app.ledger.jobs()
        if jobs and not overview_due and all(job.state in FINAL for job in jobs):
            return jobs
        for job in jobs:
            claim = app.claims.find(job.order.job_id)
            if job.state is JobState.SENDING:
                progress.show(f"{job.order.system}: sending the results back")
            elif claim and claim.stage in _STAGES:
                progress.show(f"{job.order.system}: {_STAGES[claim.stage]}")
        time.sleep(0.05)
    raise TransportError(f"no result within {_TIMEOUT_S:g} s")


def _summarise(jobs: list[Job], objects: Path, timings: dict[str, float], study: str) -> dict[str, Any]:
    titles = {name: spec.title for name, spec in catalogue().items()}
    results = [
        {
            "system": job.order.system,
            "title": titles[job.order.system],
            "status": job.state.value,
            "probability": job.outcome.probability if job.outcome else None,
            "threshold": job.outcome.threshold if job.outcome else None,
            "call": job.outcome.call if job.outcome else None,
            "reasons": list(job.outcome.reasons) if job.outcome else [job.detail],
        }
        for job in jobs
        if job.order.system != OVERVIEW
    ]
    return {"study": study, "results": results, "objects": [_describe(p) for p in sorted(objects.glob("*.dcm"))], "timings_s": timings}


def _describe(path: Path) -> dict[str, str]:
    header = pydicom.dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID", "SeriesDescription"])
    return {
        "path": f"{path.parent.name}/{path.name}",
        "sop_class": UID(header.SOPClassUID).name,
        "sop_instance_uid": str(header.SOPInstanceUID),
        "series_description": str(header.get("SeriesDescription", "")),
    }


def _print_summary(summary: dict[str, Any], out: Path) -> None:
    lines = [f"Cervinode demo: {summary['study']}", ""]
    for result in summary["results"]:
        if result["probability"] is None:
            lines += [f"  {result['title']}: {result['status']}", *(f"    {reason}" for reason in result["reasons"][:3])]
        else:
            threshold = "" if result["threshold"] is None else f" (threshold {100 * result['threshold']:.1f} %)"
            lines.append(f"  {result['title']}: {percent_words(result['probability'], 1)}, {result['call']}{threshold}")
    kinds: dict[str, int] = {}
    for one in summary["objects"]:
        kinds[one["sop_class"]] = kinds.get(one["sop_class"], 0) + 1
    lines += ["", "  came back to the PACS: " + ", ".join(f"{n} x {kind}" for kind, n in kinds.items())]
    lines += [f"  {summary['timings_s']['total']:.1f} s from start to the last object", "", f"  look at {out / 'index.html'}"]
    lines += ["  DEMO MODEL trained on synthetic phantoms: not for clinical use"]
    sys.stdout.write("\n".join(lines) + "\n")
