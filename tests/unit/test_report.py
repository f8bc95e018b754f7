"""The report: what it says, that it says it of every shape of result, and that it needs nothing but itself."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.features.ibsi import CODES
from pipelines.training.calibration import calibration
from pipelines.training.discrimination import delong
from pipelines.training.evaluate import assemble, judge_patients
from pipelines.training.evaluation import BundleFacts, Evaluation, Flow, PatientRow, RefusedRow
from pipelines.training.evaluation_table import describe
from pipelines.training.nomogram import Nomogram
from pipelines.training.outcome import Outcome, read_outcome, write_outcome
from pipelines.training.pages import facts
from pipelines.training.pages.checklists import Fact, read_checklists, score
from pipelines.training.pages.curves import roc_band
from pipelines.training.pages.features import meaning
from pipelines.training.pages.svg import Axis
from pipelines.training.report import write_evaluation_report, write_report
from pipelines.training.tally import Look, Tally
from pipelines.types import BundleStatus
from tests.outcomes import make_classes, make_lie_detector, make_outcome

_VOID = {"meta", "br", "wbr", "path", "rect", "circle", "polygon"}


class _Page(HTMLParser):
    """Checks that elements close in order, and collects what tests ask for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def _evaluation(n: int = 60, **changes: object) -> Evaluation:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3 == 0
    p = np.clip(0.3 + 0.25 * labels + 0.2 * rng.normal(size=n), 0.01, 0.99)
    patients = [
        PatientRow(
            line=i + 2,
            patient=f"SECRET{i}",
            site="A" if i % 2 else "B",
            label=int(labels[i]),
            probability=float(p[i]),
            threshold=0.4,
            call="positive" if p[i] >= 0.4 else "negative",
            roi_origin="SEG",
            measurements={"Volume [ml]": float(rng.gamma(3, 5) + 5 * labels[i])},
            manufacturer="SIEMENS",
            model="Vida",
            field_strength_t=3.0,
            flags=(),
            plausible=(0, 1) if i % 4 == 0 else (int(p[i] >= 0.4),),
            interval=(float(p[i]) * 0.8, float(p[i])),
        )
        for i in range(n)
    ]
    facts = ("olnm_mri", "Occult metastasis", "finding", "v1", BundleStatus.RESEARCH, 0.4, "Youden", "site", ("Home",))
    bundle = BundleFacts(*facts, {"nested_auc": 0.81}, "", coverage=0.9)
    look = Look(datetime.date(2026, 3, 1), "cohort.csv", "c" * 64, "olnm_mri", "v1", "b" * 64, n, 0.8)
    refused = (RefusedRow(9, "X9", "A", 1, "bad_geometry", "slices are missing <between> 3 and 5"),)
    events = int(labels.sum())
    flow = Flow(n + 3, {0: n + 2 - events, 1: events + 1}, 2, refused, {1: 1}, n, {0: n - events, 1: events}, 0, {"SEG": n})
    numbers = judge_patients(bundle, patients, seed=1, resamples=50)
    made = assemble(bundle, flow, patients, numbers, look=look, tally=Tally((look,), 1, 1), synthetic=False, seed=1)
    return replace(made, **changes)  # type: ignore[arg-type]


def _several() -> Evaluation:
    """Return an evaluation of a bundle that knows classes 4, 6 and 7, on patients of whom two are of class 5."""
    one, rng = _evaluation(), np.random.default_rng(5)
    labels = [*rng.choice([4, 6, 7], size=58).tolist(), 5, 5]
    scores = rng.random((60, 3)) + 0.7 * (np.array(labels)[:, None] == np.array([4, 6, 7]))
    scores /= scores.sum(axis=1, keepdims=True)
    patients = [
        replace(
            x,
            label=y,
            probability=float(p.max()),
            threshold=None,
            call="class",
            classes=dict(zip((4, 6, 7), p.tolist(), strict=True)),
            plausible=tuple(k for k, v in zip((4, 6, 7), p.tolist(), strict=True) if v > 0.25),
        )
        for x, y, p in zip(one.patients, labels, scores, strict=True)
    ]
    rule = "the most probable class"
    bundle = replace(one.bundle, system="histotype_mri", threshold=None, threshold_rule=rule, classes=(4, 6, 7))
    counts = {c: labels.count(c) for c in (4, 5, 6, 7)}
    flow = replace(one.flow, row_labels=counts, labels=counts, refused_labels={4: 1})
    numbers, look = judge_patients(bundle, patients, seed=1, resamples=50), one.tally.looks[0]
    return assemble(bundle, flow, patients, numbers, look=look, tally=one.tally, synthetic=False, seed=1)


