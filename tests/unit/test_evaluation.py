"""What an evaluation makes of patients' rows: tables, baselines, statements, and the count of looks. No images, no bundle."""

from __future__ import annotations

import datetime
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import CohortError
from pipelines.systems.histotype_mri import SPEC as TYPING
from pipelines.training.breakdown import baselines, group_tables, judge_calls
from pipelines.training.calibration import calibration
from pipelines.training.discrimination import adjust_holm, compare_paired, compare_unpaired, delong
from pipelines.training.evaluate import assemble, judge_patients
from pipelines.training.evaluation import BundleFacts, Evaluation, Flow, PatientRow, read_evaluation, write_evaluation
from pipelines.training.evaluation_table import describe
from pipelines.training.several import WITHHELD, judge_several
from pipelines.training.tally import FILE_NAME, Look, Tally, check_tally, count_look
from pipelines.types import BundleStatus

_DATE = datetime.date(2026, 11, 21)
_LOOK = Look(_DATE, "cohort.csv", "c" * 64, "olnm_mri", "site-1", "b" * 64, 40, 0.8)
_BUNDLE = BundleFacts(
    system="olnm_mri",
    title="Occult lymph node metastasis (MRI)",
    finding="Probability of occult lymph node metastasis",
    version="site-1",
    status=BundleStatus.RESEARCH,
    threshold=0.5,
    threshold_rule="Youden",
    trained_on="site",
    training_sites=("Home",),
    training_metrics={},
    training_statement="",
)


def _patients(n: int = 40, seed: int = 0) -> list[PatientRow]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    p = np.clip(0.4 + 0.2 * labels + 0.2 * rng.normal(size=n), 0.01, 0.99)
    return [
        PatientRow(
            line=i + 2,
            patient=f"P{i}",
            site="A" if i < n // 2 else "B",
            label=int(labels[i]),
            probability=float(p[i]),
            threshold=0.5,
            call="positive" if p[i] >= 0.5 else "negative",
            roi_origin="SEG",
            measurements={"Volume [ml]": float(rng.gamma(3, 5) + 5 * labels[i]), "Long Axis [mm]": float(rng.gamma(9, 3)), "ADC [1]": 1.0},
            manufacturer="SIEMENS" if i % 4 else "",
            model="Vida",
            field_strength_t=3.0 if i < n - 2 else 1.5,
            flags=(),
        )
        for i in range(n)
    ]


def _evaluate(patients: list[PatientRow], *, bundle: BundleFacts = _BUNDLE, synthetic: bool = False, looks: int = 1) -> Evaluation:
    labels = dict(Counter(x.label for x in patients))
    flow = Flow(len(patients), labels, 0, (), {}, len(patients), labels, 0, {"SEG": len(patients)})
    tally, numbers = Tally((_LOOK,) * looks, looks, 1), judge_patients(bundle, patients, seed=1, resamples=50)
    return assemble(bundle, flow, patients, numbers, look=_LOOK, tally=tally, synthetic=synthetic, seed=1)


_KNOWN = (4, 6, 7)
_SEVERAL = replace(_BUNDLE, system="histotype_mri", threshold=None, threshold_rule="the most probable class", classes=_KNOWN)


def _class_patients() -> list[PatientRow]:
    """Sixty patients, two of them of class 5, which the bundle does not know, and four whose call was withheld."""
    rng = np.random.default_rng(3)
    labels = [*rng.choice(_KNOWN, size=58, p=[0.25, 0.5, 0.25]).tolist(), 5, 5]
    scores = rng.random((60, 3)) + 0.6 * (np.array(labels)[:, None] == np.array(_KNOWN))
    rows = []
    for i, (x, label, p) in enumerate(zip(_patients(60), labels, scores / scores.sum(axis=1, keepdims=True), strict=True)):
        call = "withheld" if i < 4 else "class"
        classes = dict(zip(_KNOWN, p.tolist(), strict=True))
        rows.append(replace(x, label=label, probability=float(p.max()), threshold=None, call=call, classes=classes))
    return rows


