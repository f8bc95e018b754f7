"""Weights that a site brings: ImageNet and MedicalNet files by their own names, and files that are something else."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("monai", reason="training needs the [train] extra")

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.errors import CohortError
from pipelines.spec import Cnn, Cube, SliceCrop
from pipelines.training.networks import NARROW, PUBLISHED, Architecture, FeatureNet, build
from pipelines.training.weights import load_weights
from pipelines.types import SeriesRole

pytestmark = pytest.mark.train

ROLES = (SeriesRole.T2W,)
SECTION = Cnn(ROLES, SliceCrop(0.1, 64))
RESNET50 = Architecture("resnet", (3, 4, 6, 3), (2, 3, 4, 5), bottleneck=True)  # all names of ResNet50, few weights
RESNET10 = Architecture("resnet", (1, 1, 1, 1), (2, 3, 4, 5))
DENSENET121 = Architecture("densenet", (6, 12, 24, 16), growth=2, start=4)


def _norm(name: str, channels: int, *, counted: bool = True) -> Iterator[tuple[str, Tensor]]:
    for part in ("weight", "bias", "running_mean"):
        yield f"{name}.{part}", torch.randn(channels)
    yield f"{name}.running_var", torch.rand(channels) + 0.5
    if counted:
        yield f"{name}.num_batches_tracked", torch.tensor(3)


def _resnet(one: Architecture, *, dims: int) -> dict[str, Tensor]:
    """Return random tensors under torchvision's names (MedicalNet has the same ones in three dimensions)."""
    torch.manual_seed(0)

    def conv(name: str, outputs: int, inputs: int, side: int) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", torch.randn(outputs, inputs, *(side,) * dims)

    found = dict([*conv("conv1", one.widths[0], 3 if dims == 2 else 1, 7), *_norm("bn1", one.widths[0])])
    given = one.widths[0]
    for stage, (blocks, width) in enumerate(zip(one.blocks, one.widths, strict=True), start=1):
        out = width * (4 if one.bottleneck else 1)
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            layers = [(width, given, 1), (width, width, 3), (out, width, 1)] if one.bottleneck else [(width, given, 3), (width, width, 3)]
            for i, (outputs, inputs, side) in enumerate(layers, start=1):
                found |= dict([*conv(f"{name}.conv{i}", outputs, inputs, side), *_norm(f"{name}.bn{i}", outputs)])
            if block == 0 and (stage > 1 or given != out):
                found |= dict([*conv(f"{name}.downsample.0", out, given, 1), *_norm(f"{name}.downsample.1", out)])
            given = out
    return found | {"fc.weight": torch.randn(1000, given), "fc.bias": torch.randn(1000)}


