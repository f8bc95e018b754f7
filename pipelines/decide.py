"""From a patient's features to the prediction and what it rests on: the last step of every system, driven by its bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipelines.errors import MissingClinical, NotApplicable
from pipelines.features import clinical
from pipelines.models import classify
from pipelines.models.bundle import Bundle, Model
from pipelines.models.explain import explain
from pipelines.spec import Inclusion, PipelineSpec
from pipelines.types import ClinicalValue, Contribution, FloatArray, NomogramRow, Outcome, Prediction, SeriesRole

SCORE = "SCORE:model:log_odds"  # the first stage's calibrated log-odds among the features of the second
_SCORE_WORDS = "Imaging score (log-odds)"


class Decided(NamedTuple):
    """A prediction, each feature's share in it (largest first), what they start from, and the nomogram's lines."""

    prediction: Prediction
    contributions: tuple[Contribution, ...]
    base_log_odds: float
    nomogram: tuple[NomogramRow, ...]


def broken_rules(spec: PipelineSpec, known: Mapping[str, ClinicalValue]) -> tuple[Inclusion, ...]:
    """Return the rules of inclusion that are known not to hold."""
    return tuple(rule for rule in spec.inclusion if rule.name in known and not rule.low <= known[rule.name].value < rule.high)


def check_inclusion(spec: PipelineSpec, known: Mapping[str, ClinicalValue]) -> tuple[str, ...]:
    """Return a sentence about the rules of inclusion that are not verified: those of unknown values, and those that no value can verify.

    Raises
    ------
    NotApplicable
        A rule is known not to hold; the message names each.
    """
    broken = [
        f"{spec.title} does not apply: {clinical.KNOWN[rule.name].title} is {known[rule.name].words} ({known[rule.name].source}), "
        f"but the system was made for patients with {rule.words}"
        for rule in broken_rules(spec, known)
    ]
    if broken:
        raise NotApplicable("; ".join(broken))
    unknown = [*(rule.words for rule in spec.inclusion if rule.name not in known), *spec.unverified]
    return (f"not verified, made for patients with: {', '.join(unknown)}",) if unknown else ()


def decide(
    spec: PipelineSpec, bundle: Bundle, features: Mapping[str, float], *, roles: Sequence[SeriesRole], progress: Callable[[str], None]
) -> Decided:
    """Judge features by name, of the sequences ``roles``, and explain the judgement; ``progress`` is told when that begins.

    Raises
    ------
    MissingClinical
        A clinical value that the model needs is not known, and the bundle has no model without.
    InferenceError
        A feature is missing, or a number is not finite.
    """
    whole = all(role in roles for role in spec.required)
    complete = _complete(spec, bundle, features, scored=whole)
    model, flags = _choose_model(spec, bundle, complete, roles)
    if model.decision.classes:
        return _classify(spec, bundle, model, complete, flags, progress)
    raw = classify.select(complete, model.decision)
    row = classify.standardise(raw, model.decision)
    uncalibrated = float(classify.raw_log_odds(model.classifier, model.decision, row[None])[0])
    log_odds = float(_predictor(model)(row[None])[0])
    outside, withheld = _applicability(spec, bundle, model, complete)
    probability, threshold = classify.sigmoid(log_odds), model.decision.threshold
    assert threshold is not None  # the manifest demands it of a binary decision
    conformal = model.decision.conformal
    prediction = _predict(
        spec,
        bundle,
        probability=probability,
        threshold=threshold,
        threshold_rule=model.decision.threshold_rule,
        call="withheld" if withheld else "positive" if probability >= threshold else "negative",
        interval=classify.interval(model.decision, uncalibrated),
        flags=(*flags, *outside),
        outcomes=(*_alternatives(spec, bundle, features), *_without_status(spec, bundle, complete)) if whole else (),
        plausible=classify.plausible(model.decision, probability),
        coverage=conformal.coverage if conformal else None,
    )
    progress("explain")
    shapley = explain(_predictor(model), row, background=model.background)
    own = _name(model, raw, shapley.values)
    contributions, base = _unfold(bundle, model, complete, own, shapley.base)
    return Decided(prediction, contributions, base, _nomogram(model, raw))


def _predict(spec: PipelineSpec, bundle: Bundle, **judgement: Any) -> Prediction:
    manifest = bundle.manifest
    return Prediction(
        system=spec.name,
        title=spec.title,
        finding=spec.finding,
        bundle_version=manifest.version,
        bundle_digest=bundle.digest,
        bundle_status=manifest.status,
        **judgement,
    )


def _complete(spec: PipelineSpec, bundle: Bundle, features: Mapping[str, float], *, scored: bool = True) -> dict[str, float]:
    """Add what follows from the features: principal components, the joint network's answer, the first stage's score where ``scored``."""
    complete = dict(features)
    for role, matrix in bundle.projections.items():
        if f"{role}:cnn:0" in complete:
            complete |= {f"{role}:pca:{i}": v for i, v in enumerate(classify.project(complete, f"{role}:cnn:", matrix))}
    complete |= join_status(spec, complete)
    if bundle.score and scored:
        row = classify.standardise(classify.select(complete, bundle.score.decision), bundle.score.decision)
        complete[SCORE] = float(_predictor(bundle.score)(row[None])[0])
    return complete


def join_status(spec: PipelineSpec, features: Mapping[str, float]) -> dict[str, float]:
    """Return the joint network's answer (``<role>:cnn:h``) for the patient's own clinical status, where that is known."""
    if spec.cnn is None or (status := features.get(clinical.FEATURE_PREFIX + spec.cnn.status)) is None:
        return {}
    state = "h1" if status >= 0.5 else "h0"
    return {f"{role}:cnn:h": features[f"{role}:cnn:{state}"] for role in spec.cnn.roles if f"{role}:cnn:{state}" in features}


def _choose_model(
    spec: PipelineSpec, bundle: Bundle, features: Mapping[str, float], roles: Sequence[SeriesRole]
) -> tuple[Model, tuple[str, ...]]:
    """Return the model for what is known, with a flag where that is not the bundle's full one."""
    if missing := [role for role in spec.required if role not in roles]:
        reduced = bundle.reduced(roles)
        return reduced, (f"the reduced model was used, which does without {', '.join(missing)}",)
    absent = [f.name for f in bundle.model.decision.features if f.name not in features]
    names = [n.removeprefix(clinical.FEATURE_PREFIX) for n in absent if n.startswith(clinical.FEATURE_PREFIX)]
    if spec.cnn and spec.cnn.status and any(n.endswith(":cnn:h") for n in absent):
        names.append(spec.cnn.status)
    if not names:
        return bundle.model, ()
    unknown = ", ".join(dict.fromkeys(clinical.title_of(n) for n in names))
    if bundle.imaging_only is None:
        raise MissingClinical(f"not known: {unknown}, and {bundle.label} has no model that does without")
    return bundle.imaging_only, (f"imaging alone was used, with the model that is made for that; not known: {unknown}",)


