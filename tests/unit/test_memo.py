"""What several systems, and several runs of one, compute once on a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest

from pipelines import engine
from pipelines.features import radiomics
from pipelines.imaging.sequences import choose
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.memo import Memo, digest
from pipelines.models.bundle import Bundle, load_bundle
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.types import Case, ClinicalValue, SeriesRole
from tests import mr
from tests.bundles import write_bundle

ONE = catalogue()["olnm_mri"]
OTHER = replace(ONE, name="other_mri")
STEPS = ("build_volume", "preprocess", "segment", "_look")  # and the extraction of radiomics


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often each step was really computed, from an empty memory on."""
    counts: Counter[str] = Counter()

    def counted(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def compute(*args: Any, **named: Any) -> Any:
            counts[name] += 1
            return step(*args, **named)

        return compute

    monkeypatch.setattr(engine, "SHARED", Memo())
    for name in STEPS:
        monkeypatch.setattr(engine, name, counted(name, getattr(engine, name)))
    extract = radiomics.extract
    monkeypatch.setattr(radiomics, "extract", lambda image, mask, block: counted(_kind(block.count), extract)(image, mask, block))
    return counts


def _kind(count: int) -> str:
    return "radiomics" if count > 1 else "diameter"


def _case(folder: Path, spec: PipelineSpec) -> Case:
    series = read_series(find_dicom_files(folder))
    return engine.load_case(series, choose(series, spec), spec)


def _bundle(root: Path, spec: PipelineSpec) -> Bundle:
    return load_bundle(write_bundle(root, spec), spec)


def test_systems_on_one_study_share_volumes_region_radiomics_and_networks(tmp_path: Path, computed: Counter[str]) -> None:
    study = mr.write_study(tmp_path / "study")
    first, _ = engine.run(ONE, _bundle(tmp_path, ONE), _case(study, ONE))
    once = {"build_volume": 3, "preprocess": 3, "segment": 1, "radiomics": 3, "_look": 3}
    assert {name: computed[name] for name in once} == once
    second, _ = engine.run(OTHER, _bundle(tmp_path, OTHER), _case(study, OTHER))
    assert {name: computed[name] for name in once} == once
    assert second.probability == first.probability


def test_run_with_a_new_clinical_value_computes_nothing_of_the_images_again(tmp_path: Path, computed: Counter[str]) -> None:
    case, bundle = _case(mr.write_study(tmp_path / "study"), ONE), _bundle(tmp_path, ONE)
    engine.run(ONE, bundle, case)
    before = dict(computed)
    told = {"figo_stage": ClinicalValue("figo_stage", 3.0, "IB3", "entered")}
    engine.run(ONE, bundle, replace(case, clinical=told))
    assert {name: n for name, n in computed.items() if name != "diameter"} == {name: n for name, n in before.items() if name != "diameter"}


def test_changed_voxel_is_computed_anew_and_nothing_else(tmp_path: Path, computed: Counter[str]) -> None:
    case, bundle = _case(mr.write_study(tmp_path / "study"), ONE), _bundle(tmp_path, ONE)
    engine.run(ONE, bundle, case)
    before = Counter(computed)
    image = case.volumes[SeriesRole.T1W]
    array = image.volume.array.copy()
    array[10, 20, 20] += 50
    changed = {**case.volumes, SeriesRole.T1W: replace(image, volume=image.volume.with_array(array))}
    engine.run(ONE, bundle, replace(case, volumes=changed))
    assert {name: computed[name] - before[name] for name in ("preprocess", "radiomics", "_look", "segment")} == {
        "preprocess": 1,
        "radiomics": 1,
        "_look": 1,
        "segment": 0,
    }


def test_same_voxels_in_another_frame_of_reference_are_another_volume() -> None:
    voxels, frames = np.zeros((2, 3, 4)), ("1.2.3", "1.2.4")
    here, there = (hd.Volume(voxels, np.eye(4), coordinate_system="PATIENT", frame_of_reference_uid=frame) for frame in frames)
    assert digest(here) != digest(there)
    assert digest(here) == digest(here.with_array(voxels.copy()))