def test_several_classes_are_judged_as_a_whole_and_each_axis_and_class_as_a_finding() -> None:
    patients = _class_patients()
    found = _evaluate(patients, bundle=_SEVERAL)
    labels = np.array([x.label for x in patients])
    p = np.array([[x.classes[c] for c in _KNOWN] for x in patients])
    calls = np.array(_KNOWN)[p.argmax(axis=1)]
    several = found.several
    assert several is not None
    assert (found.events, several.classes, several.called) == (None, (4, 5, 6, 7), _KNOWN)
    told = np.arange(60) >= 4
    assert several.confusion == tuple(tuple(int(((labels == a) & (calls == b) & told).sum()) for b in _KNOWN) for a in several.classes)
    assert (several.accuracy.count, several.accuracy.of) == (int((labels == calls)[told].sum()), 56)
    assert several.balanced_accuracy is not None
    assert several.balanced_accuracy.value == pytest.approx(np.mean([(calls == c)[told & (labels == c)].mean() for c in (4, 5, 6, 7)]))
    truth = (labels[:, None] == np.array((4, 5, 6, 7))).astype(float)
    every = np.insert(p, 1, 0.0, axis=1)
    assert several.brier.value == pytest.approx(((every - truth) ** 2).sum(axis=1).mean())
    base = ((truth.mean(axis=0) - truth) ** 2).sum(axis=1).mean()
    assert several.scaled_brier.value == pytest.approx(1 - several.brier.value / base)
    areas = [delong(p[:, k], (labels == c).astype(int)) for k, c in enumerate(_KNOWN)]
    assert [auc for _, auc in several.one_against_rest] == areas
    assert found.auc == several.mean_auc
    assert found.auc.value == pytest.approx(np.mean([auc.value for auc in areas]))
    assert found.auc.interval is not None
    assert found.auc.interval.low < found.auc.value < found.auc.interval.high
    assert several.unjudged == ("Probability of large cells",)  # every class that the bundle knows has large cells
    axes = [f for f in found.findings if f.name.startswith("Probability")]
    assert [f.name for f in axes] == ["Probability of a non-keratinizing type", "Probability of adenocarcinoma"]
    assert axes[0].auc == several.axes[0][1] == delong(p[:, 1] + p[:, 2], np.isin(labels, (6, 7)).astype(int))
    assert axes[1].labels == tuple(np.isin(labels, (5, 7)).astype(int).tolist())
    point = axes[1].operating_point
    assert point is not None
    assert (point.tp, point.fn) == (int(((calls == 7) & np.isin(labels, (5, 7)) & told).sum()), point.sensitivity.of - point.tp)
    assert len(found.findings) == 5
    assert all(f.baselines and f.groups and f.calibration.prevalence == pytest.approx(np.mean(f.labels)) for f in found.findings)


def test_several_classes_say_what_they_cannot_tell(tmp_path: Path) -> None:
    found = _evaluate(_class_patients(), bundle=_SEVERAL)
    assert any("The bundle cannot call 2 of class 5" in w and "count as wrong" in w for w in found.warnings)
    assert any("Not judged" in w and "large cells" in w for w in found.warnings)
    text = "\n".join(describe(found))
    for words in (
        "mean AUC",
        "true class 5",
        "never predicted    Small-cell keratinizing adenocarcinoma",
        "-- Probability of adenocarcinoma",
    ):
        assert words in text
    write_evaluation(tmp_path / "evaluation.json", found)
    assert read_evaluation(tmp_path / "evaluation.json") == found


