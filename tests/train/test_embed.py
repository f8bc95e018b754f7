"""Networks on disk: what they are kept under, weights that stay as they are, and deep features of patients they had not seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

import torch

from pipelines.errors import CohortError
from pipelines.models.manifest import Parity
from pipelines.models.session import has_map, open_session, run_cnn
from pipelines.spec import Cnn, SliceCrop
from pipelines.systems import catalogue
from pipelines.training.embed import CrossFitted, Net, Networks
from pipelines.training.extract import ExtractedFile
from pipelines.training.fit import Schedule
from pipelines.training.networks import NARROW, Architecture, build
from pipelines.training.patients import Division, Patients
from pipelines.training.plan import Plan, Run
from pipelines.training.statement import describe_network
from pipelines.training.table import Table
from pipelines.types import SeriesRole

pytestmark = pytest.mark.train

ROLE = SeriesRole.T2W
BLOCK = Cnn((ROLE,), SliceCrop(0.1, 32))
SMALL = Architecture("resnet", (1, 1, 1, 1), (2, 2, 2, 4), pool=False)
PLAN = Plan(architecture=SMALL, cnn=Schedule(epochs=1, batch=6, rate=1e-3))
N = 24
LABELS = np.arange(N) % 2
EVERY = np.arange(N)


@pytest.fixture
def files(tmp_path: Path) -> list[ExtractedFile]:
    """What extraction keeps of 24 patients, but for all that is not a view; positives are brighter on the left."""
    rng = np.random.default_rng(2)
    found = []
    for i, label in enumerate(LABELS):
        view = rng.standard_normal((1, 1, 32, 32)).astype(np.float32)
        view[..., :16] += 2 * label
        path = tmp_path / f"{i:02d}.npz"
        np.savez(path, **{f"view_{ROLE}": view})
        found.append(ExtractedFile(path))
    return found


def _networks(files: list[ExtractedFile], folder: Path, plan: Plan = PLAN, *, seed: int = 1) -> tuple[Networks, list[str]]:
    said: list[str] = []
    run = Run(catalogue()["lvsi_mri"], plan, seed, folder, folder / "cache", said.append)
    return Networks(run, BLOCK, files, np.full(N, np.nan)), said


def _given(folder: Path) -> Path:
    torch.manual_seed(5)
    body = build(BLOCK, SMALL).body.state_dict()
    torch.save({name.removeprefix("net."): value for name, value in body.items()}, folder / "given.pth")
    return folder / "given.pth"


def test_deep_feature_that_is_not_finite_names_the_row(files: list[ExtractedFile], tmp_path: Path) -> None:
    broken = tmp_path / "broken.npz"
    np.savez(broken, **{f"view_{ROLE}": np.full((1, 1, 32, 32), np.nan, dtype=np.float32)})
    networks, _ = _networks([*files[:5], ExtractedFile(broken, "line 7 (P5)"), *files[6:]], tmp_path)
    nets = {ROLE: networks.train(ROLE, EVERY[6:], LABELS)}
    with pytest.raises(CohortError, match=r"line 7 \(P5\), T2W: a network returned features that are not finite"):
        networks.embed(nets, EVERY)


def test_network_is_trained_once_and_again_for_anything_that_changes_it(files: list[ExtractedFile], tmp_path: Path) -> None:
    networks, said = _networks(files, tmp_path)
    net = networks.train(ROLE, EVERY, LABELS)
    assert len(said) == 1
    assert networks.train(ROLE, EVERY, LABELS) == net
    assert len(said) == 1
    paths = {
        net.path,
        networks.train(ROLE, EVERY[:20], LABELS).path,
        networks.train(ROLE, EVERY, 1 - LABELS).path,
        _networks(files, tmp_path, seed=2)[0].train(ROLE, EVERY, LABELS).path,
        _networks(files, tmp_path, replace(PLAN, weights=_given(tmp_path)))[0].train(ROLE, EVERY, LABELS).path,
        _networks(files, tmp_path, replace(PLAN, weights=_given(tmp_path), frozen=True))[0].train(ROLE, EVERY, LABELS).path,
    }
    assert len(paths) == 6
    assert all(path.is_file() for path in paths)


def test_cut_graph_without_its_record_is_made_anew(files: list[ExtractedFile], tmp_path: Path) -> None:
    networks, said = _networks(files, tmp_path)
    net = networks.train(ROLE, EVERY, LABELS)
    whole = net.path.read_bytes()
    net.path.write_bytes(whole[:50])
    net.path.with_suffix(".json").rename(net.path.with_suffix(".partial"))  # killed before the record was in place
    assert networks.train(ROLE, EVERY, LABELS) == net
    assert len(said) == 2
    assert net.path.read_bytes() == whole


def test_frozen_weights_give_their_own_features_and_a_map_that_speaks_of_the_label(files: list[ExtractedFile], tmp_path: Path) -> None:
    plan = replace(PLAN, weights=_given(tmp_path), frozen=True)
    networks, said = _networks(files, tmp_path, plan)
    net = networks.train(ROLE, EVERY, LABELS)
    assert said == []  # nothing was trained
    torch.manual_seed(5)
    original = build(BLOCK, SMALL).eval()
    views = np.concatenate([file.view(ROLE) for file in files])
    with torch.no_grad():
        expected = original(torch.from_numpy(views))[0].numpy()
    found = networks.embed({ROLE: net}, EVERY)
    assert found.names == tuple(f"{ROLE}:cnn:{i}" for i in range(4))
    assert np.abs(found.values - expected).max() <= 1e-5
    logits = run_cnn(open_session(net.path), views).logits
    assert logits[LABELS == 1].mean() > logits[LABELS == 0].mean()
    flipped = run_cnn(open_session(networks.train(ROLE, EVERY, 1 - LABELS).path), views)
    assert np.allclose(flipped.features, expected, atol=1e-5)  # no feature depends on a label
    assert np.allclose(flipped.logits, -logits, atol=1e-3)


@pytest.mark.parametrize("frozen", [False, True])
def test_alexnet_gives_its_fully_connected_layer_and_no_map(files: list[ExtractedFile], tmp_path: Path, frozen: bool) -> None:
    torch.manual_seed(5)
    torch.save(build(BLOCK, NARROW["alexnet_2d"]).body.state_dict(), tmp_path / "given.pth")
    plan = replace(PLAN, architecture=None, network="alexnet_2d", weights=tmp_path / "given.pth", frozen=frozen)
    views = [np.kron(file.view(ROLE), np.ones((1, 1, 2, 2), dtype=np.float32)) for file in files]  # it needs 63 pixels and more
    for file, view in zip(files, views, strict=True):
        np.savez(file.path, **{f"view_{ROLE}": view})
    networks, _ = _networks(files, tmp_path, plan)
    net = networks.train(ROLE, EVERY, LABELS)
    assert net.architecture.map_kind == "occlusion"
    assert not has_map(open_session(net.path))
    found = networks.embed({ROLE: net}, EVERY)
    assert found.names == tuple(f"{ROLE}:cnn:{i}" for i in range(64))
    logits = run_cnn(open_session(net.path), np.concatenate(views)).logits
    assert logits[LABELS == 1].mean() > logits[LABELS == 0].mean()


@pytest.mark.parametrize(("network", "kind"), [("alexnet_2d", "occlusion"), ("densenet121_2d", "class activation")])
def test_manifest_says_what_the_map_of_a_network_is(network: str, kind: str) -> None:
    spec = catalogue()["plnm_us"]
    assert spec.cnn is not None
    net = Net(Path("cnn.onnx"), Parity(what="", rows=1, max_abs_difference=0.0), NARROW[network])
    patients = Patients(Path("cohort.csv"), spec, [], [], Division(EVERY, EVERY, False))
    entry = describe_network(net, "cnn_TVUS.onnx", SeriesRole.TVUS, spec.cnn, Plan(), patients=patients, dim=64)
    assert entry.map_kind == kind
    assert entry.network == f"2D {NARROW[network].words()}"


def test_weights_that_do_not_fit_leave_nothing_on_disk(files: list[ExtractedFile], tmp_path: Path) -> None:
    wider = replace(PLAN, architecture=replace(SMALL, widths=(2, 2, 4, 4)), weights=_given(tmp_path))
    with pytest.raises(CohortError, match="tensors have another shape"):
        _networks(files, tmp_path, wider)[0].train(ROLE, EVERY, LABELS)
    assert not list((tmp_path / "cache" / "networks").glob("*"))


class Watched(Networks):
    """Networks that remember whom each of them was trained on, and whom it was asked about."""

    def train(self, role: SeriesRole, rows: np.ndarray, labels: np.ndarray) -> Net:
        net = super().train(role, rows, labels)
        SEEN[net.path] = set(rows.tolist())
        return net

    def embed(self, nets: dict[SeriesRole, Net], rows: np.ndarray) -> Table:
        for net in nets.values():
            assert not SEEN[net.path] & set(rows.tolist())
        ASKED.update(rows.tolist())
        return super().embed(nets, rows)


SEEN: dict[Path, set[int]] = {}
ASKED: set[int] = set()


def test_no_patient_is_described_by_a_network_that_saw_the_patient(files: list[ExtractedFile], tmp_path: Path) -> None:
    plain, _ = _networks(files, tmp_path)
    networks = Watched(plain.run, plain.block, plain.files, plain.status)
    table = Table(("T2W:radiomics:original_x",), EVERY[:, None].astype(np.float64))
    train, test = np.flatnonzero(EVERY % 6 > 1), np.flatnonzero(EVERY % 6 <= 1)
    inner, outer = CrossFitted(networks, table, 2).split(train, test, LABELS)
    assert {*train, *test} == ASKED
    assert all(seen <= set(train.tolist()) for seen in SEEN.values())
    assert sorted(len(seen) for seen in SEEN.values()) == [8, 8, 16]
    assert inner.names == outer.names
    assert inner.values[:, 0].tolist() == train.tolist()
    assert outer.values[:, 0].tolist() == test.tolist()
    alone = networks.embed({ROLE: plain.train(ROLE, train, LABELS)}, test)
    assert np.array_equal(outer.values[:, 1:], alone.values)