def _predictor(model: Model) -> Callable[[FloatArray], FloatArray]:
    return lambda rows: classify.calibrated_log_odds(model.classifier, model.decision, rows)


def _applicability(spec: PipelineSpec, bundle: Bundle, model: Model, complete: Mapping[str, float]) -> tuple[tuple[str, ...], bool]:
    """Return what lies outside the range of the training cases, in words, and whether that withholds the call.

    In the place of the first stage's score stand the features that made it.
    """
    features = list(model.decision.features)
    if bundle.score and any(f.name == SCORE for f in features):
        features = [*bundle.score.decision.features, *(f for f in features if f.name != SCORE)]
    outside = [f.name for f in features if not f.low <= complete[f.name] <= f.high]
    if not outside:
        return (), False
    withheld = spec.withhold_outside is not None and len(outside) > spec.withhold_outside * len(features)
    words = f"{len(outside)} of {len(features)} features lie outside the training range: {', '.join(outside[:3])}"
    return (words, *(["the call is withheld: this case is unlike those the model was trained on"] if withheld else [])), withheld


def _alternatives(spec: PipelineSpec, bundle: Bundle, features: Mapping[str, float]) -> tuple[Outcome, ...]:
    """Return the probability under both states of the clinical status that the system declares, if all else that it takes is known."""
    if spec.alternative is None:
        return ()
    name, outcomes = clinical.FEATURE_PREFIX + spec.alternative.name, []
    for state, code in enumerate(spec.alternative.codes):
        supposed = _complete(spec, bundle, {**features, name: float(state)})
        if any(feature.name not in supposed for feature in bundle.model.decision.features):
            return ()
        row = classify.standardise(classify.select(supposed, bundle.model.decision), bundle.model.decision)
        probability = classify.sigmoid(float(_predictor(bundle.model)(row[None])[0]))
        outcomes.append(Outcome(code, probability, "alternative", code.meaning))
    return tuple(outcomes)


def _without_status(spec: PipelineSpec, bundle: Bundle, complete: Mapping[str, float]) -> tuple[Outcome, ...]:
    """Return the probability by the bundle's model that does not know the status whose states are alternatives."""
    if spec.alternative is None or bundle.imaging_only is None:
        return ()
    model, code = bundle.imaging_only, spec.alternative.without
    row = classify.standardise(classify.select(complete, model.decision), model.decision)
    return (Outcome(code, classify.sigmoid(float(_predictor(model)(row[None])[0])), "without", code.meaning),)


