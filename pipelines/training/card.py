"""The model card of a bundle, written from its manifest so that it cannot say anything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipelines.imaging.acquisition import UNITS
from pipelines.models.manifest import LIE_DETECTOR, Decision, Manifest, Training
from pipelines.spec import PipelineSpec

_METRICS = {
    "nested_auc": "AUC, nested cross-validation (of several classes the mean of one against the rest)",
    "nested_auc_se": "standard error of that AUC (DeLong)",
    "nested_accuracy": "share of right classes, nested cross-validation",
    "nested_sensitivity": "sensitivity at the fold's own threshold, nested",
    "nested_specificity": "specificity at the fold's own threshold, nested",
    "apparent_auc": "AUC on the training rows themselves (optimistic by nature)",
    "permuted_auc": "mean AUC of the recipe, from selection on, on shuffled labels (ought to be 0.5, or a little less)",
    "permuted_auc_explained": "how low it may fall: AUC of knowing only how common the label is, in the same folds",
    LIE_DETECTOR: "1: shuffled labels gave what chance and folds explain; 0: INVALID, they did not",
    "size_only_auc": "AUC of the roi's size alone",
    "clinical_only_auc": "AUC of the clinical values alone",
    "clinical_only_sensitivity": "sensitivity of the clinical values alone",
    "clinical_only_specificity": "specificity of the clinical values alone",
    "imaging_only_auc": "AUC of the images alone, nested",
    "bayes_auc": "best possible AUC of the planted signal (analytic)",
    "bayes_imaging_auc": "best possible AUC of what is planted in the images (analytic)",
    "bayes_clinical_auc": "best possible AUC of what is planted in clinical values (analytic)",
    "segmenter_dice": "mean Dice of the segmenter on unseen cases, on the sequence where it is lowest",
    "network_n": "cases that trained the networks",
}
_LISTED = 60  # inputs that are listed one by one


def write_model_card(path: Path, manifest: Manifest, spec: PipelineSpec) -> None:
    """Write the card as Markdown."""
    training, kind = manifest.training, "phantom metrics" if manifest.training.data == "synthetic" else "metrics"
    classes = {label.number: label.code.meaning for label in spec.classes}
    labelled = f", {training.events} with the label" if not classes else ""
    lines = [
        f"# {spec.title}: bundle {manifest.version} ({manifest.status.value})",
        "",
        f"**{training.statement}**",
        "",
        f"Intended use: {manifest.intended_use}",
        "",
        "## What it is",
        f"A bundle for the system `{manifest.system}` after {spec.source}.",
        "An independent implementation with other data and other weights.",
        f"Trained on {training.description} (seed {training.seed}){f', {training.date}' if training.date else ''}.",
        *_scanners(training),
        *_acquisition(training),
        "",
        *_networks(manifest),
        *(_decision(name, one, classes) for name, one in _decisions(manifest)),
        "",
        f"## {kind.capitalize()}",
        f"{training.n} cases{labelled}.",
        "",
        "| quantity | value |",
        "|---|---|",
        *(f"| {_METRICS.get(k, k)} | {v:.4g} |" for k, v in training.metrics.items()),
        *_more(training),
        "",
        *_coverage(manifest, classes),
        "## Limits",
        *_limits(manifest, spec),
        "",
    ]
    for name, one in _decisions(manifest):
        more = [f"- and {len(one.features) - _LISTED} more"] if len(one.features) > _LISTED else []
        lines += [f"## Inputs of the {name}: {len(one.features)}", *(f"- `{f.name}`" for f in one.features[:_LISTED]), *more, ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _decisions(manifest: Manifest) -> list[tuple[str, Decision]]:
    named = [("imaging score", manifest.score), ("decision", manifest.decision), ("imaging-only decision", manifest.imaging_only)]
    return [(name, one) for name, one in named if one and (name != "imaging-only decision" or one != manifest.score)]


def _networks(manifest: Manifest) -> list[str]:
    lines = [f"- `{c.file}`: {c.network} on {c.role}, {c.dim} features; {c.weights}." for c in manifest.cnns]
    if s := manifest.segmenter:
        found = ", ".join(f"{role} {dice:.3f}" for role, dice in s.dice.items())
        judged = f" Mean Dice on unseen cases: {found}." if found else ""
        where = f"{', '.join(s.roles)}, {s.spacing_mm:g} mm pixels"
        lines.insert(0, f"- `{s.file}`: {s.network}, trained on {where}; draws the roi when none was sent.{judged}")
    return lines


def _decision(name: str, one: Decision, classes: Mapping[int, str]) -> str:
    where = f" (`{one.file}`)" if one.file else ", written out in the manifest"
    if one.threshold is None:
        absent = [words for number, words in classes.items() if number not in one.classes]
        cannot = f"; it cannot predict: {', '.join(absent)}" if absent else ""
        return f"- {name}{where}: {one.classifier}; {one.threshold_rule} of {len(one.classes)}{cannot}."
    return f"- {name}{where}: {one.classifier}; Platt scaling; threshold {one.threshold:.3f} ({one.threshold_rule})."


def _scanners(training: Training) -> list[str]:
    named = ", ".join(f"{name} ({n})" for name, n in training.scanners.items())
    return [f"Scanners: {named}."] if named else []


def _acquisition(training: Training) -> list[str]:
    """Return a line for each sequence: the ranges of its patients."""
    return [
        f"- {role}: " + ", ".join(f"{keyword} {_range(*limits)} {UNITS[keyword]}" for keyword, limits in numbers.items())
        for role, numbers in training.acquisition.items()
    ]


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _more(training: Training) -> list[str]:
    rows = []
    if training.nested_auc_interval:
        rows.append("| 95 % interval of the nested AUC | {:.4g} to {:.4g} |".format(*training.nested_auc_interval))
    if training.permuted_aucs:
        rows.append(f"| AUC of each shuffling of the labels | {', '.join(f'{auc:.3f}' for auc in training.permuted_aucs)} |")
    return rows


def _coverage(manifest: Manifest, classes: Mapping[int, str]) -> list[str]:
    """Say of every decision what its conformal sets held of unseen patients."""
    reduced = [(f"decision on {', '.join(r.roles)}", r.decision) for r in manifest.reduced]
    lines = []
    for name, one in (*_decisions(manifest), *reduced):
        rule = one.class_conformal or one.conformal
        if rule is None or rule.covered is None:
            continue
        words = [classes[k] for k in one.classes] or ["without the label", "with it"]
        each = "; ".join(f"{w} {100 * c:.1f} %" for w, c in zip(words, rule.covered_each, strict=bool(rule.covered_each)))
        size = f"; {rule.mean_size:.2f} answers in a set on average" if rule.mean_size is not None else ""
        share = f"{100 * rule.covered:.1f} % of {rule.n} unseen patients (nested; aimed at {100 * rule.coverage:.0f} % of each class"
        lines.append(f"- {name}: the set held the truth for {share}{': ' if each else ''}{each}){size}.")
    return ["## Coverage of the conformal sets", *lines, ""] if lines else []


def _limits(manifest: Manifest, spec: PipelineSpec) -> list[str]:
    limits = [
        "- The regions of the training cases were given, not drawn by the segmenter; a roi drawn by the segmenter shifts the features."
    ]
    if manifest.cnns:
        limits.append("- The networks and their weights are not the paper's.")
    if spec.inclusion:
        rules = ", ".join(rule.words for rule in spec.inclusion)
        limits.append(f"- Made for patients with {rules}. Whom a stated value excludes is refused; what is not stated is not verified.")
    if manifest.training.data == "synthetic":
        limits.insert(0, "- No patient's image was used: on real images the probability means nothing.")
    return limits
