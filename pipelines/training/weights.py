"""Weights that a site brings: ImageNet or MedicalNet state dicts, checked tensor by tensor before anything is trained."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipelines.errors import CohortError
from pipelines.training.networks import FeatureNet

# What a damaged archive or pickle raises beside its own errors: the reader walks whatever bytes are there.
_UNREADABLE = (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError)
# What published files hold beside the body: classifiers of ImageNet, the segmentation head of MedicalNet. Of AlexNet's "classifier" all
# layers but the last belong to the body.
_HEADS = ("fc.", "classifier.", "conv_seg.", "class_layers.")


def load_weights(net: FeatureNet, path: Path) -> int:
    """Load a state dict (``.pt`` or ``.pth``, tensors only) into the body; return the number of tensors.

    Names are matched as they are, without ``module.`` (MedicalNet) and with torchvision's own for residual networks; where no name matches
    (DenseNet: torchvision's and MONAI's differ), tensors are matched in order, each by its shape.

    Raises
    ------
    CohortError
        The file cannot be read without running code in it, or a tensor is missing or has another shape; the message names the first few.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd archives, before they are refused
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise CohortError(f"{path}: no weights can be read from it: {next(iter(str(error).splitlines()), type(error).__name__)}") from error
    body = net.body.state_dict()
    given = {k: v for k, v in _tensors(stored, path).items() if k in body or not k.startswith(_HEADS)}
    prefix = "net." if all(k.startswith("net.") for k in body) else ""
    named = {prefix + k: v for k, v in given.items() if prefix + k in body}
    chosen = named if named else _in_order(body, given, path)
    wanted = {k for k in body if not k.endswith("num_batches_tracked")}
    if missing := sorted(wanted - chosen.keys()):
        raise CohortError(f"{path}: {len(missing)} tensors of the network are not in it, first {', '.join(missing[:3])}")
    odd = [f"{k} is {tuple(v.shape)}, not {tuple(body[k].shape)}" for k, v in chosen.items() if v.shape != body[k].shape]
    if odd:
        raise CohortError(f"{path}: {len(odd)} tensors have another shape, first {'; '.join(odd[:3])}")
    if wrong := [k for k, v in chosen.items() if not torch.isfinite(v).all()]:
        raise CohortError(f"{path}: {len(wrong)} tensors have values that are not finite, first {wrong[0]}")
    net.body.load_state_dict(body | chosen)
    return len(chosen)


def _tensors(stored: object, path: Path) -> dict[str, Tensor]:
    if isinstance(stored, Mapping) and isinstance(stored.get("state_dict"), Mapping):
        stored = stored["state_dict"]
    if not isinstance(stored, Mapping) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise CohortError(f"{path}: not a state dict of tensors")
    return {str(k).removeprefix("module."): v for k, v in stored.items()}


def _in_order(body: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    names = [k for k in body if not k.endswith("num_batches_tracked")]
    values = [v for k, v in given.items() if not k.endswith("num_batches_tracked")]
    if len(names) != len(values):
        raise CohortError(f"{path}: none of its names is known, and it has {len(values)} tensors where the network has {len(names)}")
    return dict(zip(names, values, strict=True))
