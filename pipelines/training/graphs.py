"""Classifiers as ONNX graphs: trees by their converters, all others written out in standard operators.

Converters of support vector machines and nearest neighbours work in float32, which moves probabilities by up to 6e-4 and may choose another
neighbour; here their distances are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxmltools
import skl2onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert.common.data_types import FloatTensorType as BoostingInput
from skl2onnx.common.data_types import FloatTensorType as ForestInput

from pipelines.training.classifiers import Fitted
from pipelines.training.perceptron import Perceptron
from pipelines.training.support_vectors import SupportVectors

OPSET = 17  # with ai.onnx.ml 3: what onnxruntime 1.22 and later read
ML_OPSET = 3
IR_VERSION = 8  # of opset 17; the library's default is newer than runtimes in use
_BOOSTING_OPSET = 15  # the newest that onnxmltools writes


class _Part(NamedTuple):
    """Nodes from ``rows`` to the tensor ``probabilities`` (n, classes), of any float type."""

    nodes: list[onnx.NodeProto]
    constants: list[onnx.TensorProto]
    probabilities: str


def classifier_graph(fitted: Fitted, inputs: int) -> onnx.ModelProto:
    """Return the graph: input ``rows`` (n, inputs) float32, outputs ``label`` (n,) and ``probabilities`` (n, classes) float32.

    The label is the most probable class, the first where several are.
    """
    part = _BUILDERS[fitted.family](fitted.model, inputs)
    classes = numpy_helper.from_array(fitted.classes.astype(np.int64), "classes")
    last = [
        helper.make_node("Cast", [part.probabilities], ["probabilities"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["probabilities"], ["code"], axis=1, keepdims=0),
        helper.make_node("Gather", ["classes", "code"], ["label"]),
    ]
    graph = helper.make_graph(
        [*part.nodes, *last],
        "classifier",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", inputs])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(fitted.classes)]),
        ],
        [*part.constants, classes],
    )
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def _layers(layers: tuple[tuple[NDArray[Any], NDArray[Any]], ...]) -> _Part:
    nodes, constants, given = [], [], "rows"
    for i, (weights, bias) in enumerate(layers):
        constants += [_constant(f"weights_{i}", weights.astype(np.float32)), _constant(f"bias_{i}", bias.astype(np.float32))]
        nodes.append(helper.make_node("Gemm", [given, f"weights_{i}", f"bias_{i}"], [f"sum_{i}"], transB=1))
        nodes.append(helper.make_node("Relu", [f"sum_{i}"], [f"units_{i}"]))
        given = f"units_{i}"
    nodes[-1] = helper.make_node("Softmax", [f"sum_{len(layers) - 1}"], ["softmax"], axis=1)
    return _Part(nodes, constants, "softmax")


def _logistic(model: Any, inputs: int) -> _Part:
    weights, bias = model.coef_, model.intercept_
    if len(weights) == 1:  # of two classes: softmax(0, z) is the logistic function of z
        weights, bias = np.vstack([np.zeros(inputs), weights[0]]), np.array([0.0, bias[0]])
    return _layers(((weights, bias),))


def _perceptron(model: Perceptron, inputs: int) -> _Part:
    return _layers(model.layers)


def _support_vectors(model: SupportVectors, inputs: int) -> _Part:
    """Write -z, the negative log-odds of each machine, and 1 / (1 + exp(-z))."""
    constants = [
        _constant("axis", np.array([1])),
        _constant("one", np.array(1.0)),
        _constant("vectors", 2 * model.gamma * model.vectors.T),
        _constant("width", np.array(-model.gamma)),
        _constant("norms", -model.gamma * (model.vectors**2).sum(axis=1)),
        _constant("weights", -model.weights.T),
        _constant("offsets", -model.offsets),
    ]
    steps = [
        ("Cast", ["rows"], "x", {"to": TensorProto.DOUBLE}),
        ("Mul", ["x", "x"], "squares", {}),
        ("ReduceSum", ["squares", "axis"], "square", {"keepdims": 1}),
        ("Mul", ["square", "width"], "own", {}),
        ("MatMul", ["x", "vectors"], "cross", {}),
        ("Add", ["cross", "norms"], "near", {}),
        ("Add", ["near", "own"], "exponent", {}),
        ("Exp", ["exponent"], "kernel", {}),
        ("MatMul", ["kernel", "weights"], "weighted", {}),
        ("Add", ["weighted", "offsets"], "odds", {}),
        ("Exp", ["odds"], "against", {}),
        ("Add", ["against", "one"], "sum", {}),
        ("Div", ["one", "sum"], "positive", {}),
    ]
    if len(model.weights) == 1:
        steps += [("Sub", ["one", "positive"], "negative", {}), ("Concat", ["negative", "positive"], "both", {"axis": 1})]
    else:
        steps += [("ReduceSum", ["positive", "axis"], "total", {"keepdims": 1}), ("Div", ["positive", "total"], "both", {})]
    return _Part([_node(*step) for step in steps], constants, "both")


def _neighbours(model: Any, inputs: int) -> _Part:
    """Write the shares of classes among the k rows with the least |v|^2 - 2 x v, which orders them as the distance does."""
    vectors = np.asarray(model._fit_X, dtype=np.float64)
    constants = [
        _constant("vectors", -2 * vectors.T),
        _constant("norms", (vectors**2).sum(axis=1)),
        _constant("k", np.array([model.n_neighbors])),
        _constant("votes", np.eye(len(model.classes_), dtype=np.float32)[model._y]),
    ]
    nodes = [
        _node("Cast", ["rows"], "x", {"to": TensorProto.DOUBLE}),
        _node("MatMul", ["x", "vectors"], "cross", {}),
        _node("Add", ["cross", "norms"], "distance", {}),
        helper.make_node("TopK", ["distance", "k"], ["nearest", "places"], axis=1, largest=0),
        _node("Gather", ["votes", "places"], "ballots", {}),
        _node("ReduceMean", ["ballots"], "shares", {"axes": [1], "keepdims": 0}),
    ]
    return _Part(nodes, constants, "shares")


def _forest(model: Any, inputs: int) -> _Part:
    kinds = [("rows", ForestInput([None, inputs]))]
    target = {"": OPSET, "ai.onnx.ml": ML_OPSET}
    return _converted(skl2onnx.to_onnx(model, initial_types=kinds, options={"zipmap": False}, target_opset=target))


def _lightgbm(model: Any, inputs: int) -> _Part:
    kinds = [("rows", BoostingInput([None, inputs]))]
    return _converted(onnxmltools.convert_lightgbm(model, initial_types=kinds, target_opset=_BOOSTING_OPSET, zipmap=False))


def _xgboost(model: Any, inputs: int) -> _Part:
    kinds = [("rows", BoostingInput([None, inputs]))]
    return _converted(onnxmltools.convert_xgboost(model, initial_types=kinds, target_opset=_BOOSTING_OPSET))


def _converted(model: onnx.ModelProto) -> _Part:
    """Return a converter's nodes that lead to its second output, the probabilities, under names that clash with none of ours."""
    graph, needed = model.graph, {model.graph.output[1].name}
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):  # sorted topologically, by the standard
        if needed & set(node.output):
            nodes.insert(0, node)
            needed |= set(node.input)
    for node in nodes:
        node.input[:] = [name if name == "rows" else f"converted_{name}" for name in node.input]
        node.output[:] = [f"converted_{name}" for name in node.output]
    constants = [c for c in graph.initializer if c.name in needed]
    for constant in constants:
        constant.name = f"converted_{constant.name}"
    return _Part(nodes, constants, f"converted_{graph.output[1].name}")


def _node(operator: str, inputs: list[str], output: str, attributes: Mapping[str, Any]) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


def _constant(name: str, values: NDArray[Any]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values), name)


_BUILDERS: Mapping[str, Callable[[Any, int], _Part]] = {
    "LR": _logistic,
    "SVM": _support_vectors,
    "KNN": _neighbours,
    "RF": _forest,
    "ExtraTrees": _forest,
    "GB": _forest,
    "XGBoost": _xgboost,
    "LightGBM": _lightgbm,
    "MLP": _perceptron,
}
