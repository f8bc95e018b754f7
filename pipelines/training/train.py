"""From a cohort to a bundle: networks, the recipe judged honestly, the final fit, and everything written down.

The bundle serves the final fit on all patients; the numbers that speak for it are those of the nested cross-validation, in which no step
had seen the patient that it judged.
"""

from __future__ import annotations

import datetime
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from pipelines.errors import BundleError, CohortError
from pipelines.features import clinical
from pipelines.models.bundle import MANIFEST, load_bundle
from pipelines.models.golden import make_golden
from pipelines.models.manifest import VERSION, CnnModel, Manifest
from pipelines.spec import Triplets
from pipelines.systems import catalogue
from pipelines.training import decisions, findings
from pipelines.training.answers import Answers
from pipelines.training.card import write_model_card
from pipelines.training.cohort import read_cohort, refuse
from pipelines.training.coverage import cover
from pipelines.training.decisions import Roles
from pipelines.training.embed import CrossFitted, Net, Networks, statuses
from pipelines.training.extract import extract_cohort
from pipelines.training.nested import Embedding, Judge, Narrowed, Nested, Static, mean_area
from pipelines.training.networks import choose_architecture
from pipelines.training.outcome import FILE_NAME, Outcome, write_outcome
from pipelines.training.patients import Patients, gather
from pipelines.training.plan import Plan, Progress, Run
from pipelines.training.recipe import System, fit
from pipelines.training.report import write_report
from pipelines.training.segmenter import make_segmenter, read_segmenter
from pipelines.training.statement import INTENDED_USE, describe_network, describe_training, leakage, made_with, recipe_words
from pipelines.training.table import Table, role_of
from pipelines.types import BundleStatus, SeriesRole


@dataclass(frozen=True, eq=False)
class Trained:
    """A finished run: the bundle's folder, and the folder with ``training.json`` and the report."""

    bundle: Path
    report: Path
    outcome: Outcome


def train(
    system: str,
    cohort_csv: Path,
    *,
    out: Path,
    date: datetime.date,
    seed: int = 1,
    plan: Plan | None = None,
    systems_path: Path | None = None,
    known: Mapping[str, float] | None = None,
    progress: Progress = lambda line: None,
) -> Trained:
    """Train a bundle into ``out``, whose name becomes the version, and put the report beside it (``<out>-report``).

    A cohort with synthetic phantoms gives a bundle of status demo, any other one of status research. What takes long (extracted features,
    networks, judgements) is kept beside the cohort in ``features/`` under hashes of what made it: a run that was stopped goes on there.

    Parameters
    ----------
    systems_path : a folder with a site's own declarations of systems, see :func:`pipelines.systems.catalogue`.
    known : facts about the cohort for the metrics, such as a phantom cohort's ``bayes_auc``.
    progress : called with one line for a person per step.

    Raises
    ------
    CohortError
        The system has no recipe, or the cohort cannot be used; the message names the rows.
    BundleError
        ``out`` exists or is no name for a version, or an exported graph differs from what was trained.
    """
    specs = catalogue(systems_path)
    if system not in specs:
        raise CohortError(f"there is no training recipe for {system!r}, only for {', '.join(specs)}")
    spec, plan = specs[system], plan or Plan()
    if spec.cnn and not plan.architecture:
        choose_architecture(spec.cnn, published=plan.published, network=plan.network)  # before anything takes long
    scratch, report = _make_scratch(out), _report_of(out)
    rows = read_cohort(cohort_csv, classes=[c.number for c in spec.classes] or (0, 1))
    run = Run(spec, plan, seed, scratch / out.name, cohort_csv.parent / "features", progress)
    extract = partial(extract_cohort, spec=spec, grid=plan.grid, cache=run.cache, workers=plan.workers, progress=progress)
    work = _Training(run, gather(cohort_csv, rows, spec, plan, seed=seed, extract=extract, progress=progress))
    for warning in work.check():
        progress(f"warning: {warning}")
    run.folder.mkdir(parents=True)
    try:
        manifest = work.write_bundle(out.name, dict(known or {}), date)
        outcome = work.write_up(manifest, load_bundle(run.folder, spec).digest, date)
        written = scratch / report.name
        written.mkdir()
        write_outcome(written / FILE_NAME, outcome)
        write_report(outcome, written)
        progress("report written")
        written.rename(report)
        run.folder.rename(out)  # last: with it the version exists
    finally:
        shutil.rmtree(scratch)
    return Trained(out, report, outcome)


