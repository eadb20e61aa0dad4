"""Whether the kernels in Triton are used on a GPU, and what they share; Triton itself is imported on first use."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from funnelcast.native.build import SWITCH, switched_off, usable

__all__ = ["Gpu", "attention_usable", "dot_precision", "gpu_checked", "gpu_state", "padded"]

# Programs of a launch at most: about as many as run at once on the largest GPUs. A fixed number keeps sums over rows in
# one order on all of them.
PROGRAMS = 512
# Scores [points, tokens] of a block that a program holds in registers; and the largest sizes, with which the kernels
# need no more than the 99 KB of shared memory that every GPU has on which they run.
SCORES, LARGEST_TOKENS, LARGEST_WIDTH = 4096, 128, 32
# The oldest GPU whose tensor cores multiply bfloat16 and TF32.
_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Gpu:
    """What became of the kernels for GPUs.

    Args:
        ready: whether they can be used.
        line: one sentence for people: what is used, or why nothing is.
    """

    ready: bool
    line: str


@functools.cache
def gpu_state() -> Gpu:
    """Return whether the kernels for GPUs are used, together with a line that says why."""
    if switched_off():
        return Gpu(False, f"off ({SWITCH})")
    if not torch.cuda.is_available():
        return Gpu(False, "no CUDA device")
    if torch.version.hip is not None:
        return Gpu(False, "the kernels are for CUDA, received ROCm; PyTorch alone is used")
    capability = torch.cuda.get_device_capability()
    if capability < _CAPABILITY:
        found, wanted = (".".join(map(str, version)) for version in (capability, _CAPABILITY))
        return Gpu(False, f"compute capability {found} is below {wanted}, PyTorch alone is used")
    try:
        import triton
    except ImportError as error:
        return Gpu(False, f"no Triton ({error}), PyTorch alone is used; install triton and APEM trains faster")
    return Gpu(True, f"Triton {triton.__version__}")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def attention_usable(x: Tensor, queries: int = 1) -> bool:
    """Say whether `asrg` and `read_patterns` take these tokens: float32, where there are kernels for them.

    Args:
        x: [B, n, D] tokens.
        queries: of `read_patterns`, which a GPU holds in one block.
    """
    if x.device.type != "cuda":
        return bool(usable(x))
    _, n, D = x.shape
    fits = n <= LARGEST_TOKENS and D <= LARGEST_WIDTH and padded(n) * padded(queries) <= SCORES
    return fits and x.dtype is torch.float32 and gpu_state().ready


def padded(size: int) -> int:
    """Round up to a power of two that products of tiles take, 16 or more.

    Args:
        size: >= 1.

    Example:
        >>> padded(9), padded(18)
        (16, 32)
    """
    return max(16, 1 << (size - 1).bit_length())


def dot_precision() -> str:
    """Return how float32 products are taken, as torch's own on a GPU: `ieee`, or `tf32` where that is allowed."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def gpu_checked(types: Mapping[str, torch.dtype], **tensors: Tensor | None) -> dict[str, Any]:
    """Return tensors as the kernels read them, contiguous.

    Args:
        types: what each should be, float32 where it is not named.
        **tensors: by the name of the operator's argument.

    Raises:
        ValueError: a tensor is of another type, or on another device than the first.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    device = next(iter(given.values())).device
    for name, tensor in given.items():
        wanted = types.get(name, torch.float32)
        if tensor.dtype is not wanted or tensor.device != device:
            raise ValueError(f"{name} should be {wanted} on {device}, received {tensor.dtype} on {tensor.device}")
    return {name: None if tensor is None else tensor.contiguous() for name, tensor in tensors.items()}