def test_two_classes_of_several_are_judged_as_a_binary_system_is() -> None:
    rng = np.random.default_rng(1)
    labels = np.where(np.arange(80) % 4 == 0, 7, 6)
    p = np.clip(0.4 + 0.3 * (labels == 7) + 0.2 * rng.normal(size=80), 0.01, 0.99)
    both, calls = np.column_stack([1 - p, p]), np.where(p >= 0.5, 7, 6)
    found = judge_several(both, labels, calls, known=(6, 7), spec=TYPING, seed=1, resamples=200)
    assert found.mean_auc.value == pytest.approx(delong(p, (labels == 7).astype(int)).value)
    binary = calibration(p, (labels == 7).astype(int), external=True, resamples=200, seed=1)
    assert found.brier.value == pytest.approx(2 * binary.brier.value)
    assert found.scaled_brier.value == pytest.approx(binary.scaled_brier.value)
    assert found.scaled_brier.interval is not None and binary.scaled_brier.interval is not None
    assert found.scaled_brier.interval.low == pytest.approx(binary.scaled_brier.interval.low)
    withheld = judge_several(both, labels, np.full(80, WITHHELD), known=(6, 7), spec=TYPING, seed=1, resamples=20)
    assert (withheld.balanced_accuracy, withheld.accuracy.value) == (None, None)
    with pytest.raises(CohortError, match="no class that the model knows has two patients"):
        judge_several(both, np.full(80, 6), calls, known=(6, 7), spec=TYPING, seed=1, resamples=20)


def test_size_alone_is_a_baseline_and_adc_is_not() -> None:
    patients = _patients()
    p, y = np.array([x.probability for x in patients]), np.array([x.label for x in patients])
    volume = np.array([x.measurements["Volume [ml]"] for x in patients])
    found = baselines(patients)
    assert [b.name for b in found] == ["Volume [ml]", "Long Axis [mm]"]
    assert found[0].auc == delong(volume, y)
    assert found[0].comparison == compare_paired(p, volume, y)
    family = [b.comparison.p for b in found if b.comparison.p is not None]
    assert [b.p_holm for b in found] == adjust_holm(family)
    assert [b.p_bonferroni for b in found] == pytest.approx([min(1, 2 * v) for v in family])
    patients[3] = replace(patients[3], measurements={"Long Axis [mm]": 20.0})  # a baseline needs all patients
    assert [b.name for b in baselines(patients)] == ["Long Axis [mm]"]


def test_images_alone_are_a_baseline_of_a_model_that_joins_clinical_values() -> None:
    rng = np.random.default_rng(8)
    patients = [replace(x, alone=float(rng.random())) for x in _patients()]
    alone, y = np.array([x.alone for x in patients]), np.array([x.label for x in patients])
    *_, last = found = baselines(patients)
    assert (len(found), last.name) == (3, "Images, without clinical values")
    assert last.comparison == compare_paired(np.array([x.probability for x in patients]), alone, y)
    assert [b.p_holm for b in found] == adjust_holm([b.comparison.p for b in found if b.comparison.p is not None])
    assert len(baselines([replace(patients[0], alone=None), *patients[1:]])) == 2


def test_perfect_model_gets_no_test_against_size() -> None:
    perfect = [replace(x, probability=0.9 if x.label else 0.1) for x in _patients()]
    found = baselines(perfect)
    assert [(b.comparison.p, b.p_holm) for b in found] == [(None, None)] * 2
    text = "\n".join(describe(_evaluate(perfect)))
    assert "no test, an area is 0 or 1" in text
    assert "not defined: the probabilities separate the classes" in text


