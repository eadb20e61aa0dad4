"""Compiled kernels: optional, built from the sources in this folder on first use."""

from funnelcast.native.asrg import KernelResidual, asrg, asrg_usable
from funnelcast.native.build import library, native_state

__all__ = ["KernelResidual", "asrg", "asrg_usable", "library", "native_state"]
