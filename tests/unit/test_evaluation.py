"""What an evaluation makes of patients' rows: tables, baselines, statements, and the count of looks. No images, no bundle."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import CohortError
from pipelines.training.breakdown import group_tables, judge_calls, size_baselines
from pipelines.training.discrimination import adjust_holm, compare_paired, compare_unpaired, delong
from pipelines.training.evaluate import assemble
from pipelines.training.evaluation import BundleFacts, Evaluation, Flow, PatientRow, read_evaluation, write_evaluation
from pipelines.training.evaluation_table import describe
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
    events = sum(x.label for x in patients)
    flow = Flow(len(patients), events, 0, (), 0, len(patients), events, 0, {"SEG": len(patients)})
    tally = Tally((_LOOK,) * looks, looks, 1)
    return assemble(bundle, flow, patients, look=_LOOK, tally=tally, synthetic=synthetic, seed=1, resamples=50)


def test_size_alone_is_a_baseline_and_adc_is_not() -> None:
    patients = _patients()
    p, y = np.array([x.probability for x in patients]), np.array([x.label for x in patients])
    volume = np.array([x.measurements["Volume [ml]"] for x in patients])
    found = size_baselines(patients)
    assert [b.name for b in found] == ["Volume [ml]", "Long Axis [mm]"]
    assert found[0].auc == delong(volume, y)
    assert found[0].comparison == compare_paired(p, volume, y)
    family = [b.comparison.p for b in found if b.comparison.p is not None]
    assert [b.p_holm for b in found] == adjust_holm(family)
    assert [b.p_bonferroni for b in found] == pytest.approx([min(1, 2 * v) for v in family])
    patients[3] = replace(patients[3], measurements={"Long Axis [mm]": 20.0})  # a baseline needs all patients
    assert [b.name for b in size_baselines(patients)] == ["Long Axis [mm]"]


def test_perfect_model_gets_no_test_against_size() -> None:
    perfect = [replace(x, probability=0.9 if x.label else 0.1) for x in _patients()]
    found = size_baselines(perfect)
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
