"""PyArrow, loaded at its first use: a service that scores lists of values can do without it."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import TYPE_CHECKING, Any

from funnelcast.errors import ConfigError

__all__ = ["arrow_errors", "has_arrow", "pa", "pc", "pq"]


@cache
def has_arrow() -> bool:
    """Say whether PyArrow is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def arrow_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what `except` should name: PyArrow's errors, where it is installed, and others.

    Args:
        others: classes.
    """
    return (*others, pa.ArrowException) if has_arrow() else others


class _Later:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if not has_arrow():
            raise ConfigError("this needs PyArrow, which is not installed; install it by: pip install pyarrow")
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)  # the next look-up does not come here
        return value


if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
else:
    pa, pc, pq = _Later("pyarrow"), _Later("pyarrow.compute"), _Later("pyarrow.parquet")
