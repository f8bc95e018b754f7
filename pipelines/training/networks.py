"""The feature networks that a bundle may carry, as torch modules whose outputs are what serving expects from the exported graph.

All but AlexNet are a convolutional body, global average pooling and one linear unit. For such a head Grad-CAM equals the class activation
map ReLU(sum_k w_k A_k) up to a positive factor, so ``forward`` gives it without gradients (Selvaraju et al. 2017, section 3.1). AlexNet's
fully connected layers have no such form: its graph has no map, and serving makes an occlusion map instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
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

    outputs: ClassVar[tuple[str, ...]] = ("features", "logit", "cam")  # of its graph

    def __init__(self, body: nn.Module, channels: int, *, inputs: int = 1, flat: bool = False) -> None:
        super().__init__()
        self.body, self.inputs, self.flat = body, inputs, flat
        self.head = nn.Linear(channels, 1)

    def maps(self, image: Tensor) -> Tensor:
        """Return what the body gives, the last convolutional maps."""
        if self.inputs > 1 and image.shape[1] == 1:
            image = image.repeat(1, self.inputs, *[1] * (image.ndim - 2))
        return self.body(image)

    def pooled(self, image: Tensor) -> Tensor:
        """Return what the linear unit is given, (n, channels)."""
        return self.maps(image).flatten(2).mean(dim=2)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return features (n, dim), logit (n, 1) and class activation map (n, ...spatial), which is not negative and not scaled."""
        maps = self.maps(image)
        pooled = maps.flatten(2).mean(dim=2)
        weights = self.head.weight.reshape(1, -1, *[1] * (maps.ndim - 2))
        return maps.flatten(1) if self.flat else pooled, self.head(pooled), functional.relu((weights * maps).sum(dim=1))


class JointNet(FeatureNet):
    """[HSCORE]: a shared trunk, one head for the image alone and one that is also told the node status (0 or 1)."""

    outputs = (*FeatureNet.outputs, "joint_logit")

    def __init__(self, body: nn.Module, channels: int, *, hidden: int = 16) -> None:
        super().__init__(body, channels, inputs=3)
        self.joint = nn.Sequential(nn.Linear(channels + 1, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, image: Tensor, status: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return what :class:`FeatureNet` does, and the joint logit (n, 1)."""
        features, logit, cam = super().forward(image)
        return features, logit, cam, self.joint(torch.cat([features, status], dim=1))


class StackNet(FeatureNet):
    """A body that ends in fully connected layers, the last of which are the features; there is no map."""

    outputs = ("features", "logit")

    def pooled(self, image: Tensor) -> Tensor:
        """Return what the linear unit is given, which is what the body gives."""
        return self.maps(image)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return features (n, channels) and logit (n, 1)."""
        features = self.pooled(image)
        return features, self.head(features)


class _AlexNet(nn.Module):  # type: ignore[misc]
    """Krizhevsky's network in one column (arXiv:1404.5997) under torchvision's names, without the last fully connected layer."""

    _SIDE = 6  # of the maps that the fully connected layers take

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        a, b, c, d, e, units = widths
        first = [nn.Conv2d(3, a, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)]
        second = [nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)]
        others = [nn.Conv2d(b, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, d, 3, padding=1), nn.ReLU(), nn.Conv2d(d, e, 3, padding=1)]
        self.features = nn.Sequential(*first, *second, *others, nn.ReLU(), nn.MaxPool2d(3, stride=2))
        stack = [nn.Dropout(), nn.Linear(e * self._SIDE**2, units), nn.ReLU(), nn.Dropout(), nn.Linear(units, units), nn.ReLU()]
        self.classifier = nn.Sequential(*stack)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.features(x)
        rows, columns = (_averaging(int(n), self._SIDE).to(maps) for n in maps.shape[2:])
        return self.classifier((rows @ maps @ columns.T).flatten(1))


def _averaging(size: int, parts: int) -> Tensor:
    """Return the matrix (parts, size) of adaptive average pooling, which ONNX does not have for sizes that are no multiple of the parts."""
    matrix = np.zeros((parts, size), dtype=np.float32)
    for i in range(parts):
        low, high = i * size // parts, -(-(i + 1) * size // parts)
        matrix[i, low:high] = 1 / (high - low)
    return torch.from_numpy(matrix)


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

    ``bottleneck`` blocks have four times as many outputs as their width. Without ``pool`` the activation map is twice as fine. AlexNet's
    ``widths`` are those of its convolutions and of its fully connected layers.
    """

    kind: str  # "resnet", "densenet" or "alexnet"
    blocks: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    bottleneck: bool = False
    pool: bool = True
    growth: int = 32
    start: int = 64

    @property
    def map_kind(self) -> Literal["class activation", "occlusion"]:
        """What the map shows that goes with a prediction."""
        return "occlusion" if self.kind == "alexnet" else "class activation"

    def words(self) -> str:
        """Name the architecture: ``ResNet50, widths 64-128-256-512``."""
        if self.kind == "alexnet":
            return f"AlexNet, widths {'-'.join(map(str, self.widths))}"
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
    "alexnet_2d": Architecture("alexnet", widths=(64, 192, 384, 256, 256, 4096)),
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
    "alexnet_2d": Architecture("alexnet", widths=(16, 32, 48, 32, 32, 64)),
    "resnet18_2d": Architecture("resnet", (1, 1, 1, 1), _NARROW_WIDTHS, pool=False),
}


def build(block: Cnn, architecture: Architecture) -> FeatureNet:
    """Return a network for a system's block, with new weights."""
    if architecture.kind == "alexnet":
        return StackNet(_AlexNet(architecture.widths), architecture.widths[-1], inputs=3)
    dims = 3 if isinstance(block.view, Cube) else 2
    inputs = 1 if dims == 3 else 3  # published 2D networks were made for colour
    body, channels = (_dense if architecture.kind == "densenet" else _residual)(architecture, dims, inputs)
    if isinstance(block.view, Triplets):
        return JointNet(body, channels)
    return FeatureNet(body, channels, inputs=inputs, flat=block.layer == "flat")


def choose_architecture(block: Cnn, *, published: bool, network: str = "") -> Architecture:
    """Return the architecture that a block names, or ``network`` instead of it; if not as ``published``, its small relative.

    Raises
    ------
    CohortError
        There is none of that name for what the block's networks see.
    """
    name, known = network or block.network, [one for one in PUBLISHED if _fits(one, block)]
    if name not in known:
        raise CohortError(f"there is no network {name!r} here; there are {', '.join(known)}")
    return (PUBLISHED if published else NARROW)[name]


def _fits(name: str, block: Cnn) -> bool:
    """Tell whether a network sees as many dimensions as the block shows, and has maps where they are averaged over several views."""
    return name.endswith("_3d") == isinstance(block.view, Cube) and not (name == "alexnet_2d" and isinstance(block.view, Triplets))


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
