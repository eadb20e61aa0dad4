"""A look into an ONNX file before anything runs it: its operators, and its weights.

Written out here since serving has ONNX Runtime, which tells neither, and not the package `onnx`. A file of Protocol
Buffers is a list of numbered fields; a message is a field that holds such a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from funnelcast.errors import ArtifactError

__all__ = ["check_onnx_file"]

# Numbers of fields in onnx.proto, by message: all that hold a tensor, a graph or a number.
_GRAPH, _TRAINING, _FUNCTIONS = 7, 20, 25  # of a model
_NODE, _INITIALIZER, _SPARSE_INITIALIZER = 1, 5, 15  # of a graph
_TYPE, _ATTRIBUTE, _DOMAIN = 4, 5, 7  # of a node
_ATTRIBUTE_NAME, _NUMBER, _TENSOR, _GRAPH_WITHIN, _NUMBERS = 1, 2, 5, 6, 7  # of an attribute
_TENSORS, _GRAPHS, _SPARSE = (_TENSOR, 10), (_GRAPH_WITHIN, 11), (22, 23)  # of an attribute: one, and a list
_DATA_TYPE, _FLOATS, _WHOLE_NUMBERS, _NAME, _RAW, _DOUBLES, _EXTERNAL, _LOCATION = 2, 4, 5, 8, 9, 10, 13, 14  # tensor
_FLOATING: dict[int, type[np.floating[Any]]] = {1: np.float32, 10: np.float16, 11: np.float64}  # data types
_DATA_TYPES = {*range(1, 10), *_FLOATING, 12, 13}  # and whole numbers, text and booleans
_DOMAINS = {b"", b"ai.onnx"}
_DEEPEST = 8
_LARGEST_FIELD = (1 << 29) - 1


def check_onnx_file(path: Path, data: bytes) -> None:
    """Refuse a model that reads other files, has operators of others than ONNX, or weights that are no numbers.

    What our exports never have, and what could hide such a thing, is refused as well: functions, graphs of training,
    sparse weights, weights of rare number types, and messages in several parts.

    Args:
        path: for messages.
        data: content of the file.

    Raises:
        ArtifactError: it is such a model, or no ONNX file.
    """
    try:
        model = _fields(memoryview(data))
        graphs = _messages(model, _GRAPH)
        if len(graphs) != 1 or any(number == _FUNCTIONS for number, _ in model):
            raise ArtifactError(f"{path}: should have one graph and no functions, received {len(graphs)} graph(s)")
        if _messages(model, _TRAINING):
            raise ArtifactError(f"{path}: should have no graphs of training, received one")
        _check_graph(path, graphs[0])
    except (IndexError, ValueError) as error:
        raise ArtifactError(f"{path}: should be an ONNX file, received damaged content: {error}") from error


def _fields(message: memoryview) -> list[tuple[int, memoryview | int]]:
    """Read a message as (number of the field, its bytes or its whole number)."""
    return [*_walk(message)]


def _walk(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    at = 0
    while at < len(message):
        key, at = _whole(message, at)
        kind = key & 7
        if key >> 3 > _LARGEST_FIELD:  # other readers drop the bits above, and so see another field
            raise ValueError(f"a field of the number {key >> 3}")
        if kind == 0:
            value, at = _whole(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _whole(message, at)
        elif kind in (1, 5):
            size = {1: 8, 5: 4}[kind]
        else:
            raise ValueError(f"a field of kind {kind}")
        if at + size > len(message):
            raise ValueError("a field goes beyond its end")
        yield key >> 3, message[at : at + size]
        at += size


def _whole(message: memoryview, at: int) -> tuple[int, int]:
    """Read a whole number of seven bits a byte, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a whole number of more than ten bytes")


def _messages(fields: list[tuple[int, memoryview | int]], *numbers: int) -> list[memoryview]:
    return [value for number, value in fields if number in numbers and isinstance(value, memoryview)]


def _check_graph(path: Path, graph: memoryview, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise ArtifactError(f"{path}: should have graphs within graphs at most {_DEEPEST} deep, received more")
    parts = _fields(graph)
    if _messages(parts, _SPARSE_INITIALIZER):
        raise ArtifactError(f"{path}: should have dense weights, received a sparse one")
    for tensor in _messages(parts, _INITIALIZER):
        _check_tensor(path, tensor)
    for node in _messages(parts, _NODE):
        fields = _fields(node)
        kind = _text(fields, _TYPE)
        domain = b"".join(map(bytes, _messages(fields, _DOMAIN)))
        if domain not in _DOMAINS:
            name = domain.decode(errors="replace")
            raise ArtifactError(f"{path}: should have operators of ONNX alone, received '{kind}' of '{name}'")
        for attribute in _messages(fields, _ATTRIBUTE):
            _check_attribute(path, kind, _fields(attribute), depth)


def _text(fields: list[tuple[int, memoryview | int]], number: int) -> str:
    return b"".join(map(bytes, _messages(fields, number))).decode(errors="replace")


def _check_attribute(path: Path, kind: str, fields: list[tuple[int, memoryview | int]], depth: int) -> None:
    """Check an attribute of an operator of a kind."""
    name = f"'{_text(fields, _ATTRIBUTE_NAME)}' of '{kind}'"
    if _messages(fields, *_SPARSE):
        raise ArtifactError(f"{path}: should have dense weights, received a sparse one in {name}")
    # Parts of one message are put together by who reads it: each may be harmless by itself.
    if any(len(_messages(fields, single)) > 1 for single in (_TENSOR, _GRAPH_WITHIN)):
        raise ArtifactError(f"{path}: {name} should be one tensor or graph, received several parts of it")
    for tensor in _messages(fields, *_TENSORS):
        _check_tensor(path, tensor)
    for part in _messages(fields, _NUMBER, _NUMBERS):
        if _has_nan(part, np.float32):
            raise ArtifactError(f"{path}: {name} should be a number everywhere, received NaN")
    for graph in _messages(fields, *_GRAPHS):
        _check_graph(path, graph, depth + 1)


def _check_tensor(path: Path, tensor: memoryview) -> None:
    fields = _fields(tensor)
    name = _text(fields, _NAME)
    if any(number == _EXTERNAL or (number == _LOCATION and value != 0) for number, value in fields):
        raise ArtifactError(f"{path}: weight '{name}' should stand in the file, received a reference to another file")
    data_types = [value for number, value in fields if number == _DATA_TYPE and isinstance(value, int)]
    if len(data_types) != 1 or data_types[0] not in _DATA_TYPES:
        raise ArtifactError(
            f"{path}: weight '{name}' should have one data type: a float of 16, 32 or 64 bits, whole numbers, booleans "
            f"or text; received the data types {data_types}"
        )
    floating = _FLOATING.get(data_types[0])
    if floating is np.float16 and any(number == _WHOLE_NUMBERS for number, _ in fields):
        raise ArtifactError(f"{path}: weight '{name}' should have floats of 16 bits as bytes, received whole numbers")
    pieces = [(part, floating) for part in _messages(fields, _RAW) if floating is not None]
    pieces += [(part, np.float32) for part in _messages(fields, _FLOATS)]
    pieces += [(part, np.float64) for part in _messages(fields, _DOUBLES)]
    if any(_has_nan(part, number_type) for part, number_type in pieces):
        raise ArtifactError(f"{path}: weight '{name}' should be a number everywhere, received NaN")


def _has_nan(part: memoryview, number_type: type[np.floating[Any]]) -> bool:
    """Look for NaN, which is nothing but damage; infinities are bounds of clips and masks of attention."""
    return bool(np.isnan(np.frombuffer(part, number_type)).any())
