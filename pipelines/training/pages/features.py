"""Which features the model uses, how they were chosen, and what they mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.features import clinical
from pipelines.spec import PipelineSpec, Radiomics
from pipelines.systems import catalogue
from pipelines.training.outcome import ChosenFeature, LassoCurve, Outcome
from pipelines.training.pages.markup import NONE, Markup, bounds, bullets, count, join, number, paragraph, section, side_by_side, table, tag
from pipelines.training.pages.svg import Axis, Chart
from pipelines.types import FloatArray

_MEANINGS: Mapping[str, Mapping[str, str]] = json.loads((Path(__file__).parent / "meanings.json").read_text(encoding="utf-8"))
_STEPS = {
    "Repeatable": "keep features with {form} between two readers' regions above {minimum}; without second regions nothing is dropped",
    "MannWhitney": "keep features with an uncorrected Mann–Whitney p below {p}: a ranking, no inference",
    "Decorrelate": "of features that correlate ({method}) by more than {limit}, keep the one that separates the classes best",
    "Mrmr": "keep {keep} of each sequence by minimum redundancy and maximum relevance",
    "Pca": "replace each sequence's by {components} principal components",
    "Lasso": "keep features with a coefficient in a LASSO-logistic regression, {folds}-fold, rule {rule}",
    "Rfe": "keep {keep} by recursive elimination with logistic regression",
    "Rank": "keep {keep} by mean rank in forest importance, ANOVA F and recursive elimination",
}
_HALF = 0.5  # of the folds
_NAMED_PATHS, _PATH_LABEL = 6, 12.0  # lines of the LASSO path that are named; pixels between their numbers


def meaning(name: str) -> str:
    """Say what a feature ``<role>:<block>:<feature>`` measures."""
    role, block, feature = name.split(":", 2)
    if block == "pca":
        return f"principal component of the network's features on {role}: no meaning of its own"
    if block == "cnn":
        return f"output of the network on {role}: no meaning of its own"
    if block == "histogram":
        return "number of the 8-bit histogram on the largest slice"
    if role == "CLINICAL":
        return clinical.title_of(feature)
    if feature.count("_") < 2:
        return feature.replace("_", " ")
    image, kind, measured = feature.rsplit("_", 2)
    what = _MEANINGS.get(kind, {}).get(measured, measured)
    stem = image.split("-")[0]
    return what if stem == "original" else f"{what}; on: {_MEANINGS['images'].get(stem, image)}"


def short(name: str) -> str:
    """Return a feature's name as it fits beside a chart."""
    role, block, feature = name.split(":", 2)
    if block in ("pca", "cnn"):
        return f"{role} {block} {feature}"
    if role == "CLINICAL":
        return clinical.title_of(feature)
    words = feature.replace("original_", "").replace("log-sigma-", "LoG ").replace("-mm-3D", " mm")
    return f"{role} {words.replace('_', ' ')}"


def recipe(o: Outcome) -> Markup:
    """Return the steps from all features to the classifier."""
    rows = []
    for i, step in enumerate(steps_of(o), start=1):
        words = _STEPS.get(str(step["step"]), "{step}").format(**step)
        rows.append((i, step["step"], step.get("on") or "all", words))
    families = ", ".join(f"{name} {n}" for name, n in sorted(o.families.items(), key=lambda x: -x[1]))
    lines = [
        f"Final model: {o.classifier}. Inner cross-validation chose in {count(sum(o.families.values()), 'outer fold')}: {families}.",
        f"Threshold: {o.threshold_rule}.",
    ]
    if o.unrepeatable is not None:
        dropped = f"{count(o.unrepeatable, 'feature')} for want of agreement between two readers' regions"
        lines.append(f"The final fit dropped {dropped} of {count(o.flow.second_reader, 'patient')}.")
    if o.recipe.get("smote"):
        lines.append(
            "Rarer classes were filled up by SMOTE within training parts only; probabilities were brought back to the true prevalence."
        )
    if told := o.recipe.get("nomogram"):
        lines.append(f"Clinical values joined by logistic regression: {', '.join(map(str, _listed(told)))}.")
    return section(
        "Recipe", table("Steps, each repeated inside every fold", ("#", "Step", "On", "What it does"), rows, words=4), bullets(lines)
    )


def steps_of(o: Outcome) -> Iterator[Mapping[str, Any]]:
    yield from _listed(o.recipe.get("steps"))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def selection(o: Outcome) -> Markup:
    """Return the LASSO's figures, the stability of the selection, and the features."""
    figures = side_by_side(*_draw_lasso(o.lasso)) if o.lasso else ""
    if o.stability is None:
        stable = "Stability of the selection is not defined: folds selected nothing, or everything."
    else:
        stable = (
            f"Stability of the selection over {count(sum(o.families.values()), 'outer fold')} (Nogueira): "
            f"{number(o.stability.value, 2)} {bounds(o.stability.interval, 2)}; 1 is always the same features, 0 is chance."
        )
    unstable = [f for f in o.features if f.in_final and f.frequency < _HALF]
    warning = (
        f"{len(unstable)} of {sum(f.in_final for f in o.features)} features of the final model were chosen in fewer than half of the folds."
    )
    heads = ("Feature", "What it measures", "IBSI", "In folds", "Importance", "In final model")
    rows = [_feature_row(f) for f in o.features]
    note = (
        "In folds: share of the outer folds' models that chose it too. Importance: mean absolute Shapley value of the final model, "
        "in log-odds. IBSI: code where the definition is the same; a filtered image has the code of the feature, not of the filter."
    )
    return section("Selected features", figures, paragraph(stable), paragraph(warning), table("Features", heads, rows, words=3, note=note))


