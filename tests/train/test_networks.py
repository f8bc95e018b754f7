"""The networks: shapes, options, reproducible training, and Grad-CAM without gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("monai", reason="training needs the [train] extra")

import torch

from pipelines.training.fit import Schedule, dice_loss, fit_cnn, fit_segmenter
from pipelines.training.networks import Crfe, FeatureNet, PositionAttention, Scan

pytestmark = pytest.mark.train


def _net(*, pool: bool = False) -> FeatureNet:
    torch.manual_seed(0)
    net = FeatureNet((4, 6, 8, 12), pool=pool)
    net.eval()
    return net


def _silent(line: str) -> None:
    """Report nothing."""


@pytest.mark.parametrize(("pool", "side"), [(True, 2), (False, 3)])
def test_feature_net_gives_features_logit_and_map(pool: bool, side: int) -> None:
    features, logit, cam = _net(pool=pool)(torch.rand(2, 1, 48, 48, 48))
    assert (features.shape, logit.shape, cam.shape) == ((2, 12), (2, 1), (2, side, side, side))
    assert float(cam.detach().min()) >= 0


def test_activation_map_equals_gradient_grad_cam() -> None:
    net = _net()
    with torch.no_grad():
        net.head.weight.copy_(torch.linspace(-1, 1, 12)[None])  # so that the map is neither empty nor full
    image = torch.rand(3, 1, 40, 40, 40)
    maps = net.maps(image)
    gradients = torch.autograd.grad(net.head(maps.mean(dim=(2, 3, 4))).sum(), maps)[0]
    weights = gradients.mean(dim=(2, 3, 4), keepdim=True)  # Grad-CAM's alpha_k, by autograd
    grad_cam = torch.relu((weights * maps).sum(dim=1))
    cam = net(image)[2]
    assert float(cam.detach().max()) > 0
    scaled, expected = (x / x.amax(dim=(1, 2, 3), keepdim=True) for x in (cam, grad_cam))
    assert float((scaled - expected).abs().max().detach()) <= 1e-5


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


def test_same_seed_trains_the_same_weights() -> None:
    cubes = np.random.default_rng(0).random((6, 24, 24, 24), dtype=np.float32)
    labels = np.array([0, 1, 0, 1, 0, 1])
    nets = []
    for _ in range(2):
        net = _net()
        fit_cnn(net, cubes, labels, schedule=Schedule(epochs=2, batch=3, rate=1e-3), seed=4, progress=_silent)
        nets.append(net.state_dict())
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    assert not torch.equal(nets[0]["head.weight"], _net().state_dict()["head.weight"])


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
