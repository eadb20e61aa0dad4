"""Compiled kernels: optional, built on first use from the sources in this folder, in C++ and, for GPUs, in Triton."""

from funnelcast.native.asrg import KernelResidual, LayerWeights, asrg
from funnelcast.native.build import library, native_state, usable, without_operators
from funnelcast.native.gpu import attention_usable, gpu_state
from funnelcast.native.pattern import read_patterns
from funnelcast.native.rows import catch_up_rows, lazy_adam_rows, sum_by_row

__all__ = [
    "KernelResidual",
    "LayerWeights",
    "asrg",
    "attention_usable",
    "catch_up_rows",
    "gpu_state",
    "lazy_adam_rows",
    "library",
    "native_state",
    "read_patterns",
    "sum_by_row",
    "usable",
    "without_operators",
]
