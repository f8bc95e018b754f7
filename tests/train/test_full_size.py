"""Networks in their published size, from a site's own weights to a bundle that serves; and the hybrid on other images."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

import torch

from pipelines import engine
from pipelines.models.bundle import load_bundle
from pipelines.models.session import open_session, run_cnn
from pipelines.models.verify import find_problems
from pipelines.spec import Triplets
from pipelines.systems import catalogue
from pipelines.training.cohort import read_cohort
from pipelines.training.extract import extract_cohort, read_case, study_files
from pipelines.training.networks import PUBLISHED, build
from pipelines.training.train import train
from pipelines.types import SeriesRole
from tests.train.cohorts import T2W, TINY, write_cohort

pytestmark = [pytest.mark.train, pytest.mark.slow, pytest.mark.timeout(1800)]

DATE, SEED = datetime.date(2026, 11, 21), 3
DOCS = Path(__file__).parents[2] / "docs"
VARIANT = "lnm_hybrid_t2w"
SECTION = "own_section"  # a site's own system: one network on the largest section, whichever it brings weights for
_DECLARATION = f"""
from pipelines.recipe import MannWhitney, Recipe
from pipelines.spec import Cnn, PipelineSpec, RoiRule, SliceCrop
from pipelines.types import Code, SeriesRole

ROLES = (SeriesRole.CE_T1W,)
SPEC = PipelineSpec(
    name="{SECTION}",
    title="Own system",
    finding=Code("P.OWN", "99SITE", "Probability of what the site looks for"),
    site=Code("71252005", "SCT", "Cervix uteri"),
    required=ROLES,
    roi=RoiRule(ROLES),
    blocks=(Cnn(ROLES, SliceCrop(0.1, 64), network="densenet121_2d"),),
    recipe=Recipe(steps=(MannWhitney(0.2),), classifiers=("LR",)),
    positive="suspected",
    negative="not suspected",
)
"""


@pytest.mark.parametrize("network", ["densenet121_2d", "resnet50_2d"])
def test_published_network_serves_the_features_of_the_weights_that_a_site_brought(network: str, tmp_path: Path) -> None:
    """As they came from elsewhere: 1024 or 2048 features of a section, of which the recipe selects."""
    systems = tmp_path / "systems"
    systems.mkdir()
    (systems / f"{SECTION}.py").write_text(_DECLARATION)
    specs = catalogue(systems)
    spec = specs[SECTION]
    assert spec.cnn is not None
    torch.manual_seed(4)
    net = build(spec.cnn, PUBLISHED[network]).eval()
    torch.save({name.removeprefix("net."): value for name, value in net.body.state_dict().items()}, tmp_path / "imagenet.pth")
    plan = replace(TINY, architecture=None, published=True, network=network, weights=tmp_path / "imagenet.pth", frozen=True)
    cohort = write_cohort(tmp_path / "cohort")
    trained = train(SECTION, cohort, out=tmp_path / "site-1", date=DATE, seed=SEED, plan=plan, systems_path=systems)

    assert find_problems(trained.bundle, specs) == []
    bundle, row = load_bundle(trained.bundle, spec), read_cohort(cohort)[-1]
    (cnn,) = bundle.manifest.cnns
    assert "imagenet.pth" in cnn.weights
    (file,) = extract_cohort([row], spec, grid=plan.grid, cache=tmp_path / "features", workers=1, progress=lambda line: None)
    view = file.view(SeriesRole.CE_T1W)
    with torch.no_grad():
        expected = net(torch.from_numpy(view))[0].numpy()
    assert expected.shape == (1, {"densenet121_2d": 1024, "resnet50_2d": 2048}[network])
    served = run_cnn(open_session(bundle.folder / cnn.file), view)
    assert np.abs(served.features - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max()))
    prediction, evidence = engine.run(spec, bundle, replace(read_case(study_files(row), spec), clinical=row.clinical))
    assert 0 < prediction.probability < 1
    used = {feature.name: i for i, feature in enumerate(bundle.manifest.decision.features)}
    assert used and all(name.startswith("CE_T1W:cnn:") for name in used)
    assert evidence.activation_maps[SeriesRole.CE_T1W].array.max() > 0


def test_hybrid_on_t2w_with_the_tight_box_as_the_documentation_declares_it(tmp_path: Path) -> None:
    (text,) = (block for block in re.findall(r"```python\n(.*?)```", (DOCS / "systems.md").read_text(), re.DOTALL) if VARIANT in block)
    systems = tmp_path / "systems"
    systems.mkdir()
    (systems / f"{VARIANT}.py").write_text(text)
    specs = catalogue(systems)
    spec, printed = specs[VARIANT], specs["lnm_hybrid"]
    assert spec.cnn is not None and printed.cnn is not None
    assert spec.cnn.view == replace(printed.cnn.view, margin_px=0) == Triplets(0, 64)
    assert (spec.required, spec.cnn.status, spec.alternative) == ((SeriesRole.T2W,), printed.cnn.status, printed.alternative)

    cohort = write_cohort(tmp_path / "cohort", sequence=T2W)
    trained = train(VARIANT, cohort, out=tmp_path / "t2w-1", date=DATE, seed=SEED, plan=TINY, systems_path=systems)
    assert find_problems(trained.bundle, specs) == []
    bundle, row = load_bundle(trained.bundle, spec), read_cohort(cohort)[-1]
    case = read_case(study_files(row), spec)
    prediction, evidence = engine.run(spec, bundle, replace(case, clinical=row.clinical))
    assert len(prediction.outcomes) == 3  # node negative, node positive, images alone
    assert set(evidence.activation_maps) == {SeriesRole.T2W}
    inside = evidence.activation_maps[SeriesRole.T2W].array > 0
    rows, columns = (np.flatnonzero(evidence.roi.volume.array.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    assert inside.any()
    for found, drawn in zip((np.flatnonzero(inside.any(axis=axes)) for axes in ((0, 2), (0, 1))), (rows, columns), strict=True):
        assert drawn[0] - 1 <= found[0] and found[-1] <= drawn[-1] + 1  # nothing beyond the region's box was seen


def test_published_trunk_is_trained_end_to_end_and_serves(tmp_path: Path) -> None:
    """[HSCORE]: the trunk in its full widths, 128 features, learns from the site's own patients."""
    spec = catalogue()["lnm_hybrid"]
    cohort = write_cohort(tmp_path / "cohort")
    trained = train(
        "lnm_hybrid", cohort, out=tmp_path / "full-1", date=DATE, seed=SEED, plan=replace(TINY, architecture=None, published=True)
    )
    assert find_problems(trained.bundle, catalogue()) == []
    bundle, row = load_bundle(trained.bundle, spec), read_cohort(cohort)[-1]
    assert "128" in bundle.manifest.cnns[0].network, bundle.manifest.cnns[0].network
    prediction, _ = engine.run(spec, bundle, replace(read_case(study_files(row), spec), clinical=row.clinical))
    assert 0 < prediction.probability < 1
