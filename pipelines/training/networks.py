"""The feature networks that a bundle may carry, as torch modules whose outputs are what serving expects from the exported graph.

Each is a convolutional body, global average pooling and one linear unit. For such a head Grad-CAM equals the class activation map
ReLU(sum_k w_k A_k) up to a positive factor, so ``forward`` gives it without gradients (Selvaraju et al. 2017, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
from torch import Tensor, nn
from torch.nn import functional

from pipelines.errors import CohortError
from pipelines.spec import Cnn, Cube, Triplets


class FeatureNet(nn.Module):  # type: ignore[misc]
    """A body with ``channels`` last maps, pooled into features for one linear unit.

    Parameters
    ----------
    body : (n, inputs, ...spatial) to (n, channels, ...spatial).
    flat : the features are the last maps themselves, flattened ([PLNM] 16,384), rather than their averages.
    inputs : channels of the body; a single-channel view is repeated for a body that was trained on colour.
    """

    def __init__(self, body: nn.Module, channels: int, *, inputs: int = 1, flat: bool = False) -> None:
        super().__init__()
        self.body, self.inputs, self.flat = body, inputs, flat
        self.head = nn.Linear(channels, 1)

    def maps(self, image: Tensor) -> Tensor:
        """Return the last convolutional maps."""
        if self.inputs > 1 and image.shape[1] == 1:
            image = image.repeat(1, self.inputs, *[1] * (image.ndim - 2))
        return self.body(image)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return features (n, dim), logit (n, 1) and class activation map (n, ...spatial), which is not negative and not scaled."""
        maps = self.maps(image)
        pooled = maps.flatten(2).mean(dim=2)
        weights = self.head.weight.reshape(1, -1, *[1] * (maps.ndim - 2))
        return maps.flatten(1) if self.flat else pooled, self.head(pooled), functional.relu((weights * maps).sum(dim=1))


class JointNet(FeatureNet):
    """[HSCORE]: a shared trunk, one head for the image alone and one that is also told the node status (0 or 1)."""

    def __init__(self, body: nn.Module, channels: int, *, hidden: int = 16) -> None:
        super().__init__(body, channels, inputs=3)
        self.joint = nn.Sequential(nn.Linear(channels + 1, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, image: Tensor, status: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return what :class:`FeatureNet` does, and the joint logit (n, 1)."""
        features, logit, cam = super().forward(image)
        return features, logit, cam, self.joint(torch.cat([features, status], dim=1))


class _ResNetMaps(nn.Module):  # type: ignore[misc]
    """MONAI's residual network up to its last maps."""

    def __init__(self, net: ResNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        x = net.act(net.bn1(net.conv1(x)))
        if not net.no_max_pool:
            x = net.maxpool(x)
        return net.layer4(net.layer3(net.layer2(net.layer1(x))))


@dataclass(frozen=True)
class Architecture:
    """How a body is built: residual ``blocks`` per stage with these ``widths``, or dense blocks with a growth rate.

    ``bottleneck`` blocks have four times as many outputs as their width. Without ``pool`` the activation map is twice as fine.
    """

    kind: str  # "resnet" or "densenet"
    blocks: tuple[int, ...]
    widths: tuple[int, ...] = ()
    bottleneck: bool = False
    pool: bool = True
    growth: int = 32
    start: int = 64

    def words(self) -> str:
        """Name the architecture: ``ResNet50, widths 64-128-256-512``."""
        if self.kind == "densenet":
            return f"DenseNet{2 * sum(self.blocks) + 5}, growth {self.growth}"
        return f"ResNet{(3 if self.bottleneck else 2) * sum(self.blocks) + 2}, widths {'-'.join(map(str, self.widths))}"


_FULL = (64, 128, 256, 512)
PUBLISHED: Mapping[str, Architecture] = {
    "resnet10_3d": Architecture("resnet", (1, 1, 1, 1), _FULL),
    "resnet50_3d": Architecture("resnet", (3, 4, 6, 3), _FULL, bottleneck=True),
    "resnet101_3d": Architecture("resnet", (3, 4, 23, 3), _FULL, bottleneck=True),
    "resnet200_3d": Architecture("resnet", (3, 24, 36, 3), _FULL, bottleneck=True),
    "resnet50_2d": Architecture("resnet", (3, 4, 6, 3), _FULL, bottleneck=True),
    "densenet121_2d": Architecture("densenet", (6, 12, 24, 16)),
    "resnet18_2d": Architecture("resnet", (2, 2, 2, 2), (16, 32, 64, 128)),  # [HSCORE] trunk, reconstructed: widths are ours
}
_NARROW_WIDTHS = (8, 16, 32, 64)
# Small relatives of the published networks, for demo bundles and for cohorts too small for anything larger.
NARROW: Mapping[str, Architecture] = {
    "resnet10_3d": Architecture("resnet", (1, 1, 1, 1), _NARROW_WIDTHS, pool=False),
    "resnet50_3d": Architecture("resnet", (1, 1, 1, 1), _NARROW_WIDTHS, pool=False),
    "resnet101_3d": Architecture("resnet", (1, 1, 1, 1), _NARROW_WIDTHS, pool=False),
    "resnet200_3d": Architecture("resnet", (1, 1, 1, 1), _NARROW_WIDTHS, pool=False),
    "resnet50_2d": Architecture("resnet", (1, 1, 1, 1), _NARROW_WIDTHS, bottleneck=True),
    "densenet121_2d": Architecture("densenet", (2, 4, 6, 4), growth=8, start=16),
    "resnet18_2d": Architecture("resnet", (1, 1, 1, 1), _NARROW_WIDTHS, pool=False),
}


def build(block: Cnn, architecture: Architecture) -> FeatureNet:
    """Return a network for a system's block, with new weights."""
    dims = 3 if isinstance(block.view, Cube) else 2
    inputs = 1 if dims == 3 else 3  # published 2D networks were made for colour
    body, channels = (_dense if architecture.kind == "densenet" else _residual)(architecture, dims, inputs)
    if isinstance(block.view, Triplets):
        return JointNet(body, channels)
    return FeatureNet(body, channels, inputs=inputs, flat=block.layer == "flat")


def choose_architecture(block: Cnn, *, published: bool) -> Architecture:
    """Return the architecture that a block names, or its small relative.

    Raises
    ------
    CohortError
        The name is not known.
    """
    known = PUBLISHED if published else NARROW
    if block.network not in known:
        raise CohortError(f"there is no network {block.network!r}; known are {', '.join(known)}")
    return known[block.network]


def _residual(one: Architecture, dims: int, inputs: int) -> tuple[nn.Module, int]:
    net = ResNet(
        block=ResNetBottleneck if one.bottleneck else ResNetBlock,
        layers=list(one.blocks),
        block_inplanes=list(one.widths),
        spatial_dims=dims,
        n_input_channels=inputs,
        conv1_t_size=7,
        conv1_t_stride=2,  # as torchvision has it; MONAI's default of 1 would give other numbers with its weights
        no_max_pool=not one.pool,
        shortcut_type="B",
        bias_downsample=False,
        feed_forward=False,
    )
    return _ResNetMaps(net), one.widths[-1] * (4 if one.bottleneck else 1)


def _dense(one: Architecture, dims: int, inputs: int) -> tuple[nn.Module, int]:
    net = DenseNet(
        spatial_dims=dims, in_channels=inputs, out_channels=1, init_features=one.start, growth_rate=one.growth, block_config=one.blocks
    )
    return nn.Sequential(net.features, nn.ReLU()), int(net.class_layers.out.in_features)
