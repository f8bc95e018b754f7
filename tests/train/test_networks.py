"""The networks: published shapes, options, reproducible training, and Grad-CAM without gradients in the exported graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("monai", reason="training needs the [train] extra")

import torch

from pipelines.errors import CohortError
from pipelines.features.cnn import occlusion_maps
from pipelines.models.session import STATUS, has_map, open_session, run_cnn
from pipelines.spec import Cnn, Cube, SliceCrop, Triplets
from pipelines.training.crfe import Crfe, PositionAttention, Scan
from pipelines.training.export import export_network
from pipelines.training.fit import Schedule, dice_loss, fit_cnn, fit_segmenter, size_prior
from pipelines.training.networks import NARROW, PUBLISHED, Architecture, FeatureNet, JointNet, build, choose_architecture
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
    return _seen_a_batch(*SMALL[name], seed=seed)


def _seen_a_batch(block: Cnn, architecture: Architecture, *, seed: int = 0) -> FeatureNet:
    """Build a network that has seen a batch, so that its normalisation is not the identity, with a head of both signs, more positive."""
    torch.manual_seed(seed)
    net = build(block, architecture)
    net.train()
    with torch.no_grad():
        net.maps(_images_of(block, 4))
        net.head.weight.copy_(torch.linspace(-0.5, 1, net.head.in_features)[None])
    return net.eval()


def _images(name: str, n: int) -> torch.Tensor:
    return _images_of(SMALL[name][0], n)


def _images_of(block: Cnn, n: int) -> torch.Tensor:
    view = block.view
    shape = (view.size,) * 3 if isinstance(view, Cube) else (view.size,) * 2
    return torch.randn(n, 3 if isinstance(view, Triplets) else 1, *shape, generator=torch.Generator().manual_seed(7))


def _silent(line: str) -> None:
    """Report nothing."""


def _gap_networks() -> Iterator[tuple[str, Cnn, Architecture]]:
    """Yield every kind of network with a linear head, those of the papers at full width but for the two that are too large for a test."""
    yield from ((f"small {name}", block, architecture) for name, (block, architecture) in SMALL.items())
    cube, section, triplets = Cube(side_mm=90.0, size=33), SliceCrop(margin=0.1, size=80), Triplets(margin_px=5, size=64)
    for name in (name for name in PUBLISHED if name != "alexnet_2d"):
        block = Cnn(ROLES, cube if name.endswith("_3d") else triplets if name == "resnet18_2d" else section, status="")
        one = PUBLISHED[name]
        yield f"published {name}", block, replace(one, widths=(4, 6, 8, 12)) if name in ("resnet101_3d", "resnet200_3d") else one
        yield f"narrow {name}", block, NARROW[name]
    wide = (64, 128, 256, 512)
    yield "wide ResNet10", Cnn(ROLES, section), Architecture("resnet", (1, 1, 1, 1), wide)
    yield "wide ResNet18", Cnn(ROLES, section), Architecture("resnet", (2, 2, 2, 2), wide)


@pytest.mark.parametrize(("block", "architecture"), [pytest.param(*one, id=name) for name, *one in _gap_networks()])
def test_map_in_the_graph_is_grad_cam_by_autograd(block: Cnn, architecture: Architecture, tmp_path: Path) -> None:
    net, images = _seen_a_batch(block, architecture), _images_of(block, 2)
    told = {STATUS: np.array([[0.0], [1.0]], dtype=np.float32)} if isinstance(net, JointNet) else {}
    record = export_network(net, tmp_path / "net.onnx", images.numpy(), outputs=net.outputs, more_inputs=told)
    assert record.max_abs_difference <= 1e-5
    given = {"image": images.numpy(), **told}
    got = dict(zip(net.outputs, open_session(tmp_path / "net.onnx").run(list(net.outputs), given), strict=True))

    kept: list[torch.Tensor] = []
    hook = net.body.register_forward_hook(lambda body, shown, maps: kept.append(maps))
    logit = net(images, *(torch.from_numpy(one) for one in told.values()))[1]
    hook.remove()
    maps = kept[0]
    gradients = torch.autograd.grad(logit.sum(), maps)[0]  # through pooling and head, wherever they are
    spatial = tuple(range(2, maps.ndim))
    weights = gradients.mean(dim=spatial, keepdim=True)  # Selvaraju et al. 2017, equations 1 and 2
    grad_cam = torch.relu((weights * maps).sum(dim=1)).detach().numpy()
    assert grad_cam.max() > 0
    assert maps[0, 0].numel() > 1
    assert got["cam"].shape == grad_cam.shape
    # Equal up to the number of positions, by which the average divides every gradient; a capture scales the largest value to 1.
    assert np.abs(got["cam"] / got["cam"].max() - grad_cam / grad_cam.max()).max() <= 1e-5
    assert got["cam"].max() / maps[0, 0].numel() == pytest.approx(grad_cam.max(), rel=1e-5)


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
        ("resnet50_2d", SliceCrop(0.1, 128), "flat", 32768, 2048),
        ("alexnet_2d", SliceCrop(0.1, 128), "flat", 4096, 4096),  # its penultimate fully connected layer
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
    assert millions("alexnet_2d", SliceCrop(0.1, 128)) == 57.00384  # 61,100,840 with ImageNet's last layer


def test_network_is_chosen_by_name_among_those_that_see_the_same() -> None:
    block = Cnn(ROLES, SECTION, network="densenet121_2d")
    assert choose_architecture(block, published=True) == PUBLISHED["densenet121_2d"]
    assert choose_architecture(block, published=True, network="alexnet_2d") == PUBLISHED["alexnet_2d"]
    assert choose_architecture(block, published=False, network="resnet50_2d") == NARROW["resnet50_2d"]
    with pytest.raises(CohortError, match="no network 'vgg16' here; there are resnet50_2d, densenet121_2d, alexnet_2d, resnet18_2d"):
        choose_architecture(Cnn(ROLES, SECTION, network="vgg16"), published=True)
    with pytest.raises(CohortError, match="no network 'resnet50_3d' here"):
        choose_architecture(block, published=True, network="resnet50_3d")
    with pytest.raises(CohortError, match="no network 'alexnet_2d' here; there are resnet50_2d, densenet121_2d, resnet18_2d"):
        choose_architecture(Cnn(ROLES, TRIPLETS, network="alexnet_2d"), published=True)
    assert NARROW.keys() == PUBLISHED.keys()


def test_alexnet_is_torchvisions_at_any_size_of_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    narrow = NARROW["alexnet_2d"]
    for size in (64, 128, 224, 260):
        block = Cnn(ROLES, SliceCrop(0.1, size), layer="flat", network="alexnet_2d")
        net, images = build(block, narrow).eval(), _images_of(block, 2)
        with torch.no_grad():
            maps = net.body.features(images.repeat(1, 3, 1, 1))
            expected = net.body.classifier(torch.nn.functional.adaptive_avg_pool2d(maps, (6, 6)).flatten(1))
            features, logit = net(images)
        assert torch.allclose(features, expected, atol=1e-6)
        assert features.shape == (2, 64) and logit.shape == (2, 1)
        assert export_network(net, tmp_path / f"{size}.onnx", images.numpy(), outputs=net.outputs).max_abs_difference <= 1e-5
        session = open_session(tmp_path / f"{size}.onnx")
        assert not has_map(session)
        found = run_cnn(session, images.numpy()[1:])
        assert np.abs(found.features - expected.numpy()[1:]).max() <= 1e-5
        assert found.cams.size == 0


def test_alexnet_trains_the_same_weights_from_the_same_seed_and_learns() -> None:
    block = Cnn(ROLES, SliceCrop(0.1, 64), network="alexnet_2d")
    images, labels = _images_of(block, 16).numpy(), np.arange(16) % 2
    images[labels == 1, :, 16:48, 16:48] += 1.5
    nets = []
    for _ in range(2):
        torch.manual_seed(1)
        net = build(block, NARROW["alexnet_2d"])
        fit_cnn(net, images, labels, schedule=Schedule(epochs=2, batch=8, rate=1e-3), seed=2, progress=_silent)
        nets.append(net)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True))
    fit_cnn(nets[0], images, labels, schedule=Schedule(epochs=15, batch=8, rate=1e-3), seed=2, progress=_silent)

    def logits_of(shown: NDArray[np.float32]) -> NDArray[np.float64]:
        with torch.no_grad():
            return nets[0](torch.from_numpy(shown))[1][:, 0].numpy().astype(np.float64)

    logits = logits_of(images)
    assert logits[labels == 1].min() > logits[labels == 0].max()
    found = occlusion_maps(logits_of, images[labels == 1]).mean(axis=0)
    inside = np.zeros((16, 16), dtype=bool)
    inside[4:12, 4:12] = True
    assert found[inside].mean() > 2 * found[~inside].mean()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet50_2d", "ResNet50, widths 64-128-256-512"),
        ("resnet200_3d", "ResNet200"),
        ("densenet121_2d", "DenseNet121, growth 32"),
        ("alexnet_2d", "AlexNet, widths 64-192-384-256-256-4096"),
    ],
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


def _bright_discs(n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32]
    centres = rng.uniform(10, 22, (n, 2))
    masks = np.array([(rows - a) ** 2 + (columns - b) ** 2 < 36 for a, b in centres]).astype(np.uint8)
    return (2 * masks + rng.normal(0, 0.4, masks.shape)).astype(np.float32), masks


def _train_on_discs(schedule: Schedule, validation: tuple[NDArray[np.float32], NDArray[np.uint8]]) -> tuple[Crfe, list[str]]:
    torch.manual_seed(0)
    net = Crfe((4, 8, 8), units=8)
    lines: list[str] = []
    fit_segmenter(net, *_bright_discs(24, 0), spacing_mm=2.0, validation=validation, schedule=schedule, seed=1, progress=lines.append)
    return net, lines


def test_segmenter_learns_to_mark_bright_discs() -> None:
    slices, masks = _bright_discs(12, 1)
    net, lines = _train_on_discs(Schedule(epochs=25, batch=6, rate=1e-2, patience=25), (slices, masks))
    with torch.no_grad():
        drawn = net(torch.from_numpy(slices)[:, None])[:, 0].numpy() > 0
    dice = 2 * (drawn & (masks > 0)).sum() / (drawn.sum() + masks.sum())
    assert dice > 0.9
    assert len(lines) == 25
    best = max(float(line.rsplit(" ", 1)[1]) for line in lines)
    assert dice == pytest.approx(best, abs=2e-3)  # the best epoch's weights were kept


def test_segmenter_stops_when_nothing_gets_better() -> None:
    slices, masks = _bright_discs(4, 1)
    _, lines = _train_on_discs(Schedule(epochs=25, batch=6, rate=0.0, patience=3), (slices, np.zeros_like(masks)))
    assert len(lines) == 4  # the first is the best there is


@pytest.mark.parametrize(("radius_px", "expected"), [(5, 0.0), (2, (1 - 0.8) ** 2), (20, (8 - 4) ** 2)])
def test_prior_of_size_penalises_lesions_outside_1_to_4_cm(radius_px: int, expected: float) -> None:
    rows, columns = np.mgrid[:64, :64] - 31.5
    disc = torch.from_numpy((rows**2 + columns**2 < radius_px**2).astype(np.float32))[None, None]
    empty = torch.zeros_like(disc)
    logits = torch.cat([disc, disc]) * 80 - 40
    found = size_prior(logits, torch.cat([disc, empty]), spacing_mm=2.0)  # the second slice has no lesion: no size is wanted of it
    assert float(found) == pytest.approx(expected, abs=0.3 * expected + 1e-6)
