"""Compiled kernels: optional, built from the sources in this folder on first use."""

from funnelcast.native.asrg import KernelResidual, asrg
from funnelcast.native.build import library, native_state, usable
from funnelcast.native.pattern import read_patterns
from funnelcast.native.rows import catch_up_rows, lazy_adam_rows, sum_by_row

__all__ = [
    "KernelResidual",
    "asrg",
    "catch_up_rows",
    "lazy_adam_rows",
    "library",
    "native_state",
    "read_patterns",
    "sum_by_row",
    "usable",
]