def _densenet(one: Architecture, *, old_names: bool) -> dict[str, Tensor]:
    """Return random tensors under torchvision's names, or those of the files that it was first released with (``norm.1``)."""
    torch.manual_seed(0)
    dot = "." if old_names else ""
    found = {"features.conv0.weight": torch.randn(one.start, 3, 7, 7)} | dict(_norm("features.norm0", one.start, counted=not old_names))
    channels = one.start
    for i, layers in enumerate(one.blocks, start=1):
        for j in range(1, layers + 1):
            name = f"features.denseblock{i}.denselayer{j}"
            found |= dict(_norm(f"{name}.norm{dot}1", channels, counted=not old_names))
            found[f"{name}.conv{dot}1.weight"] = torch.randn(4 * one.growth, channels, 1, 1)
            found |= dict(_norm(f"{name}.norm{dot}2", 4 * one.growth, counted=not old_names))
            found[f"{name}.conv{dot}2.weight"] = torch.randn(one.growth, 4 * one.growth, 3, 3)
            channels += one.growth
        if i < len(one.blocks):
            found |= dict(_norm(f"features.transition{i}.norm", channels, counted=not old_names))
            found[f"features.transition{i}.conv.weight"] = torch.randn(channels // 2, channels, 1, 1)
            channels //= 2
    found |= dict(_norm("features.norm5", channels, counted=not old_names))
    return found | {"classifier.weight": torch.randn(1000, channels), "classifier.bias": torch.randn(1000)}


def _saved(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    return path


def _body(net: FeatureNet) -> dict[str, Tensor]:
    return {name: value for name, value in net.body.state_dict().items() if not name.endswith("num_batches_tracked")}


def test_torchvision_resnet_loads_by_name(tmp_path: Path) -> None:
    given = _resnet(RESNET50, dims=2)
    net = build(SECTION, RESNET50)
    assert load_weights(net, _saved(tmp_path, given)) == len(given) - 2
    assert all(torch.equal(value, given[name.removeprefix("net.")]) for name, value in _body(net).items())
    assert len(_body(net)) == sum(not n.startswith("fc.") and not n.endswith("num_batches_tracked") for n in given)


def test_names_and_shapes_of_the_published_resnet50_are_torchvisions() -> None:
    with torch.device("meta"):
        body = build(SECTION, PUBLISHED["resnet50_2d"]).body.state_dict()
    given = {name: value.shape for name, value in _resnet(PUBLISHED["resnet50_2d"], dims=2).items() if not name.startswith("fc.")}
    assert {name.removeprefix("net."): value.shape for name, value in body.items()} == given


def _torchvision_resnet50(given: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return the last maps as torchvision computes them: a bottleneck strides in its 3x3 convolution (not in the first, as He et al.)."""

    def layer(x: Tensor, conv: str, bn: str, stride: int = 1, padding: int = 0) -> Tensor:
        x = functional.conv2d(x, given[f"{conv}.weight"], stride=stride, padding=padding)
        mean, variance, weight, bias = (given[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, mean, variance, weight, bias, eps=1e-5)

    x = functional.max_pool2d(layer(x, "conv1", "bn1", 2, 3).relu(), 3, stride=2, padding=1)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            y = layer(x, f"{name}.conv1", f"{name}.bn1").relu()
            y = layer(y, f"{name}.conv2", f"{name}.bn2", stride, 1).relu()
            y = layer(y, f"{name}.conv3", f"{name}.bn3")
            x = layer(x, f"{name}.downsample.0", f"{name}.downsample.1", stride) if block == 0 else x
            x = (x + y).relu()
    return x


def test_published_resnet50_computes_what_torchvision_does_with_the_same_weights() -> None:
    given = {name: value.double() for name, value in _resnet(PUBLISHED["resnet50_2d"], dims=2).items() if not name.startswith("fc.")}
    given |= {name: value / value[0].numel() ** 0.5 for name, value in given.items() if value.ndim == 4}  # keeps the maps finite
    net = build(SECTION, PUBLISHED["resnet50_2d"]).double().eval()
    net.body.load_state_dict({f"net.{name}": value for name, value in given.items()})
    image = torch.randn(2, 1, 75, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = net.maps(image), _torchvision_resnet50(given, image.repeat(1, 3, 1, 1))
    assert found.shape == expected.shape == (2, 2048, 3, 2)
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-9 * expected.abs().max()


@pytest.mark.parametrize("old_names", [False, True])
def test_torchvision_densenet_loads_in_order(tmp_path: Path, old_names: bool) -> None:
    given = _densenet(DENSENET121, old_names=old_names)
    net = build(SECTION, DENSENET121)
    load_weights(net, _saved(tmp_path, given))
    dot = "." if old_names else ""
    for name, value in _body(net).items():
        original = name.replace("0.", "features.", 1).replace(".layers.", ".")
        for part in ("norm", "conv"):
            original = (
                original.replace(f"{part}1.", f"{part}{dot}1.").replace(f"{part}2.", f"{part}{dot}2.") if "denselayer" in name else original
            )
        assert torch.equal(value, given[original]), name


def _alexnet(widths: tuple[int, ...]) -> dict[str, Tensor]:
    """Return random tensors under torchvision's names."""
    torch.manual_seed(0)
    a, b, c, d, e, units = widths
    convolutions = {0: (a, 3, 11), 3: (b, a, 5), 6: (c, b, 3), 8: (d, c, 3), 10: (e, d, 3)}
    shapes = {f"features.{i}": (outputs, inputs, side, side) for i, (outputs, inputs, side) in convolutions.items()}
    shapes |= {"classifier.1": (units, 36 * e), "classifier.4": (units, units), "classifier.6": (1000, units)}
    return {f"{name}.{part}": torch.randn(s if part == "weight" else s[:1]) for name, s in shapes.items() for part in ("weight", "bias")}


def test_torchvision_alexnet_loads_by_name_without_its_last_layer(tmp_path: Path) -> None:
    narrow = NARROW["alexnet_2d"]
    given = _alexnet(narrow.widths)
    net = build(SECTION, narrow)
    assert load_weights(net, _saved(tmp_path, given)) == len(given) - 2 == 14
    assert {name: value.shape for name, value in _body(net).items()} == {
        name: value.shape for name, value in given.items() if not name.startswith("classifier.6")
    }
    assert all(torch.equal(value, given[name]) for name, value in _body(net).items())
    less = {name: value for name, value in given.items() if name != "classifier.4.bias"}
    with pytest.raises(CohortError, match=r"1 tensors of the network are not in it, first classifier\.4\.bias"):
        load_weights(build(SECTION, narrow), _saved(tmp_path, less))
    with pytest.raises(
        CohortError, match=r"tensors have another shape, first features\.0\.weight is \(64, 3, 11, 11\), not \(16, 3, 11, 11\)"
    ):
        load_weights(build(SECTION, narrow), _saved(tmp_path, _alexnet((64, 32, 48, 32, 32, 64))))


def test_names_and_shapes_of_the_published_alexnet_are_torchvisions() -> None:
    with torch.device("meta"):
        body = build(SECTION, PUBLISHED["alexnet_2d"]).body.state_dict()
        given = {name: value.shape for name, value in _alexnet((64, 192, 384, 256, 256, 4096)).items()}
    assert {name: value.shape for name, value in body.items()} == {n: s for n, s in given.items() if not n.startswith("classifier.6")}


def test_medicalnet_loads_without_its_prefix_and_head(tmp_path: Path) -> None:
    plain = {name: value for name, value in _resnet(RESNET10, dims=3).items() if not name.startswith("fc.")}
    given = {f"module.{name}": value for name, value in plain.items()}
    given |= {"module.conv_seg.0.weight": torch.randn(5, 32, 2, 2, 2), "module.conv_seg.0.bias": torch.randn(32)}
    net = build(Cnn(ROLES, Cube(90.0, 32)), RESNET10)
    load_weights(net, _saved(tmp_path, {"state_dict": given}))
    assert all(torch.equal(value, plain[name.removeprefix("net.")]) for name, value in _body(net).items())


def test_loaded_network_gives_other_features_and_keeps_its_own_head(tmp_path: Path) -> None:
    net = build(SECTION, RESNET50).eval()
    image, head = torch.rand(1, 1, 64, 64), net.head.weight.detach().clone()
    before = net(image)[0].detach()
    load_weights(net, _saved(tmp_path, _resnet(RESNET50, dims=2)))
    assert not torch.allclose(net(image)[0], before)
    assert torch.equal(net.head.weight, head)


def test_missing_tensor_and_wrong_shape_are_named(tmp_path: Path) -> None:
    given = _resnet(RESNET50, dims=2)
    less = {name: value for name, value in given.items() if not name.startswith("layer3.5.conv2")}
    with pytest.raises(CohortError, match=r"1 tensors of the network are not in it, first net\.layer3\.5\.conv2\.weight"):
        load_weights(build(SECTION, RESNET50), _saved(tmp_path, less))
    odd = given | {"conv1.weight": torch.randn(2, 1, 7, 7)}
    with pytest.raises(CohortError, match=r"1 tensors have another shape, first net\.conv1\.weight is \(2, 1, 7, 7\), not \(2, 3, 7, 7\)"):
        load_weights(build(SECTION, RESNET50), _saved(tmp_path, odd))


def test_weights_of_another_network_are_refused_and_leave_nothing_behind(tmp_path: Path) -> None:
    net = build(SECTION, DENSENET121)
    before = {name: value.clone() for name, value in _body(net).items()}
    with pytest.raises(CohortError, match=r"none of its names is known, and it has \d+ tensors where the network has"):
        load_weights(net, _saved(tmp_path, _resnet(RESNET50, dims=2)))
    shuffled = dict(reversed(_densenet(DENSENET121, old_names=False).items()))
    with pytest.raises(CohortError, match="tensors have another shape"):
        load_weights(net, _saved(tmp_path, shuffled))
    assert all(torch.equal(value, before[name]) for name, value in _body(net).items())


class _Code:
    """What a malicious file would hold: unpickling it makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path: Path, how: str) -> None:
    path, made = tmp_path / "weights.pth", tmp_path / "made"
    content = {"conv1.weight": _Code(made)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(CohortError, match=r"weights\.pth: no weights can be read from it"):
        load_weights(build(SECTION, RESNET50), path)
    assert not made.exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04broken", b"\x80\x02}q\x00.", bytes(range(256)) * 8])
def test_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CohortError, match=r"weights\.pth: "):
        load_weights(build(SECTION, RESNET50), path)


def test_missing_file_and_cut_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no weights can be read"):
        load_weights(build(SECTION, RESNET50), tmp_path / "absent.pth")
    path = _saved(tmp_path, _resnet(RESNET50, dims=2))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CohortError, match="no weights can be read"):
        load_weights(build(SECTION, RESNET50), path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"a": "b"}, torch.zeros(3), {}])
def test_archive_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(CohortError):
        load_weights(build(SECTION, RESNET50), _saved(tmp_path, content))


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    given = _resnet(RESNET50, dims=2)
    given["layer1.0.conv1.weight"][0, 0] = np.nan
    with pytest.raises(CohortError, match=r"not finite, first net\.layer1\.0\.conv1\.weight"):
        load_weights(build(SECTION, RESNET50), _saved(tmp_path, given))