_NOTHING: dict[str, Any] = {
    **dict.fromkeys(
        ("lie_detector", "stability", "lasso", "beeswarm", "nomogram", "apparent_point", "conformal_coverage", "segmenter_dice")
    ),
    **dict.fromkeys(("rivals", "printed", "sites_left_out", "warnings"), ()),
    "method_digest": "0" * 64,
    "recipe": {},
}
_OUTSIDE = {"FIGO stage IB to IIB": (4, 17), "an age of 28 to 80 years": (9,)}
SHAPES: dict[str, Callable[[], Outcome | Evaluation]] = {
    "evaluated": _evaluation,
    "several evaluated": _several,
    "whole": make_outcome,
    "classes": make_classes,
    "invalid": lambda: make_outcome(lie_detector=make_lie_detector(valid=False), synthetic=False),
    "bare": lambda: make_outcome(**_NOTHING),
}


@pytest.fixture(scope="module", params=SHAPES)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Page:
    made, folder = SHAPES[request.param](), tmp_path_factory.mktemp("page")
    return _Page(write_evaluation_report(made, folder) if isinstance(made, Evaluation) else write_report(made, folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> _Page:
    return _Page(write_report(make_outcome(), tmp_path_factory.mktemp("report")))


def test_page_needs_nothing_from_elsewhere(page: _Page) -> None:
    assert {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags} == set()
    assert re.findall(r"(?:https?:)?//[a-z]|url\(|@import", page.source) == []


def test_page_is_accessible(page: _Page) -> None:
    assert page.tags[0] == ("html", {"lang": "en"})
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(headings))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(head.get("scope") for head in page.all("th"))
    identifiers = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(set(identifiers)) == len(identifiers)
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert set((svg["aria-labelledby"] or "").split()) <= set(identifiers)
    assert [a["href"] for a in page.all("a") if (a["href"] or "")[1:] not in identifiers] == []


def test_page_draws_finite_coordinates(page: _Page) -> None:
    drawn = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("d", "x", "y", "cx", "cy", "points", "width") and v]
    assert drawn
    assert not [v for v in drawn if re.search(r"nan|inf", v)]


def test_numbers_of_the_outcome_stand_on_the_page(whole: _Page) -> None:
    o = make_outcome()
    assert o.performance
    for value in (o.nested_auc, o.apparent_auc, o.performance.auc.interval.low, o.performance.calibration.ici.value, o.rivals[0].auc.value):
        assert f"{value:.3f}" in whole.text
    assert "0.880" in whole.text  # the Bayes AUC
    assert whole.text.index("Nested, mean over repeats") < whole.text.index("Apparent") < whole.text.index("As printed")


def test_synthetic_run_says_so_first(whole: _Page) -> None:
    assert whole.text.index("SYNTHETIC PHANTOMS, DEMO ONLY") < whole.text.index("Verdict")


def test_invalid_run_says_that_nothing_can_be_believed(tmp_path: Path) -> None:
    page = _Page(write_report(make_outcome(lie_detector=make_lie_detector(valid=False), synthetic=False), tmp_path))
    assert page.text.index("INVALID.") < page.text.index("Verdict")
    assert "Nothing in this report can be believed" in page.text
    assert "SYNTHETIC" not in page.text.split("Verdict")[0]
    assert "no step had seen, the AUC" not in page.text


def test_what_people_wrote_is_escaped(whole: _Page) -> None:
    assert "Philips &lt;EPIQ&gt;" in whole.source
    assert "<EPIQ>" not in whole.source


def test_report_names_no_patient(tmp_path: Path) -> None:
    assert not re.search(r">P\d+<", (write_report(make_outcome(), tmp_path)).read_text(encoding="utf-8"))
    evaluated = write_evaluation_report(_evaluation(), tmp_path).read_text(encoding="utf-8")
    assert "SECRET" not in evaluated
    assert "X9" not in evaluated


def test_report_is_drawn_from_the_file_alone(tmp_path: Path) -> None:
    write_outcome(tmp_path / "training.json", make_outcome())
    (tmp_path / "again").mkdir()
    first, second = write_report(make_outcome(), tmp_path), write_report(read_outcome(tmp_path / "training.json"), tmp_path / "again")
    assert first.read_text(encoding="utf-8") == second.read_text(encoding="utf-8")