def _is_of(roles: Roles, name: str) -> bool:
    return role_of(name) in roles


def _report_of(out: Path) -> Path:
    return out.with_name(f"{out.name}-report")


def _make_scratch(out: Path) -> Path:
    """Return a place beside ``out`` to work in. What a run that was killed left there is removed, with a report that has no bundle yet."""
    if not re.fullmatch(VERSION, out.name):
        raise BundleError(f"{out.name!r} is no name for a version: up to 31 letters, digits, dots and hyphens")
    scratch, report = out.with_name(f".training-{out.name}"), _report_of(out)
    if out.exists():
        raise BundleError(f"{out} exists already; a version is never overwritten")
    if scratch.exists():
        shutil.rmtree(scratch)
        shutil.rmtree(report, ignore_errors=True)
    if report.exists():
        raise BundleError(f"{report} exists already; a version is never overwritten")
    return scratch


@dataclass(frozen=True, eq=False)
class _Training:
    """The steps of one run, each computed once."""

    run: Run
    patients: Patients

    def check(self) -> tuple[str, ...]:
        """Find what is wrong with the cohort before anything takes long, and return what is only to be known."""
        warnings, block = self.patients.check(), self.run.spec.cnn
        if folder := self.run.plan.segmenter_of:
            read_segmenter(folder, self.run.spec, synthetic=self.patients.synthetic)
        if block is None:
            return warnings
        if self.run.plan.frozen and isinstance(block.view, Triplets):
            raise CohortError(f"{self.run.spec.name} takes its network's own answer, which weights that are not trained on the cohort lack")
        if block.status and self.run.plan.joint:
            unknown = [r.where for r, s in zip(self.patients.rows, statuses(self.patients.files, block), strict=True) if np.isnan(s)]
            what = f"{clinical.source_of(block.status)} is not known, which the network needs of every patient"
            refuse(self.patients.path, what, unknown)
        return warnings

    @cached_property
    def networks(self) -> Networks | None:
        """The system's networks on all rows."""
        block = self.run.spec.cnn
        return Networks(self.run, block, self.patients.files, statuses(self.patients.files, block)) if block else None

    @cached_property
    def nets(self) -> dict[SeriesRole, Net]:
        """The networks that the bundle serves."""
        if self.networks is None:
            return {}
        rows, labels = self.patients.division.networks, self.patients.all_labels
        return {role: self.networks.train(role, rows, labels) for role in self.networks.block.roles}

    @cached_property
    def embedding(self) -> Embedding:
        """How patients get their deep features."""
        table, judged = self.patients.table, self.patients.division.judged
        if self.networks is None:
            return Static(table)
        if self.patients.division.disjoint or self.run.plan.frozen:
            return Static(table.join(self.networks.embed(self.nets, judged)))
        own = replace(self.networks, files=self.patients.judged_files, status=self.networks.status[judged])
        return CrossFitted(own, table, self.run.plan.inner_folds)

    @cached_property
    def final_table(self) -> Table:
        """What the final decision is fitted on."""
        if isinstance(self.embedding, CrossFitted):
            return self.embedding.fitted(np.arange(len(self.patients.labels)), self.patients.labels)
        assert isinstance(self.embedding, Static)
        return self.embedding.table

    @cached_property
    def judge(self) -> Judge:
        """The honest judgement."""
        run, patients = self.run, self.patients
        return Judge(
            run.spec.recipe,
            self.embedding,
            patients.labels,
            run.seed,
            second=patients.second,
            workers=run.plan.workers,
            progress=run.progress,
            answers=Answers(run.cache / "answers"),
        )

    @cached_property
    def system(self) -> System:
        """The final fit, on all judged rows."""
        self.run.progress("final fit")
        with threadpool_limits(1):  # the number of cores must not show in the bundle
            return fit(self.run.spec.recipe, self.final_table, self.patients.labels, seed=self.run.seed, second=self.patients.second)

    @cached_property
    def reduced(self) -> dict[Roles, tuple[System, Nested]]:
        """The systems for studies with some of the sequences, each with its nested judgement, of one repeat."""
        made = {}
        for roles in self.run.spec.reduced:
            what = f"with {', '.join(roles)} alone"
            self.run.progress(f"final fit {what}")
            keep = partial(_is_of, roles)
            recipe = replace(self.run.spec.recipe, nomogram=())
            judge = replace(self.judge, recipe=recipe, embedding=Narrowed(self.embedding, keep))
            nested = judge.nested(repeats=1, what=f"nested {what}")
            with threadpool_limits(1):
                system = fit(recipe, self.final_table.columns(keep), self.patients.labels, seed=self.run.seed, second=self.patients.second)
            made[roles] = system, nested
        return made

    @cached_property
    def found(self) -> findings.Found:
        """All judgements, made before anything of them is looked at."""
        return findings.judge_all(
            self.judge,
            system=self.system,
            table=self.final_table,
            rows=self.patients.judged_rows,
            files=self.patients.judged_files,
            spec=self.run.spec,
            plan=self.run.plan,
        )

    def write_bundle(self, name: str, known: dict[str, float], date: datetime.date) -> Manifest:
        """Write every file of the bundle; the manifest names each by its hash."""
        run, patients = self.run, self.patients
        trained_on, others, disjoint = patients.division
        own = trained_on[: 0 if run.plan.segmenter_of else run.plan.segmenter_patients]
        unseen = others if disjoint else np.setdiff1d(others, own)
        segmenter = make_segmenter(run, [patients.files[i] for i in trained_on], [patients.rows[i] for i in unseen])
        cnns = [self._take_net(role, net) for role, net in self.nets.items()]
        parts = decisions.write(run, self.system, self.final_table, reduced={roles: system for roles, (system, _) in self.reduced.items()})
        parts = cover(parts, self.found.nested, {roles: nested for roles, (_, nested) in self.reduced.items()}, patients.labels)
        metrics = self.found.metrics | known | {"network_n": float(len(trained_on)) if cnns else 0.0}
        metrics |= {f"nested_auc_{'_'.join(roles)}": mean_area(nested, patients.labels) for roles, (_, nested) in self.reduced.items()}
        if segmenter.dice:
            metrics["segmenter_dice"] = min(segmenter.dice.values())
        manifest = Manifest(
            system=run.spec.name,
            version=name,
            status=BundleStatus.DEMO if patients.synthetic else BundleStatus.RESEARCH,
            intended_use=INTENDED_USE,
            method_digest=run.spec.method_digest(),
            segmenter=segmenter,
            cnns=tuple(cnns),
            projections=parts.projections,
            score=parts.score,
            decision=parts.decision,
            imaging_only=parts.imaging_only,
            reduced=parts.reduced,
            training=describe_training(
                patients,
                date=date,
                seed=run.seed,
                metrics=metrics,
                interval=self.found.interval,
                permuted=self.found.permuted.tolist(),
                candidates=self.final_table.names,
            ),
            recipe=recipe_words(run.spec),
            parity=tuple(run.parity),
            made_with=made_with(),
            files=decisions.list_files(run.folder),
        )
        write_model_card(run.folder / "MODEL_CARD.md", manifest, run.spec)
        manifest = make_golden(run.folder, manifest)
        (run.folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return manifest

    def _take_net(self, role: SeriesRole, net: Net) -> CnnModel:
        path, block = self.run.folder / f"cnn_{role}.onnx", self.run.spec.cnn
        assert block is not None  # a network comes from one
        shutil.copyfile(net.path, path)
        self.run.parity.append(net.parity.model_copy(update={"what": net.parity.what.replace(net.path.name, path.name)}))
        columns = sum(name.startswith(f"{role}:{block.name}:") for name in self.final_table.names)
        dim = 1 if isinstance(block.view, Triplets) else columns
        return describe_network(net, path.name, role, block, self.run.plan, patients=self.patients, dim=dim)

    def write_up(self, manifest: Manifest, digest: str, date: datetime.date) -> Outcome:
        """Return everything that was found, for the report."""
        flow = self.patients.flow()
        told = leakage(self.run.plan, with_networks=bool(self.nets), patients_told=not self.patients.untold)
        outcome = findings.write_up(self.found, manifest=manifest, digest=digest, date=date, flow=flow, leakage=told)
        dropped = (self.system.score or self.system.imaging_only or self.system.decision).selection.unrepeatable
        return replace(outcome, warnings=(*outcome.warnings, *self.patients.warnings), unrepeatable=dropped)
