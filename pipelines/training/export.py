"""Networks and classifiers written as ONNX graphs (opset 17), each with a record of how far the graph is from its library."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipelines.errors import BundleError
from pipelines.models.manifest import Parity
from pipelines.models.session import open_session
from pipelines.training.classifiers import Fitted
from pipelines.training.graphs import OPSET, classifier_graph

TOLERANCE = 1e-5


def export_network(
    net: nn.Module,
    path: Path,
    example: NDArray[np.float32],
    *,
    outputs: tuple[str, ...],
    more_inputs: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
) -> Parity:
    """Write a network in evaluation mode as a graph with input ``image`` and a free batch size.

    Parameters
    ----------
    example : images (n, ...) that give the input's shape and on which parity is measured.
    more_inputs : further inputs by name, (n, ...), in the order in which ``net`` takes them.

    Raises
    ------
    BundleError
        The graph differs from torch by more than 1e-5, relative to the largest output where that exceeds 1.
    """
    net.eval()
    given = {"image": example, **more_inputs}
    tensors = tuple(torch.from_numpy(array) for array in given.values())
    with warnings.catch_warnings():
        # The tracing exporter is deprecated, but the newer one freezes the batch size of an LSTM along two axes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            tuple(tensor[:1] for tensor in tensors),
            str(path),
            input_names=list(given),
            output_names=list(outputs),
            dynamic_axes={name: {0: "n"} for name in (*given, *outputs)},
            opset_version=OPSET,
            dynamo=False,
        )
    with torch.no_grad():
        result = net(*tensors)
    expected = [o.numpy() for o in (result if isinstance(result, tuple) else (result,))]
    got = open_session(path).run(list(outputs), given)
    difference = max(float(np.abs(g - e).max()) / max(1.0, float(np.abs(e).max())) for g, e in zip(got, expected, strict=True))
    return _record(path, "torch", len(example), difference)


def export_classifier(fitted: Fitted, path: Path, rows: NDArray[np.float32]) -> Parity:
    """Write a classifier as a graph with input ``rows`` (n, p), outputs ``label`` (n,) and ``probabilities`` (n, classes).

    Scaling and calibration stay outside. The same model gives the same bytes in every process.

    Parameters
    ----------
    rows : standardised rows (n, p) on which parity is measured.

    Raises
    ------
    BundleError
        The graph's probabilities differ from the library's by more than 1e-5.
    """
    graph = classifier_graph(fitted, rows.shape[1])
    path.write_bytes(graph.SerializeToString(deterministic=True))
    got = open_session(path).run(["probabilities"], {"rows": rows})[0]
    return _record(path, fitted.family, len(rows), float(np.abs(got - fitted.predict_proba(rows)).max()))


def _record(path: Path, library: str, rows: int, difference: float) -> Parity:
    if not difference <= TOLERANCE:
        raise BundleError(f"{path.name} differs from {library} by {difference:.1e} (at most {TOLERANCE:g} allowed)")
    return Parity(what=f"{path.name} against {library}", rows=rows, max_abs_difference=difference)