def _name(model: Model, raw: FloatArray, values: FloatArray) -> list[Contribution]:
    return [_contribution(f.name, float(x), float(phi)) for f, x, phi in zip(model.decision.features, raw, values, strict=True)]


def _contribution(name: str, value: float, log_odds: float) -> Contribution:
    role, block, feature = name.split(":", 2)
    return Contribution(feature=feature, group=f"{role}:{block}", value=value, log_odds=log_odds)


def _unfold(
    bundle: Bundle, model: Model, features: Mapping[str, float], own: list[Contribution], base: float
) -> tuple[tuple[Contribution, ...], float]:
    """Put in the place of the first stage's score the features that made it: a linear second stage passes their shares on unchanged."""
    names = [f.name for f in model.decision.features]
    if bundle.score and SCORE in names and model.decision.linear and model.decision.platt:
        index, first = names.index(SCORE), bundle.score
        feature, coefficient = model.decision.features[index], model.decision.linear.coefficients[index]
        factor = model.decision.platt.a * coefficient / feature.std
        raw = classify.select(features, first.decision)
        inner = explain(_predictor(first), classify.standardise(raw, first.decision), background=first.background)
        shares = _name(first, raw, inner.values * factor)
        base += own[index].log_odds - sum(c.log_odds for c in shares)
        own = [*own[:index], *shares, *own[index + 1 :]]
    return tuple(sorted(own, key=lambda c: -abs(c.log_odds))), base


def _nomogram(model: Model, raw: FloatArray) -> tuple[NomogramRow, ...]:
    """Return the lines of a linear decision that joins clinical values: 100 points for the widest range of log-odds."""
    decision = model.decision
    if decision.linear is None or not any(f.name.startswith(clinical.FEATURE_PREFIX) for f in decision.features):
        return ()
    slopes = [c / f.std for c, f in zip(decision.linear.coefficients, decision.features, strict=True)]
    widest = max(abs(s) * (f.high - f.low) for s, f in zip(slopes, decision.features, strict=True))
    calibration = decision.platt.a if decision.platt else 1.0
    rows = []
    for slope, f, value in zip(slopes, decision.features, raw, strict=True):
        start = f.low if slope >= 0 else f.high  # the end with no points
        scale = 100.0 * slope / widest
        name = f.name.removeprefix(clinical.FEATURE_PREFIX)
        known = clinical.KNOWN.get(name)
        words = _SCORE_WORDS if f.name == SCORE else clinical.title_of(name) if name != f.name else f.name
        rows.append(
            NomogramRow(
                name=f.name,
                words=words,
                value=float(value),
                unit=known.unit if known else "",
                low=f.low,
                high=f.high,
                points=float(scale * (value - start)),
                low_points=float(scale * (f.low - start)),
                high_points=float(scale * (f.high - start)),
                log_odds=float(calibration * slope * value),
            )
        )
    return tuple(rows)


def _classify(
    spec: PipelineSpec,
    bundle: Bundle,
    model: Model,
    features: Mapping[str, float],
    flags: tuple[str, ...],
    progress: Callable[[str], None],
) -> Decided:
    """Judge a system of several classes: the most probable one, all others, and the binary axes that they share."""
    decision = model.decision
    raw = classify.select(features, decision)
    row = classify.standardise(raw, decision)
    probabilities = classify.class_probabilities(model.classifier, decision, row[None])[0]
    labels = {label.number: label for label in spec.classes}
    seen = [labels[number] for number in decision.classes]
    best = int(np.argmax(probabilities))
    classes = [Outcome(label.code, float(p), "class", label.code.meaning) for label, p in zip(seen, probabilities, strict=True)]
    axes = [
        Outcome(code, float(sum(p for label, p in zip(seen, probabilities, strict=True) if label.axes[i])), "axis", code.meaning)
        for i, code in enumerate(spec.axes)
    ]
    outside, withheld = _applicability(spec, bundle, model, features)
    prediction = _predict(
        spec,
        bundle,
        probability=float(probabilities[best]),
        threshold=None,
        threshold_rule=decision.threshold_rule,
        call="withheld" if withheld else "class",
        flags=(*flags, *outside),
        outcomes=(*axes, *sorted(classes, key=lambda o: -o.probability)),
        unpredictable=tuple(label.code.meaning for label in spec.classes if label.number not in decision.classes),
        plausible=tuple(labels[number].code.meaning for number in classify.plausible_classes(decision, probabilities)),
        coverage=decision.class_conformal.coverage if decision.class_conformal else None,
    )

    def of_best(rows: FloatArray) -> FloatArray:
        return classify.logit(classify.class_probabilities(model.classifier, decision, rows)[:, best])

    progress("explain")
    shapley = explain(of_best, row, background=model.background)
    named = tuple(sorted(_name(model, raw, shapley.values), key=lambda c: -abs(c.log_odds)))
    return Decided(prediction, named, shapley.base, ())
