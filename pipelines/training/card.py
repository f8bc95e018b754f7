"""The model card of a bundle, written from its manifest so that it cannot say anything else."""

from __future__ import annotations

from pathlib import Path

from pipelines.models.manifest import Manifest
from pipelines.spec import PipelineSpec

_METRICS = {
    "nested_auc": "AUC, nested cross-validation",
    "nested_auc_se": "standard error of that AUC (DeLong)",
    "nested_sensitivity": "sensitivity at the fold's own threshold, nested",
    "nested_specificity": "specificity at the fold's own threshold, nested",
    "apparent_auc": "AUC on the training rows themselves (optimistic by nature)",
    "volume_only_auc": "AUC of the tumour's volume alone",
    "bayes_auc": "best possible AUC of the planted signal (analytic)",
    "segmenter_dice": "mean Dice of the segmenter on unseen cases",
    "network_n": "cases that trained the networks",
}


def write_model_card(path: Path, manifest: Manifest, spec: PipelineSpec) -> None:
    """Write the card as Markdown."""
    training, kind = manifest.training, "phantom metrics" if manifest.training.data == "synthetic" else "metrics"
    networks = [f"- `{c.file}`: {c.network} on {c.role}, {c.dim} features; {c.weights}." for c in manifest.cnns]
    if s := manifest.segmenter:
        networks.insert(0, f"- `{s.file}`: {s.network} on {s.role}, {s.spacing_mm:g} mm pixels; draws the roi when none was sent.")
    metrics = [f"| {_METRICS.get(k, k)} | {v:.4g} |" for k, v in training.metrics.items()]
    features = [f"- `{f.name}`" for f in manifest.decision.features]
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
        f"Trained on {training.description} (seed {training.seed}).",
        "",
        *networks,
        f"- `{manifest.decision.file}`: {manifest.decision.classifier}; Platt scaling; "
        f"threshold {manifest.decision.threshold:.3f} ({manifest.decision.threshold_rule}).",
        "",
        f"## {kind.capitalize()}",
        f"{training.n} cases, {training.events} with the label.",
        "",
        "| quantity | value |",
        "|---|---|",
        *metrics,
        "",
        "## Limits",
        *_limits(manifest),
        "",
        f"## The classifier's {len(features)} inputs",
        *features,
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def _limits(manifest: Manifest) -> list[str]:
    limits = [
        "- The regions of the training cases were given, not drawn by the segmenter; a roi drawn by the segmenter shifts the features.",
        "- Networks are far narrower than the paper's and trained from scratch.",
        "- Inclusion criteria of the paper (FIGO stage, histology, no enlarged node) are not checked.",
    ]
    if manifest.training.data == "synthetic":
        limits.insert(0, "- No patient's image was used: on real images the probability means nothing.")
    return limits
