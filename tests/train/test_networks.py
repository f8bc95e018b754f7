"""The networks: published shapes, options, reproducible training, and Grad-CAM without gradients in the exported graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("monai", reason="training needs the [train] extra")

import torch

from pipelines.errors import CohortError
from pipelines.models.session import STATUS, open_session
from pipelines.spec import Cnn, Cube, SliceCrop, Triplets
from pipelines.training.crfe import Crfe, PositionAttention, Scan
from pipelines.training.export import export_network
from pipelines.training.fit import Schedule, dice_loss, fit_cnn, fit_segmenter
from pipelines.training.networks import PUBLISHED, Architecture, FeatureNet, JointNet, build, choose_architecture
from pipelines.types import SeriesRole

pytestmark = pytest.mark.train

ROLES = (SeriesRole.T2W,)
CUBE, SECTION, TRIPLETS = Cube(side_mm=90.0, size=40), SliceCrop(margin=0.1, size=64), Triplets(margin_px=5, size=48)
SMALL = {
    "resnet 3d": (Cnn(ROLES, CUBE), Architecture("resnet", (1, 1, 1, 1), (4, 6, 8, 12), pool=False)),
    "bottleneck 2d": (Cnn(ROLES, SECTION), Architecture("resnet", (1, 2, 1, 1), (4, 4, 6, 8), bottleneck=True)),
    "densenet 2d": (Cnn(ROLES, SECTION), Architecture("densenet", (2, 2, 3, 2), growth=4, start=8)),
    "densenet flat": (Cnn(ROLES, SECTION, layer="flat"), Architecture("densenet", (2, 2, 3, 2), growth=4, start=8)),
    "joint": (Cnn(ROLES, TRIPLETS, status="node_positive"), Architecture("resnet", (1, 1, 1, 1), (4, 4, 6, 8), pool=False)),
}


def _build(name: str, seed: int = 0) -> FeatureNet:
    """Build a network that has seen a batch, so that its normalisation is not the identity, with a head of both signs."""
    torch.manual_seed(seed)
    block, architecture = SMALL[name]
    net = build(block, architecture)
    net.train()
    with torch.no_grad():
        net.maps(_images(name, 4))
        net.head.weight.copy_(torch.linspace(-1, 1, net.head.in_features)[None])
    return net.eval()


def _images(name: str, n: int) -> torch.Tensor:
    view = SMALL[name][0].view
    shape = (view.size,) * 3 if isinstance(view, Cube) else (view.size,) * 2
    return torch.randn(n, 3 if isinstance(view, Triplets) else 1, *shape, generator=torch.Generator().manual_seed(7))


def _silent(line: str) -> None:
    """Report nothing."""


@pytest.mark.parametrize("name", SMALL)
def test_exported_activation_map_is_grad_cam(name: str, tmp_path: Path) -> None:
    net, images = _build(name), _images(name, 3)
    joint = isinstance(net, JointNet)
    outputs = ("features", "logit", "cam", *(["joint_logit"] if joint else []))
    told = {STATUS: np.array([[0.0], [1.0], [1.0]], dtype=np.float32)} if joint else {}
    record = export_network(net, tmp_path / "net.onnx", images.numpy(), outputs=outputs, more_inputs=told)
    assert record.max_abs_difference <= 1e-5
    got = dict(zip(outputs, open_session(tmp_path / "net.onnx").run(list(outputs), {"image": images.numpy(), **told}), strict=True))

    maps = net.maps(images).detach().requires_grad_()
    spatial = tuple(range(2, maps.ndim))
    gradients = torch.autograd.grad(net.head(maps.mean(dim=spatial)).sum(), maps)[0]
    weights = gradients.mean(dim=spatial, keepdim=True)  # Grad-CAM's alpha_k, by autograd
    grad_cam = torch.relu((weights * maps).sum(dim=1)).detach().numpy()
    assert grad_cam.max() > 0
    assert got["cam"].shape == grad_cam.shape
    positions = maps[0, 0].numel()  # the mean over positions divides every gradient by their number
    assert np.abs(got["cam"] / positions - grad_cam).max() <= 1e-5 * grad_cam.max()
    assert np.allclose(got["logit"][:, 0], net.head(maps.mean(dim=spatial)).detach().numpy()[:, 0], atol=1e-5)


def test_joint_network_is_told_the_status_and_the_image_head_is_not(tmp_path: Path) -> None:
    net, images = _build("joint"), _images("joint", 2).numpy()
    outputs = ("features", "logit", "cam", "joint_logit")
    told = {STATUS: np.array([[0.0], [1.0]], dtype=np.float32)}
    export_network(net, tmp_path / "net.onnx", images, outputs=outputs, more_inputs=told)
    session = open_session(tmp_path / "net.onnx")
    of = {state: session.run(None, {"image": images, STATUS: np.full((2, 1), state, dtype=np.float32)}) for state in (0.0, 1.0)}
    assert all(np.array_equal(of[0.0][i], of[1.0][i]) for i in range(3))
    assert np.abs(of[0.0][3] - of[1.0][3]).min() > 1e-4
    with torch.no_grad():
        expected = net(torch.from_numpy(images), torch.ones(2, 1))[3].numpy()
    assert np.abs(of[1.0][3] - expected).max() <= 1e-5


@pytest.mark.parametrize(
    ("network", "view", "layer", "features", "channels"),
    [
        ("resnet50_3d", Cube(90.0, 90), "pool", 2048, 2048),
        ("resnet101_3d", Cube(90.0, 90), "pool", 2048, 2048),
        ("resnet200_3d", Cube(90.0, 90), "pool", 2048, 2048),  # [OLNM]
        ("resnet50_2d", SliceCrop(0.1, 224), "pool", 2048, 2048),  # [LVSI]
        ("densenet121_2d", SliceCrop(0.1, 128), "flat", 16384, 1024),  # [PLNM]
        ("densenet121_2d", SliceCrop(0.1, 128), "pool", 1024, 1024),
        ("resnet18_2d", Triplets(5, 64), "pool", 128, 128),
    ],
)
def test_published_networks_have_the_published_features(network: str, view: Any, layer: Any, features: int, channels: int) -> None:
    block = Cnn(ROLES, view, layer=layer, network=network)
    with torch.device("meta"):  # shapes without numbers: the largest has 127 million weights
        net = build(block, choose_architecture(block, published=True)).eval()
        image = torch.empty(2, 3 if isinstance(view, Triplets) else 1, *(view.size,) * (3 if isinstance(view, Cube) else 2))
        found = net(image, torch.empty(2, 1)) if isinstance(net, JointNet) else net(image)
    assert found[0].shape == (2, features)
    assert net.head.in_features == channels
    assert found[1].shape == (2, 1)


def test_published_parameter_counts() -> None:
    def millions(network: str, view: Any) -> float:
        block = Cnn(ROLES, view, network=network)
        with torch.device("meta"):
            return sum(p.numel() for p in build(block, PUBLISHED[network]).body.parameters()) / 1e6

    assert millions("resnet200_3d", Cube(90.0, 90)) == pytest.approx(126.6, abs=0.1)
    assert millions("resnet50_3d", Cube(90.0, 90)) == pytest.approx(46.2, abs=0.1)
    assert millions("resnet50_2d", SliceCrop(0.1, 224)) == pytest.approx(23.5, abs=0.1)
    assert millions("densenet121_2d", SliceCrop(0.1, 128)) == pytest.approx(6.95, abs=0.02)


def test_unknown_network_is_refused() -> None:
    with pytest.raises(CohortError, match="no network 'alexnet_2d'; known are resnet10_3d"):
        choose_architecture(Cnn(ROLES, SECTION, network="alexnet_2d"), published=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [("resnet50_2d", "ResNet50, widths 64-128-256-512"), ("resnet200_3d", "ResNet200"), ("densenet121_2d", "DenseNet121, growth 32")],
)
def test_architecture_names_itself(name: str, words: str) -> None:
    assert PUBLISHED[name].words().startswith(words)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": "rows"},
        {"order": "raster"},
        {"pools": 3},
        {"reduction": 1},
        {"skip": False},
        {"upsampling": "bilinear"},
        {"batch_norm": False},
    ],
    ids=lambda options: "-".join(map(str, options)) or "default",
)
def test_crfe_gives_one_logit_per_pixel(options: dict[str, Any]) -> None:
    net = Crfe((4, 6, 8), units=8, **options).eval()
    assert net(torch.rand(2, 1, 32, 24)).shape == (2, 1, 32, 24)


@pytest.mark.parametrize("order", ["rows", "rows_columns"])
def test_crfe_graph_takes_any_number_of_slices(order: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Crfe((4, 6, 8), units=8, order=order, pools=3).eval()
    with torch.no_grad():
        net.attend.gamma.fill_(0.3)  # at its start of 0 attention would not be tested
    slices = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(1)).numpy()
    assert export_network(net, tmp_path / "crfe.onnx", slices, outputs=("logits",)).max_abs_difference <= 1e-5
    session = open_session(tmp_path / "crfe.onnx")
    one_by_one = np.concatenate([session.run(None, {"image": slices[i : i + 1]})[0] for i in range(5)])
    assert np.allclose(session.run(None, {"image": slices})[0], one_by_one, atol=1e-5)


def test_attention_starts_as_identity_and_mixes_all_pixels() -> None:
    torch.manual_seed(0)
    attend, x = PositionAttention(8, reduction=2), torch.rand(1, 8, 5, 5)
    assert torch.equal(attend(x), x)
    with torch.no_grad():
        attend.gamma.fill_(1.0)
    moved = x.clone()
    moved[..., 4, 4] += 1
    assert bool((attend(moved) - attend(x))[..., 0, 0].abs().max() > 0)


def test_scan_of_rows_and_columns_sees_the_whole_slice() -> None:
    torch.manual_seed(0)
    moved = torch.rand(1, 4, 6, 6)
    x = moved.clone()
    moved[..., 5, 5] += 1
    for scan, far in ((Scan(4, 8, "rows"), False), (Scan(4, 8, "rows_columns"), True)):
        assert bool((scan(moved) - scan(x))[..., 0, 0].abs().max() > 0) is far


def test_dice_loss_is_zero_for_the_truth_and_one_for_its_opposite() -> None:
    truth = torch.zeros(1, 1, 16, 16)
    truth[..., 4:12, 4:12] = 1
    assert float(dice_loss(40 * (truth - 0.5), truth)) == pytest.approx(0, abs=1e-3)
    assert float(dice_loss(-40 * (truth - 0.5), truth)) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("name", ["resnet 3d", "joint"])
def test_same_seed_trains_the_same_weights(name: str) -> None:
    images, labels = _images(name, 6).numpy(), np.array([0, 1, 0, 1, 0, 1])
    status = np.array([0, 1, np.nan, 1, 0, np.nan], dtype=np.float32) if name == "joint" else None
    nets = []
    for _ in range(2):
        net = _build(name)
        fit_cnn(net, images, labels, schedule=Schedule(epochs=2, batch=3, rate=1e-3), seed=4, progress=_silent, status=status)
        nets.append(net.state_dict())
    assert all(torch.equal(nets[0][key], nets[1][key]) for key in nets[0])
    assert all(bool(torch.isfinite(value).all()) for value in nets[0].values())
    assert not torch.equal(nets[0]["head.weight"], _build(name).state_dict()["head.weight"])


def test_joint_head_learns_from_patients_whose_status_is_known() -> None:
    images, labels = _images("joint", 16).numpy(), np.arange(16) % 2
    net = _build("joint")
    fit_cnn(
        net,
        images,
        labels,
        schedule=Schedule(epochs=40, batch=8, rate=1e-2),
        seed=1,
        progress=_silent,
        status=labels.astype(np.float32),
    )
    with torch.no_grad():
        negative, positive = (net(torch.from_numpy(images), torch.full((16, 1), state))[3].numpy() for state in (0.0, 1.0))
    assert (positive > negative).all()


def test_segmenter_learns_to_mark_bright_discs() -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    centres = rng.uniform(10, 22, (24, 2))
    masks = np.array([(rows - a) ** 2 + (columns - b) ** 2 < 36 for a, b in centres]).astype(np.uint8)
    slices = (2 * masks + rng.normal(0, 0.4, masks.shape)).astype(np.float32)
    torch.manual_seed(0)
    net = Crfe((4, 8, 8), units=8)
    lines: list[str] = []
    fit_segmenter(net, slices, masks, schedule=Schedule(epochs=15, batch=6, rate=1e-2), seed=1, progress=lines.append)
    with torch.no_grad():
        drawn = net(torch.from_numpy(slices)[:, None])[:, 0].numpy() > 0
    dice = 2 * (drawn & (masks > 0)).sum() / (drawn.sum() + masks.sum())
    assert dice > 0.9
    assert len(lines) == 15
