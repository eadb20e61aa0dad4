"""Requests of a known shape -> columns whose values have their types, in less time than others take.

Requests of one client hold the same columns again and again. Once a few of them had one shape, a decoder for just this
shape checks names and types while it reads. It takes what it is sure of, and leaves the rest to `parse_body`: what is
wrong, and what is right in another way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from threading import Lock
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import astuple

from funnelcast.serving.http.columns import RawColumn
from funnelcast.serving.http.decode import Request, count_colons
from funnelcast.serving.http.refusal import RefusalError
from funnelcast.serving.http.rows import Laid

__all__ = ["Shaped", "Shapes", "shapes_of"]

_REPEATS = 3  # requests of one shape after which it gets a decoder; twice as many after each time it was of no use
_KEPT = 2  # decoders, each of which may have to read a request before it is known to be of no shape
_COUNTED = 64  # shapes whose requests are counted
_CREDIT, _MOST_CREDIT = 8, 32  # of a decoder: 2 are won by a request that it reads, 1 is lost by another
_WHOLE = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None
_TYPES: dict[str, Any] = {"whole": _WHOLE, "text": str | None}  # in which JSON has no other way to write a value
_Key = tuple[tuple[str, ...], tuple[str, ...]]  # names in the context, and in each candidate


@dataclass(frozen=True)
class Shaped:
    """A request of a known shape.

    Args:
        user: whom the candidates are for, or None.
        laid: its columns.
        shapes: by whose columns it was read.
    """

    user: str | int | None
    laid: Laid
    shapes: Shapes


class _Shape:
    def __init__(self, key: _Key, columns: Mapping[str, RawColumn], laid: Laid) -> None:
        self.key, self.missing, self.credit = key, laid.missing, _CREDIT
        values = {**{name: [value] for name, value in laid.context.items()}, **laid.given}
        types = {name: _type(columns[name], values[name]) for name in (*key[0], *key[1])}
        self._sound = frozenset(name for name, kind in types.items() if kind is not Any)
        context, candidate = (_struct({name: types[name] for name in names}) for names in key)
        shared: tuple[Any, ...] = ("context", context) if key[0] else ("context", context | UnsetType, UNSET)
        body = msgspec.defstruct(
            "Body",
            [("candidates", list[candidate]), shared, ("user", str | int | UnsetType | None, UNSET)],  # type: ignore[valid-type]
            forbid_unknown_fields=True,
            kw_only=True,
        )
        self._decoder, self._parts = msgspec.json.Decoder(body), attrgetter("user", "context", "candidates")

    def read(self, body: bytes, largest: int) -> tuple[str | int | None, Laid] | None:
        """Read a request; None if it is not surely one of this shape."""
        try:
            user, context, candidates = self._parts(self._decoder.decode(body))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None  # whatever is wrong, the general way finds it and says so
        rows, (shared, own) = len(candidates), self.key
        # All fields but the user and an empty context have to be there. So as many colons as names say that none was
        # there twice, and that no text has one.
        keys = 1 + (user is not UNSET) + (context is not UNSET) + len(shared) + rows * len(own)
        if not 1 <= rows <= largest or count_colons(body) != keys:
            return None
        values = dict(zip(shared, astuple(context), strict=True)) if shared else {}
        given = dict(zip(own, zip(*map(astuple, candidates), strict=True), strict=True))
        return None if user is UNSET else user, Laid(rows, values, given, self.missing, (), self._sound)


class Shapes:
    """Decoders for the shapes of the requests that come again and again.

    Args:
        columns: of a bundle.
    """

    def __init__(self, columns: Iterable[RawColumn]) -> None:
        self._columns = {column.name: column for column in columns}
        self._known: tuple[_Shape, ...] = ()
        self._counts: dict[_Key, int] = {}  # requests until a shape gets a decoder
        self._dropped: dict[_Key, int] = {}  # times that its decoder was of no use
        self._lock = Lock()  # long bodies are read in threads

    def parse(self, body: bytes, *, largest: int, strict: bool) -> Shaped | None:
        """Read a request of a known shape.

        Args:
            body: JSON.
            largest: number of rows, >= 1.
            strict: whether missing columns are refused.

        Returns:
            The request; None if it has to be read in the general way.
        """
        for shape in self._known:
            found = None if strict and shape.missing else shape.read(body, largest)
            if found is not None:
                shape.credit = min(shape.credit + 2, _MOST_CREDIT)
                return Shaped(*found, self)
            shape.credit -= 1
            if shape.credit <= 0:
                self._drop(shape)
        return None

    def learn(self, request: Request, laid: Laid) -> None:
        """Look at a sound request that was read in the general way.

        Args:
            request: as it was read.
            laid: its columns.
        """
        if not request.candidates or laid.unknown or not request.candidates[0]:
            return
        key = (tuple(request.context), tuple(request.candidates[0]))
        with self._lock:
            if key not in self._counts:
                if len(self._counts) >= _COUNTED:
                    self._counts.clear()
                self._counts[key] = _REPEATS << min(self._dropped.get(key, 0), 10)
            self._counts[key] -= 1
            if self._counts[key] > 0:
                return
            del self._counts[key]
            names = set(key[1])
            known = [shape.key for shape in self._known]
            if key in known or len(known) >= _KEPT or not all(map(_can_be_field, (*key[0], *key[1]))):
                return
            if all(candidate.keys() == names for candidate in request.candidates):
                with suppress(RefusalError):  # a value does not fit
                    self._known = (*self._known, _Shape(key, self._columns, laid))

    def _drop(self, shape: _Shape) -> None:
        with self._lock:
            self._known = tuple(one for one in self._known if one is not shape)
            if len(self._dropped) >= _COUNTED:
                self._dropped.clear()
            self._dropped[shape.key] = self._dropped.get(shape.key, 0) + 1


@lru_cache(maxsize=16)
def shapes_of(columns: tuple[RawColumn, ...]) -> Shapes:
    """Return the decoders of all bundles that have these columns.

    Args:
        columns: of a bundle.
    """
    return Shapes(columns)


def _type(column: RawColumn, values: Sequence[Any]) -> Any:
    """Type of a column's cells as a client writes them; what can be said in several ways is looked at later."""
    as_is = not column.several and column.kind in _TYPES and column.cells(values) is values
    return _TYPES[column.kind] if as_is else Any


def _struct(types: Mapping[str, Any]) -> Any:
    names = {f"c{number}": name for number, name in enumerate(types)}
    fields = [(field, types[name]) for field, name in names.items()]
    define: Callable[..., Any] = msgspec.defstruct
    # gc=False: values of JSON hold no cycles
    return define("Cells", fields, rename=names, forbid_unknown_fields=True, gc=False)


def _can_be_field(name: str) -> bool:
    return name.isprintable() and name != "" and '"' not in name and "\\" not in name