def test_report_needs_no_training_library() -> None:
    code = "import sys; import pipelines.training.report; print({'torch', 'sklearn', 'lightgbm', 'shap'} & set(sys.modules) or 'none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"


def test_evaluation_report_lists_the_refused_and_says_how_external_it_is(tmp_path: Path) -> None:
    e = _evaluation()
    page = _Page(write_evaluation_report(e, tmp_path))
    assert "line 9" in page.text
    assert "slices are missing <between> 3 and 5" in page.text
    assert "None of the sites gave training cases: this is external validation." in page.text
    assert f"{e.auc.value:.3f}" in page.text
    assert "METRICS" not in page.text
    uncalled = tuple(replace(f, operating_point=None) for f in e.findings)
    unknown = _Page(write_evaluation_report(_evaluation(external=None, findings=uncalled), tmp_path))
    assert "cannot count as external validation" in unknown.text
    assert "the calls of one class were all withheld" in unknown.text


def test_several_classes_are_evaluated_as_a_whole_and_one_by_one(tmp_path: Path) -> None:
    e = _several()
    assert e.several
    page = _Page(write_evaluation_report(e, tmp_path))
    for value in (e.auc.value, e.several.brier.value, e.several.accuracy.value, *(f.auc.value for f in e.findings)):
        assert f"{value:.3f}" in page.text
    assert "called 7" in page.text
    assert "called 5" not in page.text
    assert "5: Large-cell keratinizing adenocarcinoma" in page.text
    assert "The call is the most probable class. TP" in page.text
    assert "1 of class 4" in page.text
    assert all(f"ROC curve: {f.name}" in page.text for f in e.findings)


def test_coverage_of_conformal_sets_is_judged_by_class(tmp_path: Path) -> None:
    for made, labels, unknown in ((_evaluation(), (0, 1), ()), (_several(), (4, 5, 6, 7), (5,))):
        assert made.coverage is not None
        by_label = {k: [k in x.plausible for x in made.patients if x.label == k] for k in labels}
        assert {k: (c.count, c.of) for k, c in made.coverage.each.items()} == {k: (sum(h), len(h)) for k, h in by_label.items()}
        assert made.coverage.held.count == sum(c.count for c in made.coverage.each.values())
        assert made.coverage.mean_size == pytest.approx(np.mean([len(x.plausible) for x in made.patients]))
        assert all(made.coverage.each[k].count == 0 for k in unknown)
        held = made.coverage.held
        assert any(f"{held.count}/{held.of} held the truth, 90 % aimed at" in line for line in describe(made))
        assert "<caption>Conformal sets</caption>" in write_evaluation_report(made, tmp_path).read_text()


def test_rows_outside_the_rules_stand_in_the_flow(tmp_path: Path) -> None:
    flow = replace(make_outcome().flow, rows=243, excluded=_OUTSIDE)
    page = _Page(write_report(make_outcome(flow=flow), tmp_path))
    assert "2 outside the rule: FIGO stage IB to IIB" in page.text
    assert "1 outside the rule: an age of 28 to 80 years" in page.text
    assert "kept for evaluation" not in page.text


def test_strongest_lines_of_the_lasso_path_are_named(whole: _Page) -> None:
    assert "Thicker: the largest coefficients there: 1: TVUS shape Maximum3DDiameter; 2: " in whole.text


def test_report_says_what_averaging_does_to_a_comparison(whole: _Page, tmp_path: Path) -> None:
    o = make_outcome()
    words = "averaged over 5 repeats, which can raise its area a little and no rival's; in the first repeat alone it was"
    assert f"{words} {o.nested_auc_by_repeat[0]:.3f}" in whole.text
    once = _Page(write_report(make_outcome(nested_auc_by_repeat=(o.nested_auc,)), tmp_path))
    assert "no rival's" not in once.text


def test_guidelines_are_complete_and_weights_add_up() -> None:
    tripod, claim, metrics = read_checklists()
    assert {item.id.rstrip("abcdefg") for item in tripod.items} == {str(i) for i in range(1, 28)}
    assert [item.id for item in claim.items] == [str(i) for i in range(1, 45)]
    assert [item.id for item in metrics.items] == [str(i) for i in range(1, 31)]
    assert sum(item.weight for item in metrics.items) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("make", [make_outcome, make_classes])
