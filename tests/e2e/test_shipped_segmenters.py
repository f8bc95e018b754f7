"""The shipped segmentation networks on phantoms that no training run has seen, by the serving code and against the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.engine import load_case
from pipelines.imaging.geometry import build_volume, resample_mask
from pipelines.imaging.sequences import choose, rank, settle
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.models.bundle import Bundle, load_bundle
from pipelines.models.segment import segment
from pipelines.phantoms.dicom import write_study
from pipelines.phantoms.ultrasound_dicom import write_ultrasound_study
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.types import ImageVolume, Roi, SeriesRole

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parents[2] / "onnx_models"
SYSTEMS = catalogue()
MRI = [name for name in SYSTEMS if name != "plnm_us"]
SEEDS = range(900_000, 900_010)  # training takes a few hundred from 11,000 on
ENOUGH = 0.85


def _bundle(system: str) -> Bundle:
    return load_bundle(MODELS / system / "demo-1", SYSTEMS[system])


def _dice(bundle: Bundle, spec: PipelineSpec, image: ImageVolume, truth: Roi) -> float:
    assert bundle.manifest.segmenter is not None
    drawn = segment(image, bundle.manifest.segmenter, session=bundle.segmenter, rule=spec.roi).volume.array > 0
    there = resample_mask(truth.volume, image.volume).array > 0
    return 2 * float((drawn & there).sum()) / float(drawn.sum() + there.sum())


def test_bundles_of_mr_share_one_network() -> None:
    manifests = [_bundle(system).manifest for system in MRI]
    assert len({m.files[m.segmenter.file].sha256 for m in manifests if m.segmenter}) == 1
    assert all(m.segmenter and m.segmenter.roles == SYSTEMS[m.system].roi.roles for m in manifests)


def test_mr_network_draws_unseen_phantoms_on_each_of_its_sequences(tmp_path: Path) -> None:
    system = "lvsi_mri"
    bundle, spec, found = _bundle(system), SYSTEMS[system], dict[SeriesRole, list[float]]()
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        roles = (SeriesRole.T2W, SeriesRole.T2W_FS, SeriesRole.DWI, SeriesRole.ADC, SeriesRole.CE_T1W)
        write_study(folder, seed=seed, vendor=("SIEMENS", "PHILIPS")[seed % 2], roles=roles, with_seg=True)
        series = read_series(find_dicom_files(folder))
        ranked = rank(series, spec)
        roi = load_case(series, choose(series, spec, ranked), spec).roi
        assert roi is not None
        for role in spec.roi.roles:
            found.setdefault(role, []).append(_dice(bundle, spec, build_volume(settle(ranked[role][0], series, spec)), roi))
    means = {role: float(np.mean(values)) for role, values in found.items()}
    assert set(means) == set(spec.roi.roles)
    assert min(means.values()) >= ENOUGH, means


def test_ultrasound_network_draws_unseen_phantoms(tmp_path: Path) -> None:
    bundle, spec, found = _bundle("plnm_us"), SYSTEMS["plnm_us"], []
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        write_ultrasound_study(folder, seed=seed, transducer=("VOLUSON", "LOGIQ")[seed % 2], with_outline=True)
        series = read_series(find_dicom_files(folder))
        case = load_case(series, choose(series, spec), spec)
        assert case.roi is not None
        found.append(_dice(bundle, spec, case.volumes[SeriesRole.TVUS], case.roi))
    assert np.mean(found) >= ENOUGH, found
