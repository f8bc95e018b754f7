"""Say of any folder of DICOM files what each series is, what each system would do with it and what it lacks.

Nothing is predicted and nothing is written. Damaged files are part of the answer. The JSON form is described in docs/inspect.md.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from node.inspect_table import SeriesRow, StudyTable, SystemRow, render
from pipelines.engine import load_case
from pipelines.errors import InputError, MissingRoi, MissingSequence
from pipelines.imaging.elements import UNREADABLE, integer, text
from pipelines.imaging.multiframe import name_image
from pipelines.imaging.parts import split
from pipelines.imaging.pixels import read_slices
from pipelines.imaging.rules import Verdict
from pipelines.imaging.sequences import choose, classify_study, rank
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.imaging.ultrasound import explain_left_out, rank_ultrasound
from pipelines.spec import PipelineSpec
from pipelines.types import OUR_MODEL_NAME, Choice, Series, SeriesRole, UltrasoundCandidate

_DICOM_SUFFIXES = {".dcm", ".dicom", ".ima"}  # a file of such a name without the DICM prefix is a damaged one, not a stranger
_OBJECTS = {SeriesRole.SEG, SeriesRole.RTSTRUCT, SeriesRole.SR}


def run(folder: Path, *, systems: Mapping[str, PipelineSpec], as_json: bool, width: int) -> int:
    """Print the inspection of a folder to standard output and return the exit code.

    ``width`` is that of the terminal in columns; colour is used only where the output is one.

    Raises
    ------
    InputError
        The folder does not exist or holds no DICOM file at all.
    """
    studies = inspect(folder, systems)
    answer = to_json(studies) if as_json else render(studies, width=width, colour=sys.stdout.isatty())
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(answer.encode(encoding, "replace").decode(encoding))
    return 0


def inspect(folder: Path, systems: Mapping[str, PipelineSpec]) -> list[StudyTable]:
    """Return what a folder holds, a table per study; files that cannot be read come last, without a study.

    Raises
    ------
    InputError
        The folder does not exist or holds no DICOM file at all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries warn of every broken value; what matters of them is among the problems
        series, damaged, repeated = _read(folder)
        by_study: dict[str, list[Series]] = {}
        for one in series:
            by_study.setdefault(one.header.study_instance_uid, []).append(one)
        tables = [_inspect_study(study, found, systems, repeated) for study, found in sorted(by_study.items(), key=_when)]
    return [*tables, StudyTable(None, "Files that cannot be read", tuple(damaged), ())] if damaged else tables


def to_json(studies: Iterable[StudyTable]) -> str:
    """Return the tables as JSON text; the keys are stable."""
    return json.dumps({"studies": [study.as_json() for study in studies]}, indent=2) + "\n"


def _read(folder: Path) -> tuple[list[Series], list[SeriesRow], Counter[str]]:
    """Return the readable series, a row per file that should be DICOM and cannot be read, and repeated instances per series."""
    try:
        paths = find_dicom_files(folder)
    except InputError:
        paths = []
        if not (folder.is_dir() and any(_looks_like_dicom(p) for p in folder.rglob("*"))):
            raise
    known = set(paths)
    strangers = sorted(p for p in folder.rglob("*") if _looks_like_dicom(p) and p not in known)
    damaged = [_damaged(folder, path, "it has no DICM prefix (PS3.10 7.1)") for path in strangers]
    readable: list[Path] = []
    files: Counter[str] = Counter()
    for path in paths:
        try:
            files[read_series([path])[0].header.series_instance_uid] += 1
        except (InputError, *UNREADABLE) as error:
            damaged.append(_damaged(folder, path, str(error)))
        else:
            readable.append(path)
    series = read_series(readable)
    return series, damaged, files - Counter({s.header.series_instance_uid: len(s.instances) for s in series})


def _looks_like_dicom(path: Path) -> bool:
    return path.suffix.lower() in _DICOM_SUFFIXES and path.is_file()


def _damaged(folder: Path, path: Path, why: str) -> SeriesRow:
    return SeriesRow(None, None, str(path.relative_to(folder)), "", None, 0.0, "not readable as DICOM", (why,))


def _when(study: tuple[str, list[Series]]) -> tuple[str, str, str]:
    first = study[1][0].instances[0]
    return text(first, "StudyDate"), text(first, "StudyTime"), study[0]


def _inspect_study(study: str, series: Sequence[Series], systems: Mapping[str, PipelineSpec], repeated: Mapping[str, int]) -> StudyTable:
    first = series[0].instances[0]
    images = _rank_ultrasound(series)
    rows = [_row(one, verdict, images, repeated) for one, verdict in zip(series, classify_study(series), strict=True)]
    mixed = _mixed(series)
    outcomes = [SystemRow(spec.name, spec.title, False, mixed, {}) if mixed else _try(spec, series) for spec in systems.values()]
    title = ", ".join(filter(None, (text(first, "StudyDescription") or "no study description", _date(text(first, "StudyDate")))))
    return StudyTable(study, title, tuple(rows), tuple(outcomes))