def test_facts_are_those_that_the_checklists_ask_for(make: Callable[[], Outcome]) -> None:
    asked = {item.fact for one in read_checklists() for item in one.items} - {""}
    assert facts.of_training(make()).keys() <= asked
    assert facts.of_evaluation(_evaluation()).keys() <= asked
    assert facts.of_evaluation(_several()).keys() == facts.of_evaluation(_evaluation()).keys()


def test_nothing_is_claimed_that_the_run_cannot_know() -> None:
    known = facts.of_training(make_outcome())
    tripod, claim, metrics = read_checklists()
    for one, ids in ((tripod, "5b 6c 8c 17 18a 18d 19 25"), (claim, "2 5 11 16 34 44"), (metrics, "2 3 5 7 10 19 28 29 30")):
        assert [item.id for item in one.items if item.id in ids.split() and item.fact in known] == []
    assert known["external"].status == "no"
    one_site = replace(make_outcome().flow, sites=("North",), second_reader=0)
    fewer = facts.of_training(make_outcome(flow=one_site, sites_left_out=()))
    assert (fewer["m_centres"].status, fewer["m_robust"].status) == ("no", "no")
    assert "heterogeneity" not in fewer
    assert "readers" not in fewer


def test_score_leaves_out_what_does_not_apply() -> None:
    items = read_checklists()[2].items
    nothing = score(items, {})
    assert nothing == pytest.approx((0.0, 0.0, 1.0))
    some = score(items, {"m_external": Fact("no", ""), "m_internal": Fact("yes", ""), "m_segmenter": Fact("none", "")})
    rest = 1 - 0.0225
    assert some == pytest.approx((0.0375 / rest, 0.0749 / rest, (rest - 0.0375 - 0.0749) / rest))


def test_every_feature_has_a_meaning() -> None:
    for name in CODES:
        assert meaning(f"T2W:radiomics:original_{name}") != name.rsplit("_", 1)[1]
    assert "LBP" not in meaning("T2W:radiomics:lbp-3D-m1_glcm_MCC")
    assert meaning("SCORE:model:log_odds") == "log odds"
    assert meaning("CLINICAL:value:max_tumour_diameter_mm") == "Maximum tumour diameter"


def test_nomogram_gives_the_decisions_log_odds() -> None:
    nomogram: Nomogram | None = make_outcome().nomogram
    assert nomogram
    raw = {"SCORE:model:log_odds": 0.3, "CLINICAL:value:max_tumour_diameter_mm": 41.0, "CLINICAL:value:rbc_1e12_per_l": 3.9}
    told = nomogram.intercept + sum(line.slope * raw[line.name] for line in nomogram.lines)
    by_hand = 0.95 * (-1.1 + 1.1 * (0.3 + 1.1) / 1.2 + 0.6 * (41 - 34) / 12 - 0.3 * (3.9 - 4.2) / 0.5) + 0.02
    assert told == pytest.approx(by_hand, abs=1e-12)


def test_band_holds_the_curve_and_narrows_with_more_patients() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for n in (60, 600):
        labels = (np.arange(n) % 2).astype(np.int64)
        x, low, high = roc_band(labels + rng.standard_normal(n), labels, seed=0, resamples=200)
        assert (low <= high).all()
        widths.append(float((high - low)[10:90].mean()))
    assert len(x) == len(low)
    assert widths[1] < 0.6 * widths[0]


@pytest.mark.parametrize(("low", "high", "words"), [(0, 1, "0.2"), (-0.3, 0.9, "0.25"), (0, 640, "200"), (-4.0, -1.0, "−4")])
def test_ticks_are_written_as_exactly_as_they_are(low: float, high: float, words: str) -> None:
    axis = Axis.of("", low, high)
    assert words in axis.words
    assert [float(w.replace("−", "-")) for w in axis.words] == pytest.approx(list(axis.ticks))


def test_perfect_separation_is_drawn(tmp_path: Path) -> None:
    o = make_outcome()
    assert o.performance
    labels = np.array([p.label for p in o.patients])
    p = np.where(labels == 1, 0.9, 0.1) + np.linspace(0, 0.05, len(labels))
    perfect = replace(o.performance, auc=delong(p, labels), calibration=calibration(p, labels, external=False, resamples=20, seed=0))
    patients = tuple(replace(x, probabilities=(float(v),)) for x, v in zip(o.patients, p, strict=True))
    page = _Page(write_report(replace(o, performance=perfect, patients=patients), tmp_path))
    assert "Calibration cannot be judged" in page.text