def _feature_row(f: ChosenFeature) -> tuple[object, ...]:
    code = join([tag("code", f.ibsi_code), " ", f.ibsi_name or ""]) if f.ibsi_code else NONE
    meter = tag("span", tag("i", style=f"width:{100 * f.frequency:.0f}%"), class_="meter", aria_hidden="true")
    return (
        tag("code", Markup(re.sub(r"([:_])", r"\1<wbr>", f.name))),
        meaning(f.name),
        code,
        join([meter, f"{100 * f.frequency:.0f} %"]),
        number(f.importance) if f.importance else NONE,
        "yes" if f.in_final else "no",
    )


def _draw_lasso(curve: LassoCurve) -> tuple[Markup, Markup]:
    x_values = np.log10(curve.penalties)
    axis = Axis.of("log₁₀ penalty (stronger to the left)", float(x_values.max()), float(x_values.min()), digits=1)
    loss, error = np.array(curve.loss), np.array(curve.standard_error)
    low, high = float((loss - error).min()), float((loss + error).max())
    pad = 0.05 * (high - low) or 0.01
    kept = sum(abs(c) > 0 for c in curve.coefficients[curve.chosen])
    chart = Chart(
        "LASSO, cross-validated loss", "Mean loss over folds against the penalty.", axis, Axis.of("Log loss", low - pad, high + pad)
    )
    for x, mean, spread in zip(x_values, loss, error, strict=True):
        chart.plot((x, x), (mean - spread, mean + spread), "whisker dim")
        chart.dot(*chart.place(x, mean), "group", radius=3)
    chosen = float(x_values[curve.chosen])
    chart.plot((chosen, chosen), (low - pad, high + pad), "threshold")
    rule = "the lowest loss" if curve.rule == "min" else "the strongest penalty within one standard error of the lowest loss"
    first = chart.figure(
        f"Bars: one standard error. Dashed: chosen by {rule}, {count(kept, 'feature')}, penalty {curve.penalties[curve.chosen]:.3g}."
    )
    paths = np.array(curve.coefficients)
    least, most = float(min(paths.min(), 0)), float(max(paths.max(), 0))
    pad = 0.05 * (most - least) or 0.1
    second = Chart("LASSO path", "Coefficients against the penalty.", axis, Axis.of("Coefficient", least - pad, most + pad))
    for column in paths.T:
        second.plot(x_values.tolist(), column.tolist(), "coefficient")
    second.plot((chosen, chosen), (least - pad, most + pad), "threshold")
    named = _name_paths(second, curve, paths) if curve.names else ""
    return first, second.figure(f"{paths.shape[1]} features enter at some penalty. Dashed: the penalty chosen.{named}")


def _name_paths(chart: Chart, curve: LassoCurve, paths: FloatArray) -> str:
    """Draw the strongest lines thicker, with numbers at their ends that do not cover one another, and return words for the numbers."""
    strongest = np.argsort(-np.abs(paths[curve.chosen]), kind="stable")[:_NAMED_PATHS]
    kept = [int(i) for i in strongest if paths[curve.chosen, i] != 0]
    end, last = float(np.log10(curve.penalties[-1])), -1e9
    for i in sorted(kept, key=lambda i: -paths[-1, i]):
        x, y = chart.place(end, float(paths[-1, i]))
        last = max(y, last + _PATH_LABEL)
        chart.plot(np.log10(curve.penalties).tolist(), paths[:, i].tolist(), "model")
        chart.text(x + 4, last, kept.index(i) + 1, kind="small")
    listed = "; ".join(f"{k}: {short(curve.names[i])}" for k, i in enumerate(kept, start=1))
    return f" Thicker: the largest coefficients there: {listed}." if kept else ""


def profile(o: Outcome) -> Markup:
    """Return how radiomic features are computed, from the system's specification."""
    spec = catalogue().get(o.system)
    if spec is None:
        return section("Radiomics profile", paragraph("Not shown: the system does not come with this software."))
    if spec.method_digest() != o.method_digest:
        return section("Radiomics profile", paragraph("Not shown: this software specifies the system otherwise than it was trained."))
    rows = list(_profile_rows(spec))
    if not rows:
        return section("Radiomics profile", paragraph("The system uses no handcrafted features."))
    prepared = [
        f"N4 bias field correction: {', '.join(spec.preprocess.n4) or 'none'}.",
        f"z-score within the body, times 100: {', '.join(spec.preprocess.normalise) or 'none'}.",
        f"Networks: {spec.cnn.network} on {', '.join(spec.cnn.roles)}, {type(spec.cnn.view).__name__}." if spec.cnn else "Networks: none.",
        f"Source: {spec.source}. Method digest {o.method_digest[:16]}….",
    ]
    return section("Radiomics profile", table("What pyradiomics was told", ("Setting", "Value"), rows, words=2), bullets(prepared))


def _profile_rows(spec: PipelineSpec) -> Iterator[tuple[str, str]]:
    for block in spec.blocks_of(Radiomics):
        yield "Sequences", ", ".join(block.roles)
        yield "Features per sequence", f"{block.count} ({'whole volume' if block.plane == 'volume' else 'slice with the largest region'})"
        images = (f"{name} {_settings(arguments)}".strip() for name, arguments in block.image_types.items())
        yield "Image types", ", ".join(images)
        yield "Classes", ", ".join(f"{kind} ({len(names)} chosen)" if names else kind for kind, names in block.classes.items())
        yield "Settings", _settings(block.settings)


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
