"""What a training run or an evaluation can say about items of the guidelines, by the names that the checklists use."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.spec import Radiomics
from pipelines.systems import catalogue
from pipelines.training.evaluation import Evaluation, tell_labels
from pipelines.training.outcome import Outcome
from pipelines.training.pages.checklists import Fact
from pipelines.training.pages.features import steps_of
from pipelines.training.pages.markup import area, count, estimate, number

_LEAST_EVENTS = 10.0  # per candidate variable, an old rule of thumb


def of_training(o: Outcome) -> dict[str, Fact]:
    """Return the facts of a training run."""
    f = o.flow
    events = f"{f.judged} patients" if o.several else f"{f.judged} patients, {f.events} with the finding"
    facts = {
        "goal": Fact("partly", f"{o.title}: development with internal validation; population to be named"),
        "source": Fact("partly", "the paper that the system follows is named", "Radiomics profile"),
        "data": Fact("partly", "synthetic phantoms" if o.synthetic else f"{f.file}; origin and representativeness to be told", "Cohort"),
        "preparation": Fact("partly", "pre-processing is listed; quality of images and groups are the site's", "Radiomics profile"),
        "outcome": Fact("partly", f"label column of {f.file}; how it was established is not known here"),
        "candidates": Fact("yes", "all features of the profile, none chosen before the folds", "Recipe"),
        "predictors": Fact(
            "partly", "features with definition and IBSI code; when images were made is not known here", "Selected features"
        ),
        "sample_size": Fact("partly", f"{o.flow.judged} patients; Riley's criteria ask for {o.sample_size.needed}", "Sample size"),
        "missing": Fact("yes", "no imputation; a row without a needed value stops the run and is named", "Cohort"),
        "partition": Fact("yes", "nested cross-validation", "Leakage"),
        "disjoint": Fact("yes", "patient", "Leakage"),
        "scaling": Fact("yes", "z-scores from training folds only", "Recipe"),
        "model": Fact("yes", o.classifier, "Recipe"),
        "choice": Fact("yes", "inner cross-validation by log loss", "Recipe"),
        "training": Fact("partly", "recipe, folds and seed; networks in the bundle's model card", "Recipe"),
        "ensemble": Fact("none", "one final model; no ensemble"),
        "versions": Fact("yes", f"{count(len(o.made_with), 'version')}", "Reproducibility"),
        "updating": Fact("none", "no model was updated"),
        "calculation": Fact("partly", "by models of the folds, made by the same recipe; the bundle is the fit on all patients", "Recipe"),
        "output": Fact("yes", f"calibrated probability; {o.threshold_rule}", "Recipe" if o.several else "Operating points"),
        "development_evaluation": Fact("none", "no separate evaluation data in this run"),
        "external": Fact("no", "none in this run (cervinode evaluate, on a cohort of other sites)"),
        "predictor_shift": Fact("none", "no separate evaluation data in this run"),
        "code": Fact("partly", "open source; availability of model and data is the site's"),
        "flow": Fact("yes", events, "Cohort"),
        "counts": Fact("yes", events, "Cohort"),
        "characteristics": Fact("partly", "sites and scanners only", "Cohort"),
        "acquisition": Fact("partly", "scanners; ranges of times, angle, b-value and spacing", "Cohort"),
        "regions": Fact("partly", "sequences by the system's rules; regions as given", "Radiomics profile"),
        "specification": Fact("yes", f"bundle {o.bundle_digest[:12]}…, method {o.method_digest[:12]}…", "Reproducibility"),
        "limits": Fact("partly", "the run's own warnings", "Verdict"),
        "input_quality": Fact("partly", "in serving, unlike cases are flagged and unusable ones refused"),
    }
    facts |= _imbalance(o) | _conditional(o) | (_binary(o) if o.performance else _of_classes(o))
    return facts | _metrics(o)


def _imbalance(o: Outcome) -> dict[str, Fact]:
    if o.recipe.get("smote"):
        return {"imbalance": Fact("yes", "SMOTE in training parts only, then back to the true prevalence", "Recipe")}
    return {"imbalance": Fact("none", "no resampling")}


def _conditional(o: Outcome) -> dict[str, Fact]:
    facts = {}
    if o.flow.second_reader:
        facts["readers"] = Fact(
            "partly", f"second regions of {count(o.flow.second_reader, 'patient')}; who drew them is the site's", "Cohort"
        )
    if o.flow.sites:
        facts["sites"] = Fact("partly", f"{count(len(o.flow.sites), 'site')}: {', '.join(o.flow.sites)}; setting to be told", "Cohort")
    if o.sites_left_out or o.class_sites:
        facts["clusters"] = Fact("yes", "one site left out at a time", "Sites")
        facts["heterogeneity"] = Fact("yes", "AUC of each site by a model of the others", "Sites")
    if o.beeswarm:
        facts["explanation"] = Fact("yes", "Shapley values", "What moves the model")
    robust = [
        w
        for w, there in (
            ("shuffled labels", o.lie_detector),
            ("stability of the selection", o.stability),
            ("sites", o.sites_left_out or o.class_sites),
        )
        if there
    ]
    if robust:
        facts["robustness"] = Fact("yes", ", ".join(robust), "Lie detector" if o.lie_detector else "Selected features")
    return facts


def _binary(o: Outcome) -> dict[str, Fact]:
    assert o.performance is not None
    auc = f"AUC {number(o.nested_auc)} nested, {area(o.performance.auc)} averaged"
    wrong = sum(p.call != p.label for p in o.patients)
    return {
        "measures": Fact("yes", "discrimination, calibration, usefulness, comparison with rivals", "Performance"),
        "uncertainty": Fact("yes", "DeLong, bootstrap, Wilson; Holm for several tests", "Performance"),
        "performance": Fact("partly", f"{auc}; subgroups are the site's", "Performance"),
        "diagnostic": Fact("yes", "sensitivity, specificity, predictive values with intervals", "Operating points"),
        "failures": Fact("partly", f"{count(wrong, 'patient')} called wrongly; probabilities of each are in training.json"),
    }


def _of_classes(o: Outcome) -> dict[str, Fact]:
    return {
        "measures": Fact("yes", "confusion, accuracy, areas, Brier score; calibration and usefulness of each class", "Axes and classes"),
        "uncertainty": Fact("yes", "DeLong, bootstrap, Wilson; Holm for several tests", "Performance"),
        "performance": Fact("partly", f"mean AUC {number(o.nested_auc)}, nested", "Performance"),
        "diagnostic": Fact("yes", "precision and recall per class; with intervals for each class", "Axes and classes"),
        "failures": Fact("partly", "confusion matrix", "Performance"),
    }


def _metrics(o: Outcome) -> dict[str, Fact]:
    steps, rivals = {str(s["step"]): s for s in steps_of(o)}, {r.name for r in o.rivals}
    repeatable = "Repeatable" in steps and o.flow.second_reader > 0
    facts = {
        "m_centres": _yes_no(len(o.flow.sites) > 1, "several sites", "one site")
        if o.flow.sites
        else Fact("site", "sites are not in the table"),
        "m_segmenter": Fact("yes", f"Dice {number(o.segmenter_dice)}")
        if o.segmenter_dice is not None
        else Fact("none", "no automated segmentation trained"),
        "m_robust": _yes_no(repeatable, "by ICC between two readers", "no second regions, or no such step"),
        "m_redundant": _yes_no(bool(steps.keys() & {"Decorrelate", "Mrmr", "Pca", "Lasso"}), "by the recipe's steps", "no such step"),
        "m_dimension": _yes_no(o.events_per_variable >= _LEAST_EVENTS, "enough", f"{number(o.events_per_variable)} per candidate variable"),
        "m_partition": Fact("yes", "nested, by patient", "Leakage"),
        "m_measures": Fact("yes", "see there", "Performance"),
        "m_uncertainty": Fact("yes", "intervals", "Performance"),
        "m_calibration": _yes_no(bool(o.performance or o.questions), "curve, slope, ICI", "no class could be judged"),
        "m_clinical": _yes_no("clinical" in rivals, "clinical values alone", "no clinical values in the recipe"),
        "m_simple": _yes_no("size" in rivals or bool(o.questions), "size of the region alone", "not done"),
        "m_internal": Fact("yes", "nested cross-validation", "Performance"),
        "m_external": Fact("no", "not in this run"),
    }
    return facts | _handcrafted(o)


def _handcrafted(o: Outcome) -> dict[str, Fact]:
    spec = catalogue().get(o.system)
    if spec is None:
        return {}
    if not spec.blocks_of(Radiomics):
        return {
            name: Fact("none", "no handcrafted features")
            for name in ("m_preprocessing", "m_software", "m_parameters", "m_robust", "m_redundant")
        }
    return {
        "m_preprocessing": Fact("partly", "listed; whether it suits the images is the site's to judge", "Radiomics profile"),
        "m_software": Fact("yes", "pyradiomics; agreement with IBSI 1 is tested"),
        "m_parameters": Fact("yes", "listed", "Radiomics profile"),
        "m_deep": Fact("none", "not end to end: a classifier on features"),
    }


def _yes_no(true: bool, yes: str, no: str) -> Fact:
    return Fact("yes", yes) if true else Fact("no", no)


def of_evaluation(e: Evaluation) -> Mapping[str, Fact]:
    """Return the facts of an evaluation."""
    numbers = f"{e.n} patients, {tell_labels(e.flow.labels, classes=e.bundle.classes)}"
    whole, part = ("Performance", "Axes and classes") if e.several else ("Operating point", "Sites and scanners")
    threshold = f"threshold {number(e.bundle.threshold)} frozen in training" if e.bundle.threshold else e.bundle.threshold_rule
    called = any(f.operating_point for f in e.findings)
    outside = {
        True: "no site of it gave training cases",
        False: "a site of it gave training cases",
        None: "whether sites overlap is not known",
    }
    return {
        "goal": Fact("partly", f"{e.bundle.title}: evaluation; population to be named"),
        "data": Fact("partly", f"{e.cohort}; origin to be told", "Cohort"),
        "sites": Fact("partly", ", ".join(e.sites), "Cohort") if e.sites else Fact("site", ""),
        "outcome": Fact("partly", f"label column: {e.bundle.finding}; how it was established is not known here"),
        "missing": Fact("yes", f"nothing imputed; {count(len(e.flow.refused), 'patient')} refused, each named", "Cohort"),
        "partition": Fact("yes", "nothing was fitted to this cohort", "Cohort"),
        "disjoint": Fact("partly", f"patient; {outside[e.external]}", "Cohort"),
        "clusters": Fact("yes", "by site and scanner", part),
        "measures": Fact("yes", "discrimination, calibration, usefulness", "Performance"),
        "uncertainty": Fact("yes", "DeLong, bootstrap, Wilson; Holm for several tests", "Performance"),
        "updating": Fact("none", "the bundle was taken as it is"),
        "calculation": Fact("yes", f"the code that serves, bundle {e.bundle_digest[:12]}…", "Reproducibility"),
        "imbalance": Fact("none", "nothing was fitted"),
        "output": Fact("yes", f"{'probabilities of classes' if e.several else 'calibrated probability'}; {threshold}", whole),
        "external": _yes_no(bool(e.external), outside[True], outside[e.external]),
        "versions": Fact("yes", count(len(e.made_with), "version"), "Reproducibility"),
        "code": Fact("partly", "open source; availability of model and data is the site's"),
        "flow": Fact("yes", numbers, "Cohort"),
        "counts": Fact("yes", numbers, "Cohort"),
        "characteristics": Fact("partly", "sites and scanners only", part),
        "acquisition": Fact("partly", "scanners and field strengths only", part),
        "performance": Fact("partly", f"AUC {estimate(e.auc)}; clinical subgroups are the site's", "Performance"),
        "diagnostic": Fact("yes", "with intervals", whole) if called else Fact("no", "a class got no call"),
        "heterogeneity": Fact("yes", "AUC by site and scanner", part),
        "failures": Fact("partly", "each patient's probability and call are in evaluation.json"),
    }
