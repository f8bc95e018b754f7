"""The last step of every system: which model, what it says, what it rests on, and for whom it says nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipelines.decide import SCORE, Decided, check_inclusion, decide
from pipelines.errors import InferenceError, MissingClinical, MissingSequence, NotApplicable
from pipelines.features import clinical
from pipelines.models.bundle import Bundle
from pipelines.models.classify import sigmoid
from pipelines.models.manifest import ClassConformal, FileEntry, Manifest
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.types import SeriesRole

SPECS = catalogue()
HYBRID, ULTRASOUND, TYPING, OLNM = (SPECS[name] for name in ("lnm_hybrid", "plnm_us", "histotype_mri", "olnm_mri"))
DIAMETER, RBC, NODE = (f"CLINICAL:value:{name}" for name in ("max_tumour_diameter_mm", "rbc_1e12_per_l", "node_positive"))
SIZE, TEXTURE = "TVUS:radiomics:original_shape_MeshVolume", "TVUS:radiomics:original_glcm_Contrast"


def _feature(name: str, mean: float = 0.0, std: float = 1.0, low: float = -3.0, high: float = 3.0) -> dict[str, Any]:
    return {"name": name, "mean": mean, "std": std, "low": low, "high": high}


def _linear(folder: Path, name: str, features: Sequence[dict[str, Any]], coefficients: Sequence[float], **more: Any) -> dict[str, Any]:
    """Return a linear decision, with a background of its own on disk."""
    np.save(folder / f"{name}.npy", np.random.default_rng(len(name)).normal(size=(12, len(features))))
    return {
        "linear": {"intercept": -0.3, "coefficients": list(coefficients)},
        "classifier": name,
        "features": list(features),
        "platt": {"a": 0.8, "b": 0.1, "covariance": (0.04, -0.01, 0.09)},
        "threshold": 0.4,
        "threshold_rule": "fixed",
        "background": f"{name}.npy",
        **more,
    }


def _bundle(folder: Path, spec: PipelineSpec, **parts: Any) -> Bundle:
    manifest = Manifest.model_validate(
        {
            "system": spec.name,
            "version": "test-1",
            "status": "demo",
            "intended_use": "tests",
            "method_digest": spec.method_digest(),
            "segmenter": None,
            "training": {"data": "synthetic", "description": "", "n": 0, "events": 0, "seed": 0, "statement": ""},
            "made_with": {},
            "files": {path.name: FileEntry(sha256="0" * 64, size=1) for path in folder.iterdir()},
            **parts,
        }
    )
    return Bundle(folder, manifest, "0" * 64)


def _decide(spec: PipelineSpec, bundle: Bundle, features: Mapping[str, float], roles: Sequence[SeriesRole] = ()) -> Decided:
    return decide(spec, bundle, features, roles=roles or spec.required, progress=lambda stage: None)


def _values(**stated: object) -> dict[str, Any]:
    return clinical.parse_all(stated, source="order")


@pytest.fixture
def joined(tmp_path: Path) -> Bundle:
    """An ultrasound bundle: a score of two features, joined with two clinical values by a nomogram."""
    score = _linear(tmp_path, "score", [_feature(SIZE, 2.0, 0.5, 0.0, 4.0), _feature(TEXTURE)], (1.2, -0.7))
    numbers = [_feature(SCORE, 0.2, 1.5, -4.0, 4.0), _feature(DIAMETER, 35.0, 12.0, 15.0, 60.0), _feature(RBC, 4.2, 0.5, 3.0, 5.5)]
    nomogram = _linear(tmp_path, "nomogram", numbers, (0.9, 0.6, -0.25))
    return _bundle(tmp_path, ULTRASOUND, score=score, decision=nomogram, imaging_only=score)


PATIENT = {SIZE: 2.6, TEXTURE: -0.4, DIAMETER: 44.0, RBC: 3.8}


def _by_hand(x: Mapping[str, float]) -> tuple[float, float]:
    """Return log-odds of the score and of the nomogram."""
    score = 0.8 * (-0.3 + 1.2 * (x[SIZE] - 2.0) / 0.5 - 0.7 * x[TEXTURE]) + 0.1
    raw = -0.3 + 0.9 * (score - 0.2) / 1.5 + 0.6 * (x[DIAMETER] - 35) / 12 - 0.25 * (x[RBC] - 4.2) / 0.5
    return score, 0.8 * raw + 0.1


def test_nomogram_joins_score_and_clinical_values(joined: Bundle) -> None:
    decided = _decide(ULTRASOUND, joined, PATIENT)
    expected = sigmoid(_by_hand(PATIENT)[1])
    assert decided.prediction.probability == pytest.approx(expected, abs=1e-12)
    assert decided.prediction.call == ("positive" if expected >= 0.4 else "negative")
    assert decided.prediction.flags == ()


def test_score_unfolds_into_the_features_that_made_it(joined: Bundle) -> None:
    decided = _decide(ULTRASOUND, joined, PATIENT)
    names = {f"{c.group}:{c.feature}" for c in decided.contributions}
    assert names == {SIZE, TEXTURE, DIAMETER, RBC}
    total = decided.base_log_odds + sum(c.log_odds for c in decided.contributions)
    assert total == pytest.approx(_by_hand(PATIENT)[1], abs=1e-9)
    sizes = [abs(c.log_odds) for c in decided.contributions]
    assert sizes == sorted(sizes, reverse=True)
    background = np.load(joined.folder / "score.npy")[:, 0]
    share = next(c.log_odds for c in decided.contributions if c.feature.endswith("MeshVolume"))
    assert share == pytest.approx(0.8 * 0.9 / 1.5 * 0.8 * 1.2 * ((2.6 - 2.0) / 0.5 - background.mean()), abs=1e-9)


def test_nomogram_rows_are_in_points_of_the_widest_one(joined: Bundle) -> None:
    rows = {row.name: row for row in _decide(ULTRASOUND, joined, PATIENT).nomogram}
    assert list(rows) == [SCORE, DIAMETER, RBC]
    assert max(max(row.low_points, row.high_points) for row in rows.values()) == pytest.approx(100.0)
    assert all(min(row.low_points, row.high_points) == pytest.approx(0.0) for row in rows.values())
    per_log_odds = 100.0 / (0.9 / 1.5 * 8.0)  # the score runs over 8 log-odds
    diameter, rbc = rows[DIAMETER], rows[RBC]
    assert diameter.points == pytest.approx(0.6 / 12 * (44 - 15) * per_log_odds)
    assert rbc.points == pytest.approx(0.25 / 0.5 * (5.5 - 3.8) * per_log_odds)  # fewer cells are worse: points count from the high end
    assert (rbc.low_points, rbc.high_points) == (pytest.approx(0.25 / 0.5 * 2.5 * per_log_odds), pytest.approx(0.0))
    assert (diameter.value, diameter.unit, rbc.unit) == (44.0, "mm", "10^12/L")
    assert rows[SCORE].value == pytest.approx(_by_hand(PATIENT)[0])
    constant = _by_hand(PATIENT)[1] - sum(row.log_odds for row in rows.values())
    other = PATIENT | {DIAMETER: 20.0, RBC: 5.0}
    moved = _decide(ULTRASOUND, joined, other)
    assert _by_hand(other)[1] == pytest.approx(constant + sum(row.log_odds for row in moved.nomogram), abs=1e-9)


def test_unknown_clinical_value_leaves_the_imaging_alone_and_says_so(joined: Bundle) -> None:
    decided = _decide(ULTRASOUND, joined, {SIZE: 2.6, TEXTURE: -0.4, DIAMETER: 44.0})
    assert decided.prediction.probability == pytest.approx(sigmoid(_by_hand(PATIENT)[0]), abs=1e-12)
    (flag,) = decided.prediction.flags
    assert "imaging alone" in flag
    assert "Red blood cells" in flag
    assert "diameter" not in flag
    assert decided.nomogram == ()


def test_unknown_clinical_value_is_refused_where_the_bundle_cannot_do_without(joined: Bundle) -> None:
    strict = Bundle(joined.folder, joined.manifest.model_copy(update={"imaging_only": None}), joined.digest)
    with pytest.raises(MissingClinical, match="not known: Red blood cells, and plnm_us test-1 has no model that does without"):
        _decide(ULTRASOUND, strict, {SIZE: 2.6, TEXTURE: -0.4, DIAMETER: 44.0})


def test_missing_feature_is_an_error_and_not_a_zero(joined: Bundle) -> None:
    with pytest.raises(InferenceError, match=r"1 features .* were not extracted, first TVUS:radiomics:original_glcm_Contrast"):
        _decide(ULTRASOUND, joined, {SIZE: 2.6, DIAMETER: 44.0, RBC: 3.8})


@pytest.mark.parametrize(("limit", "call"), [(None, "positive"), (0.7, "positive"), (0.3, "withheld")])
def test_call_is_withheld_far_from_the_training_cases(joined: Bundle, limit: float | None, call: str) -> None:
    spec = replace(ULTRASOUND, withhold_outside=limit)
    prediction = _decide(spec, joined, PATIENT | {DIAMETER: 90.0, RBC: 1.0}).prediction
    assert prediction.call == call
    assert prediction.flags[0].startswith("2 of 4 features lie outside the training range: CLINICAL:value:max_tumour_diameter_mm")
    assert any("withheld" in flag for flag in prediction.flags) is (call == "withheld")


def test_images_unlike_the_training_ones_are_flagged_though_only_their_score_is_joined(joined: Bundle) -> None:
    spec = replace(ULTRASOUND, withhold_outside=0.4)
    prediction = _decide(spec, joined, PATIENT | {SIZE: 1e3, TEXTURE: -1e3}).prediction
    assert prediction.flags[0].startswith(f"2 of 4 features lie outside the training range: {SIZE}, {TEXTURE}")
    assert prediction.call == "withheld"


def test_interval_is_the_delta_method_on_both_numbers_of_the_calibration(joined: Bundle) -> None:
    prediction = _decide(ULTRASOUND, joined, PATIENT).prediction
    raw = (_by_hand(PATIENT)[1] - 0.1) / 0.8
    half = 1.959963984540054 * math.sqrt(0.04 * raw**2 - 2 * 0.01 * raw + 0.09)
    centre = _by_hand(PATIENT)[1]
    assert prediction.interval == pytest.approx((sigmoid(centre - half), sigmoid(centre + half)), abs=1e-12)
    low, high = prediction.interval or (1.0, 0.0)
    assert low < prediction.probability < high


@pytest.mark.parametrize(
    ("positive_from", "negative_to", "plausible"),
    [(0.2, 0.9, ("positive", "negative")), (0.5, 0.6, ("positive",)), (0.95, 0.98, ("negative",)), (0.95, 0.3, ())],
)
def test_conformal_set_holds_what_its_limits_allow(
    tmp_path: Path, positive_from: float, negative_to: float, plausible: tuple[str, ...]
) -> None:
    rule = {"coverage": 0.9, "positive_from": positive_from, "negative_to": negative_to}
    one = _linear(tmp_path, "score", [_feature(SIZE), _feature(TEXTURE)], (1.0, 1.0), conformal=rule)
    prediction = _decide(ULTRASOUND, _bundle(tmp_path, ULTRASOUND, decision=one), {SIZE: 1.0, TEXTURE: 0.7}).prediction
    assert prediction.probability == pytest.approx(sigmoid(0.8 * 1.4 + 0.1))  # 0.77
    assert (prediction.plausible, prediction.coverage) == (plausible, 0.9)


def _hybrid(folder: Path, *, joint: bool) -> Bundle:
    network = [_feature("CE_T1W:cnn:dl")]
    if joint:
        told = _linear(folder, "joint", [_feature("CE_T1W:cnn:h")], (1.1,))
        return _bundle(folder, HYBRID, decision=told, imaging_only=_linear(folder, "alone", network, (0.9,)))
    score = _linear(folder, "score", network, (0.9,))
    late = _linear(folder, "late", [_feature(SCORE), _feature(NODE, 0.2, 0.4, 0.0, 1.0)], (0.7, 1.3))
    return _bundle(folder, HYBRID, score=score, decision=late, imaging_only=score)


NETWORK = {"CE_T1W:cnn:dl": 0.4, "CE_T1W:cnn:h0": -0.6, "CE_T1W:cnn:h1": 1.5}


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("state", [0.0, 1.0])
def test_both_node_states_are_stated_and_the_patients_own_is_the_answer(tmp_path: Path, joint: bool, state: float) -> None:
    decided = _decide(HYBRID, _hybrid(tmp_path, joint=joint), NETWORK | {NODE: state})
    outcomes = decided.prediction.outcomes
    assert [(o.code.value, o.kind) for o in outcomes] == [
        ("P.LNM.NODE0", "alternative"), ("P.LNM.NODE1", "alternative"), ("P.LNM.DL", "without"),
    ]  # fmt: skip
    assert outcomes[0].probability < outcomes[1].probability
    assert outcomes[2].probability == pytest.approx(sigmoid(0.8 * (-0.3 + 0.9 * 0.4) + 0.1)), "of the model that is not told the status"
    assert decided.prediction.probability == outcomes[int(state)].probability
    assert decided.prediction.flags == ()
    assert bool(decided.nomogram) is not joint


@pytest.mark.parametrize("joint", [True, False])
def test_unknown_node_status_leaves_the_image_alone_and_still_states_both(tmp_path: Path, joint: bool) -> None:
    decided = _decide(HYBRID, _hybrid(tmp_path, joint=joint), NETWORK)
    assert decided.prediction.probability == pytest.approx(sigmoid(0.8 * (-0.3 + 0.9 * 0.4) + 0.1))
    assert "Lymph node positive on MRI" in decided.prediction.flags[0]
    assert [o.kind for o in decided.prediction.outcomes] == ["alternative", "alternative", "without"]
    assert decided.prediction.outcomes[2].probability == decided.prediction.probability
    assert {c.feature for c in decided.contributions} == {"dl"}


def test_alternatives_are_left_out_where_something_else_is_unknown(tmp_path: Path) -> None:
    score = _linear(tmp_path, "score", [_feature("CE_T1W:cnn:dl")], (0.9,))
    more = _linear(tmp_path, "late", [_feature(SCORE), _feature(NODE), _feature("CLINICAL:value:age_y")], (0.7, 1.3, 0.1))
    bundle = _bundle(tmp_path, HYBRID, score=score, decision=more, imaging_only=score)
    prediction = _decide(HYBRID, bundle, NETWORK).prediction
    assert [o.kind for o in prediction.outcomes] == ["without"]
    assert "Age" in prediction.flags[0]


def test_projection_makes_components_of_deep_features(tmp_path: Path) -> None:
    matrix = np.array([[1.0, 2.0, 3.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    np.save(tmp_path / "pca.npy", matrix)
    decision = _linear(tmp_path, "score", [_feature("TVUS:pca:1"), _feature("TVUS:pca:0")], (0.5, 2.0))
    bundle = _bundle(tmp_path, ULTRASOUND, decision=decision, projections=[{"role": "TVUS", "file": "pca.npy", "components": 2}])
    deep = {"TVUS:cnn:0": 1.5, "TVUS:cnn:1": 1.0, "TVUS:cnn:2": 2.0}
    first, second = 0.6 * 0.5 - 0.8, -1.0
    assert _decide(ULTRASOUND, bundle, deep).prediction.probability == pytest.approx(
        sigmoid(0.8 * (-0.3 + 0.5 * second + 2.0 * first) + 0.1), abs=1e-12
    )


def test_reduced_model_serves_what_is_there_even_if_the_full_one_has_two_stages(tmp_path: Path) -> None:
    t1w, dwi = SeriesRole.T1W, SeriesRole.DWI
    spec = replace(OLNM, reduced=((t1w, dwi),), alternative=HYBRID.alternative)
    names = [f"{role}:radiomics:original_firstorder_Mean" for role in OLNM.required]
    score = _linear(tmp_path, "score", [_feature(n) for n in names], (1.0, 1.0, 1.0))
    full = _linear(tmp_path, "full", [_feature(SCORE), _feature(NODE)], (1.0, 1.0))
    less = _linear(tmp_path, "less", [_feature(names[0]), _feature(names[2])], (1.0, -0.5))
    bundle = _bundle(tmp_path, spec, score=score, decision=full, imaging_only=score, reduced=[{"roles": [t1w, dwi], "decision": less}])
    decided = _decide(spec, bundle, {names[0]: 1.0, names[2]: 2.0}, roles=(dwi, t1w))
    assert decided.prediction.probability == pytest.approx(sigmoid(0.8 * -0.3 + 0.1))
    assert decided.prediction.flags == ("the reduced model was used, which does without T2W_FS",)
    assert decided.prediction.outcomes == ()
    with pytest.raises(MissingSequence, match="no model for T1W alone"):
        _decide(spec, bundle, {names[0]: 1.0}, roles=(t1w,))


@pytest.fixture
def typing(tmp_path: Path) -> Bundle:
    """A typing bundle of three of the eight classes."""
    node = helper.make_node(
        "LinearClassifier",
        ["X"],
        ["label", "probabilities"],
        domain="ai.onnx.ml",
        classlabels_ints=[4, 6, 7],
        coefficients=[0.5, -0.2, 0.3, 0.9, -0.8, 0.1],
        intercepts=[0.1, 0.4, -0.2],
        post_transform="SOFTMAX",
    )
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 2])]
    outputs = [helper.make_tensor_value_info(n, t, None) for n, t in (("label", TensorProto.INT64), ("probabilities", TensorProto.FLOAT))]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(helper.make_graph([node], "g", inputs, outputs), opset_imports=opsets, ir_version=8), tmp_path / "c.onnx")
    names = ["T2W:shape:original_shape_MeshVolume", "T2W:histogram:median"]
    decision = _linear(tmp_path, "typing", [_feature(n) for n in names], (0.0, 0.0))
    decision |= {"linear": None, "platt": None, "threshold": None, "file": "c.onnx", "classes": [4, 6, 7], "class_odds": [2.0, 0.5, 1.0]}
    return _bundle(tmp_path, TYPING, decision=decision)


def test_classes_and_axes_add_up_and_absent_classes_are_named(typing: Bundle) -> None:
    x = np.array([0.8, -1.1])
    decided = _decide(TYPING, typing, {"T2W:shape:original_shape_MeshVolume": x[0], "T2W:histogram:median": x[1]})
    weighted = np.array([2.0, 0.5, 1.0]) * np.exp(np.array([[0.5, -0.2], [0.3, 0.9], [-0.8, 0.1]]) @ x + [0.1, 0.4, -0.2])
    expected = dict(zip((4, 6, 7), weighted / weighted.sum(), strict=True))
    prediction = decided.prediction
    of_class = {o.code.value: o.probability for o in prediction.outcomes if o.kind == "class"}
    axes = {o.code.value: o.probability for o in prediction.outcomes if o.kind == "axis"}
    assert of_class == {f"P.HIST.{c}": pytest.approx(p, abs=1e-6) for c, p in expected.items()}
    assert sum(of_class.values()) == pytest.approx(1.0)
    assert axes["P.HIST.LARGE"] == pytest.approx(1.0)
    assert axes["P.HIST.NONKER"] == pytest.approx(expected[6] + expected[7], abs=1e-6)
    assert axes["P.HIST.ADENO"] == pytest.approx(expected[7], abs=1e-6)
    assert (prediction.call, prediction.threshold, prediction.interval) == ("class", None, None)
    assert prediction.probability == max(of_class.values())
    assert [o.probability for o in prediction.outcomes if o.kind == "class"] == sorted(of_class.values(), reverse=True)
    assert len(prediction.unpredictable) == 5
    assert "Small-cell keratinizing squamous cell carcinoma" in prediction.unpredictable
    total = decided.base_log_odds + sum(c.log_odds for c in decided.contributions)
    assert sigmoid(total) == pytest.approx(prediction.probability, abs=1e-6)


def test_classes_that_cannot_be_excluded_are_named_with_the_most_probable_first(typing: Bundle) -> None:
    features = {"T2W:shape:original_shape_MeshVolume": 0.8, "T2W:histogram:median": -1.1}
    plain = _decide(TYPING, typing, features).prediction
    assert (plain.plausible, plain.coverage) == ((), None)
    ranked = [o.words for o in plain.outcomes if o.kind == "class"]
    last = min(o.probability for o in plain.outcomes if o.kind == "class")
    for limits, answers in (((0.0, 0.0, 0.0), ranked), ((1.0, 1.0, 1.0), ranked[:1]), ((last + 1e-9,) * 3, ranked[:2])):
        rule = ClassConformal(coverage=0.9, plausible_from=limits)
        decision = typing.manifest.decision.model_copy(update={"class_conformal": rule})
        bundle = replace(typing, manifest=typing.manifest.model_copy(update={"decision": decision}))
        prediction = _decide(TYPING, bundle, features).prediction
        assert (list(prediction.plausible), prediction.coverage) == (answers, 0.9)


def test_class_is_withheld_far_from_the_training_cases(typing: Bundle) -> None:
    far = {"T2W:shape:original_shape_MeshVolume": 9.0, "T2W:histogram:median": 0.0}
    assert _decide(replace(TYPING, withhold_outside=0.4), typing, far).prediction.call == "withheld"
    assert _decide(TYPING, typing, far).prediction.call == "class"


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"node_short_axis_mm": 10.0}, "no lymph node of 10 mm or more"),
        ({"node_suspicious": "necrosis"}, "no necrotic, irregular or blurred lymph node"),
        ({"figo_stage": "IIIB"}, "FIGO stage IB to IIB"),
        ({"figo_stage": "IA2"}, "FIGO stage IB to IIB"),
        ({"neoadjuvant_therapy": "yes"}, "no neoadjuvant therapy"),
        ({"histology_biopsy": "other"}, "squamous cell carcinoma or adenocarcinoma"),
    ],
)
def test_system_does_not_apply_to_whom_its_paper_left_out(stated: dict[str, object], words: str) -> None:
    with pytest.raises(NotApplicable, match=rf"does not apply: .*\(order\).*{words}"):
        check_inclusion(OLNM, _values(**stated))


def test_every_broken_rule_is_named_at_once() -> None:
    with pytest.raises(NotApplicable, match=r"lymph node of 10 mm.*; .*FIGO stage IB to IIB"):
        check_inclusion(OLNM, _values(node_short_axis_mm=12, figo_stage="IVA"))


def test_rules_that_cannot_be_verified_are_named_and_kept_ones_are_not() -> None:
    kept = _values(node_short_axis_mm=9.99, figo_stage="IB1", neoadjuvant_therapy="no", node_suspicious="no")
    beyond = "MRI within 2 weeks before surgery, no biopsy of lymph nodes"  # what no value can tell
    said = f"not verified, made for patients with: squamous cell carcinoma or adenocarcinoma, {beyond}"
    assert check_inclusion(OLNM, kept) == (said,)
    assert check_inclusion(OLNM, kept | _values(histology_biopsy="squamous")) == (f"not verified, made for patients with: {beyond}",)
    assert check_inclusion(HYBRID, {}) == ("not verified, made for patients with: the paper's criteria, which are not public",)
    assert check_inclusion(replace(HYBRID, unverified=()), {}) == ()
