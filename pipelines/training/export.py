"""Networks and classifiers as ONNX graphs (opset 17), each with a record of how far the graph is from its library."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxmltools
import torch
from lightgbm import LGBMClassifier
from numpy.typing import NDArray
from onnxmltools.convert.common.data_types import FloatTensorType
from torch import nn

from pipelines.errors import BundleError
from pipelines.models.manifest import Parity
from pipelines.models.session import open_session

OPSET = 17  # with ai.onnx.ml 3: what onnxruntime 1.22 and later read
TOLERANCE = 1e-5


def export_network(net: nn.Module, path: Path, example: NDArray[np.float32], *, outputs: tuple[str, ...]) -> Parity:
    """Write a network in evaluation mode as a graph with input ``image`` and a free batch size.

    ``example`` (n, ...) gives the input's shape and the rows on which parity is measured.

    Raises
    ------
    BundleError
        The graph differs from torch by more than 1e-5, relative to the largest output where that exceeds 1.
    """
    net.eval()
    tensor = torch.from_numpy(example)
    with warnings.catch_warnings():
        # The tracing exporter is deprecated, but the newer one freezes the batch size of an LSTM along two axes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (tensor[:1],),
            str(path),
            input_names=["image"],
            output_names=list(outputs),
            dynamic_axes={name: {0: "n"} for name in ("image", *outputs)},
            opset_version=OPSET,
            dynamo=False,
        )
    with torch.no_grad():
        result = net(tensor)
    expected = [o.numpy() for o in (result if isinstance(result, tuple) else (result,))]
    got = open_session(path).run(list(outputs), {"image": example})
    difference = max(float(np.abs(g - e).max()) / max(1.0, float(np.abs(e).max())) for g, e in zip(got, expected, strict=True))
    return _record(path, "torch", len(example), difference)


def export_lightgbm(model: LGBMClassifier, path: Path, rows: NDArray[np.float32]) -> Parity:
    """Write a binary LightGBM classifier as a graph with outputs label and probabilities (n, 2).

    ``rows`` (n, n_features) are standardised and float32, as the model was trained.

    Raises
    ------
    BundleError
        The graph's probabilities differ from LightGBM's by more than 1e-5.
    """
    kind = FloatTensorType([None, rows.shape[1]])
    graph = onnxmltools.convert_lightgbm(model, name="classifier", initial_types=[("rows", kind)], target_opset=15, zipmap=False)
    for output in graph.graph.output:  # the converter declares a batch of one
        output.type.tensor_type.shape.dim[0].Clear()
    opsets = sorted(graph.opset_import, key=lambda o: o.domain)  # the converter keeps them in a set, whose order varies by process
    del graph.opset_import[:]
    graph.opset_import.extend(opsets)
    path.write_bytes(onnx.ModelProto.SerializeToString(graph, deterministic=True))
    got = open_session(path).run(None, {"rows": rows})[1]
    return _record(path, "LightGBM", len(rows), float(np.abs(got - model.predict_proba(rows)).max()))


def _record(path: Path, library: str, rows: int, difference: float) -> Parity:
    if not difference <= TOLERANCE:
        raise BundleError(f"{path.name} differs from {library} by {difference:.1e} (at most {TOLERANCE:g} allowed)")
    return Parity(what=f"{path.name} against {library}", rows=rows, max_abs_difference=difference)