def test_groups_hold_everyone_and_small_ones_have_no_area() -> None:
    patients = _patients()
    groups = {(g.variable, g.name): g for g in group_tables(patients)}
    assert set(groups) == {
        *(("site", s) for s in "AB"),
        *(("manufacturer", m) for m in ("SIEMENS", "not stated")),
        ("model", "Vida"),
        *(("field strength", f) for f in ("1.5 T", "3 T")),
    }
    p, y = np.array([x.probability for x in patients]), np.array([x.label for x in patients])
    a = groups["site", "A"]
    assert (a.n, a.events, a.auc) == (20, 10, delong(p[:20], y[:20]))
    assert a.against_others == compare_unpaired(p[:20], y[:20], p[20:], y[20:])
    assert a.sensitivity.of == a.specificity.of == 10
    assert a.sensitivity.count == int(((p[:20] >= 0.5) & (y[:20] == 1)).sum())
    small = groups["field strength", "1.5 T"]
    assert (small.n, small.auc, small.against_others) == (2, None, None)
    assert groups["model", "Vida"].against_others is None
    assert groups["manufacturer", "not stated"].sensitivity.value is None  # every fourth patient: all of them without the finding


def test_withheld_calls_count_for_the_area_only() -> None:
    patients = _patients()
    withheld = [replace(x, call="withheld") if i < 6 else x for i, x in enumerate(patients)]
    point = judge_calls(withheld)
    assert point is not None
    assert point.accuracy.of == 34
    assert _evaluate(withheld).auc == _evaluate(patients).auc
    assert judge_calls([replace(x, call="withheld") if x.label else x for x in patients]) is None


@pytest.mark.parametrize(
    ("change", "statement", "external"),
    [
        ({"synthetic": True}, "Synthetic phantoms; says nothing about patients.", True),
        ({"bundle": replace(_BUNDLE, trained_on="synthetic")}, "The bundle was trained on synthetic phantoms", True),
        ({}, "External cohort", True),
        ({"bundle": replace(_BUNDLE, training_sites=("  b ",))}, "Not an external cohort", False),
        ({"bundle": replace(_BUNDLE, training_sites=())}, "whether this is an external cohort is not known", None),
    ],
)
def test_statement_says_how_far_to_believe(change: dict[str, object], statement: str, external: bool | None) -> None:
    found = _evaluate(_patients(), **change)
    assert statement in found.statement
    assert found.external is external
    assert found.statement in "\n".join(describe(found))


def test_patient_without_site_leaves_the_cohort_without_sites() -> None:
    patients = _patients()
    patients[5] = replace(patients[5], site="")
    found = _evaluate(patients)
    assert (found.sites, found.external) == ((), None)
    assert _evaluate(_patients()).sites == ("A", "B")


def test_evaluation_survives_its_file(tmp_path: Path) -> None:
    found = _evaluate(_patients())
    write_evaluation(tmp_path / "evaluation.json", found)
    assert read_evaluation(tmp_path / "evaluation.json") == found
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.json"]
    with pytest.raises(CohortError, match="cannot be read"):
        read_evaluation(tmp_path / "none.json")


def test_looks_are_counted_by_name_or_content(tmp_path: Path) -> None:
    check_tally(tmp_path / "cohort.csv")
    first = count_look(tmp_path, _LOOK)
    assert (first.looks, first.of_this_bundle, first.bundles) == ((_LOOK,), 1, 1)
    count_look(tmp_path, replace(_LOOK, cohort="other.csv", cohort_digest="d" * 64))  # another cohort
    count_look(tmp_path, replace(_LOOK, system="lvsi_mri"))  # another question
    renamed = count_look(tmp_path, replace(_LOOK, cohort="copy.csv"))
    assert len(renamed.looks) == 2
    shortened = count_look(tmp_path, replace(_LOOK, cohort_digest="e" * 64, bundle_digest="f" * 64))
    assert (len(shortened.looks), shortened.of_this_bundle, shortened.bundles) == (3, 1, 2)
    assert "the best of several looks better than it is" in shortened.sentence
    assert len((tmp_path / FILE_NAME).read_text().splitlines()) == 5
    assert any("look 3 at this cohort" in w for w in _evaluate(_patients(), looks=3).warnings)


def test_damaged_count_stops_the_evaluation(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("{}\n")
    with pytest.raises(CohortError, match="nobody knows how often this cohort was looked at"):
        check_tally(tmp_path / "cohort.csv")
