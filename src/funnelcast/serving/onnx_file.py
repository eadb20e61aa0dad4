"""A look into an ONNX file before anything runs it: its operators, and its weights.

Written out here since serving has ONNX Runtime, which tells neither, and not the package `onnx`. A file of Protocol
Buffers is a list of numbered fields; a message is a field that holds such a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from funnelcast.errors import ArtifactError

__all__ = ["check_onnx_file"]

# Numbers of fields in onnx.proto, by message.
_GRAPH, _FUNCTIONS = 7, 25  # of a model
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15  # of a graph
_TYPE, _ATTRIBUTE, _DOMAIN = 4, 5, 7  # of a node
_TENSORS, _GRAPHS = (5, 10), (6, 11)  # of an attribute
_DATA_TYPE, _FLOATS, _NAME, _RAW, _DOUBLES, _EXTERNAL, _LOCATION = 2, 4, 8, 9, 10, 13, 14  # of a tensor
_FLOATING = {1: np.float32, 10: np.float16, 11: np.float64}  # data types
_DOMAINS = {b"", b"ai.onnx"}
_DEEPEST = 8


def check_onnx_file(path: Path, data: bytes) -> None:
    """Refuse a model that reads other files, has operators of others than ONNX, or weights that are no numbers.

    Args:
        path: for messages.
        data: content of the file.

    Raises:
        ArtifactError: it is such a model, or no ONNX file.
    """
    try:
        model = _fields(memoryview(data))
        graphs = [bytes_of for number, bytes_of in model if number == _GRAPH and isinstance(bytes_of, memoryview)]
        if len(graphs) != 1 or any(number == _FUNCTIONS for number, _ in model):
            raise ArtifactError(f"{path}: should have one graph and no functions, received {len(graphs)} graph(s)")
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
    if _messages(parts, _SPARSE):
        raise ArtifactError(f"{path}: should have dense weights, received a sparse one")
    for tensor in _messages(parts, _INITIALIZER):
        _check_tensor(path, tensor)
    for node in _messages(parts, _NODE):
        fields = _fields(node)
        kind = b"".join(map(bytes, _messages(fields, _TYPE))).decode(errors="replace")
        domain = b"".join(map(bytes, _messages(fields, _DOMAIN)))
        if domain not in _DOMAINS:
            name = domain.decode(errors="replace")
            raise ArtifactError(f"{path}: should have operators of ONNX alone, received '{kind}' of '{name}'")
        for attribute in _messages(fields, _ATTRIBUTE):
            inner = _fields(attribute)
            for tensor in _messages(inner, *_TENSORS):
                _check_tensor(path, tensor)
            for part in _messages(inner, *_GRAPHS):
                _check_graph(path, part, depth + 1)


def _check_tensor(path: Path, tensor: memoryview) -> None:
    fields = _fields(tensor)
    name = b"".join(map(bytes, _messages(fields, _NAME))).decode(errors="replace")
    if any(number == _EXTERNAL or (number == _LOCATION and value != 0) for number, value in fields):
        raise ArtifactError(f"{path}: weight '{name}' should stand in the file, received a reference to another file")
    data_type = next((value for number, value in fields if number == _DATA_TYPE), 0)
    raw = _messages(fields, _RAW)
    pieces = [(part, _FLOATING.get(int(data_type))) for part in raw] if isinstance(data_type, int) else []
    pieces += [(part, np.float32) for part in _messages(fields, _FLOATS)]
    pieces += [(part, np.float64) for part in _messages(fields, _DOUBLES)]
    for part, number_type in pieces:
        # Infinities are bounds of clips and masks of attention; NaN is nothing but damage.
        if number_type is not None and bool(np.isnan(np.frombuffer(part, number_type)).any()):
            raise ArtifactError(f"{path}: weight '{name}' should be a number everywhere, received NaN")