def _date(value: str) -> str:
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if len(value) == 8 and value.isdecimal() else ""


def _mixed(series: Sequence[Series]) -> tuple[str, ...]:
    patients = {text(d, "PatientID") for one in series for d in one.instances}
    return (f"the study holds instances of {len(patients)} patients (by Patient ID)",) if len(patients) > 1 else ()


def _row(series: Series, verdict: Verdict, images: Sequence[UltrasoundCandidate], repeated: Mapping[str, int]) -> SeriesRow:
    header = series.header
    role, score, reason, problems = verdict.role, verdict.score, verdict.reason, _problems(series, verdict)
    if all(text(d, "ManufacturerModelName") == OUR_MODEL_NAME for d in series.instances):
        role, score, reason, problems = None, 0.0, "a result of this software: never an input", ()
    elif header.modality == "US":
        role, score, reason, problems = _judge_ultrasound(series, images)
    if extra := repeated.get(header.series_instance_uid, 0):
        problems = (*problems, f"ignored {_count(extra, 'more file')} with SOP Instance UIDs that it has already")
    return SeriesRow(header.series_instance_uid, header.series_number, header.description, _describe(series), role, score, reason, problems)


def _describe(series: Series) -> str:
    """Return what a series consists of: ``MR, 19 images, 384x384, 0.5x0.5x3 mm`` (along the row, down the column, between slices)."""
    header = series.header
    frames = max(header.n_frames, sum(integer(d, "NumberOfFrames") or 1 for d in series.instances))
    facts = [
        header.modality or "no modality",
        _count(header.n_instances, "image" if header.rows and header.modality != "SEG" else "object"),
    ]
    if header.rows and frames > header.n_instances:
        facts.append(_count(frames, "frame"))
    if header.rows:
        facts.append(f"{header.columns}x{header.rows}")
    if header.spacing_mm:
        between, down, along = header.spacing_mm
        facts.append(f"{along:.3g}x{down:.3g}x{between:.3g}\N{NO-BREAK SPACE}mm")
    return ", ".join(facts)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _problems(series: Series, verdict: Verdict) -> tuple[str, ...]:
    """Return what is wrong with a series that has a role: its geometry, else its pixels."""
    found = []
    if len({text(d, "StudyInstanceUID") for d in series.instances}) > 1:
        found.append("its instances name different studies")
    if verdict.role is None or verdict.role in _OBJECTS:
        return tuple(found)
    for part in split(series):
        if part.problem:
            found.append(part.problem)
            continue
        try:
            read_slices(part.frames, f"series {series.header.label()}")
        except (InputError, *UNREADABLE) as error:
            found.append(str(error))
    return tuple(dict.fromkeys(found))


def _rank_ultrasound(series: Sequence[Series]) -> list[UltrasoundCandidate]:
    try:
        return rank_ultrasound(series)
    except MissingRoi as error:  # a report draws several things; the images are there all the same
        ranked = rank_ultrasound([one for one in series if one.header.modality != "SR"])
        return [replace(c, problems=(*c.problems, str(error))) for c in ranked]


def _judge_ultrasound(series: Series, images: Sequence[UltrasoundCandidate]) -> tuple[SeriesRole | None, float, str, tuple[str, ...]]:
    """Return role, score, reason and problems: the series of the best B-mode image of the study is TVUS."""
    own = [c for c in images if c.header.series_instance_uid == series.header.series_instance_uid]
    best = own[0]
    where = f"{name_image(best.source)}: " if len(series.instances) > 1 else ""
    if best is images[0] and best.frame_number:
        return SeriesRole.TVUS, best.score, where + "; ".join(best.reasons), best.problems
    if best.frame_number:
        return None, best.score, f"{where}B-mode with {best.score:.0f} of 100 points, but another series has a better image", best.problems
    problems = tuple(dict.fromkeys(p for c in own for p in c.problems))
    return None, 0.0, "; ".join(explain_left_out(own)), problems


def _try(spec: PipelineSpec, series: Sequence[Series]) -> SystemRow:
    """Return what a system would do with a study: read all of it that the system needs, short of predicting."""
    ranked = rank(series, spec)
    chosen = {role: ranked[role][0] for role in spec.required if ranked.get(role)}
    region, lacks = "", []
    try:
        chosen = choose(series, spec)
        region = _read_case(spec, series, chosen)
    except MissingSequence as error:
        lacks = str(error).split("; ")
    except (InputError, *UNREADABLE) as error:
        lacks = [str(error)]
    uids = {str(role): choice.header.series_instance_uid for role, choice in chosen.items()}
    reasons = [f"{role}: series {choice.header.label()}: {choice.reason}" for role, choice in chosen.items()]
    return SystemRow(spec.name, spec.title, not lacks, tuple(lacks or [*reasons, region]), uids)


def _read_case(spec: PipelineSpec, series: Sequence[Series], chosen: Mapping[SeriesRole, Choice]) -> str:
    roi = load_case(series, chosen, spec).roi
    if roi is None:
        return "region: nobody drew one; the segmenter of the model bundle has to"
    return f"region: {roi.description}, on {roi.role}"
