"""What an ONNX file asks for, read from its bytes: no library that executes or loads anything is involved.

The protobuf wire format is walked along the few fields that matter (onnx.proto: ModelProto, GraphProto, NodeProto, AttributeProto,
TensorProto); everything else is skipped by its length.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.errors import BundleError

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_CHILDREN = {  # message -> field number -> message inside
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_NODE_OPERATOR, _NODE_DOMAIN, _OPSET_DOMAIN = 4, 7, 1
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_DEPTH = 32  # nested graphs; a loop in a branch in a loop is 3


class _Malformed(ValueError):
    """Not the protobuf wire format."""


def foreign_parts(path: Path) -> list[str]:
    """Return in words what the graph needs beyond itself and the standard operators; empty for a self-contained one.

    Raises
    ------
    BundleError
        The file cannot be read as an ONNX model.
    """
    found: dict[str, None] = {}
    try:
        for kind, fields in _messages(memoryview(path.read_bytes()), "model"):
            found.update(dict.fromkeys(_foreign(kind, fields)))
    except (OSError, _Malformed, UnicodeDecodeError) as error:
        raise BundleError(f"{path.name} is no ONNX model") from error
    return list(found)


def _foreign(kind: str, fields: dict[int, memoryview | int]) -> Iterator[str]:
    if kind == "tensor" and (_TENSOR_EXTERNAL_DATA in fields or fields.get(_TENSOR_DATA_LOCATION, 0)):
        yield "data in another file"
    if kind == "training":
        yield "training instructions"
    if kind == "opset" and (domain := _text(fields.get(_OPSET_DOMAIN, b""))) not in STANDARD_DOMAINS:
        yield f"the operator set {domain!r}"
    if kind == "node" and (domain := _text(fields.get(_NODE_DOMAIN, b""))) not in STANDARD_DOMAINS:
        yield f"the operator {domain}.{_text(fields.get(_NODE_OPERATOR, b''))}"


def _text(value: memoryview | bytes | int) -> str:
    if isinstance(value, int):
        raise _Malformed
    return bytes(value).decode()


def _messages(data: memoryview, kind: str, depth: int = 0) -> Iterator[tuple[str, dict[int, memoryview | int]]]:
    """Yield this message and those inside it, each with the last value of every field."""
    if depth > _DEPTH:
        raise _Malformed
    fields: dict[int, memoryview | int] = {}
    for number, value in _fields(data):
        fields[number] = value
        child = _CHILDREN.get(kind, {}).get(number)
        if child:
            if isinstance(value, int):
                raise _Malformed
            yield from _messages(value, child, depth + 1)
    yield kind, fields


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield field number and value (an integer, or the bytes) of a message in the protobuf wire format."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _Malformed
        if at + size > end:
            raise _Malformed
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _Malformed
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Malformed
