"""Builds the kernels with the machine's C++ compiler into a cache; without a compiler there are none."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

__all__ = [
    "Native",
    "address",
    "check_shapes",
    "checked",
    "compiled",
    "library",
    "native_state",
    "switched_off",
    "usable",
    "without_operators",
]

# Every operator registers itself here.
OPERATORS = torch.library.Library("funnelcast", "DEF")

_HERE = Path(__file__).parent
_SOURCES = tuple(_HERE / name for name in ("asrg.cpp", "pattern.cpp", "rows.cpp"))
_COMMON = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-ffp-contract=fast", "-fno-math-errno")
# torch's name of the machine's instructions -> ours and the compiler's; other machines get the compiler's default.
_INSTRUCTIONS = {
    "AVX512": (
        "avx512",
        ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"),
    ),
    "AVX2": ("avx2", ("-mavx2", "-mfma")),
}
SWITCH, COMPILERS = "FUNNELCAST_NATIVE", ("g++", "clang++", "c++")
_unwanted: ContextVar[bool] = ContextVar("_unwanted", default=False)


@dataclass(frozen=True)
class Native:
    """What became of the kernels.

    Args:
        library: the loaded kernels, or None.
        line: one sentence for people: what is used, or why nothing is.
    """

    library: ctypes.CDLL | None
    line: str


def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, built on first use and then cached on disk; None where there are none.

    What was built, or why it was not, stands in one line on stderr. `FUNNELCAST_NATIVE=off` does without, `CXX` names
    the compiler, `XDG_CACHE_HOME` moves the cache.
    """
    return native_state().library


def compiled() -> ctypes.CDLL:
    """Return the compiled kernels for an operator that is only reached where they are.

    Raises:
        RuntimeError: there are none.
    """
    native = library()
    if native is None:
        raise RuntimeError(f"compiled operators should be called where there is a library; {native_state().line}")
    return native


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Return where a contiguous tensor's numbers begin; null for None and for a tensor without numbers."""
    return ctypes.c_void_p(tensor.data_ptr() if tensor is not None and tensor.numel() else None)


def checked(**tensors: Tensor | None) -> list[Tensor | None]:
    """Return tensors as the kernels read them, contiguous.

    Args:
        **tensors: by the name of the operator's argument.

    Raises:
        ValueError: a tensor is not float32 on the CPU; a kernel would read beyond its end.
    """
    for name, tensor in tensors.items():
        if tensor is not None and (tensor.dtype is not torch.float32 or tensor.device.type != "cpu"):
            raise ValueError(f"{name} should be float32 on the CPU, received {tensor.dtype} on {tensor.device}")
    return [None if tensor is None else tensor.contiguous() for tensor in tensors.values()]


def check_shapes(**pairs: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """Refuse tensors of another shape than a kernel would read.

    Args:
        **pairs: tensor and shape by the name of the operator's argument; None is passed over.

    Raises:
        ValueError: a shape differs.
    """
    for name, (tensor, shape) in pairs.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} should be {list(shape)}, received {list(tensor.shape)}")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def usable(x: Tensor) -> bool:
    """Say whether compiled operators take this tensor: float32 on the CPU, a library, and nobody against it.

    Args:
        x: of any shape.
    """
    return x.device.type == "cpu" and x.dtype is torch.float32 and not _unwanted.get() and library() is not None


@contextmanager
def without_operators() -> Iterator[None]:
    """Trace models on a CPU by PyTorch's operators alone: what is exported must also run where there are none of ours.

    Example:
        >>> with without_operators():
        ...     usable(torch.zeros(1))
        False
    """
    token = _unwanted.set(True)
    try:
        yield
    finally:
        _unwanted.reset(token)


def switched_off() -> bool:
    """Say whether the user wants no kernels at all."""
    return os.environ.get(SWITCH, "").lower() in ("off", "0", "no", "false")


@functools.cache
def native_state() -> Native:
    """Return the kernels together with a line that says where they come from."""
    if switched_off():
        return Native(None, f"native kernels: off ({SWITCH}={os.environ[SWITCH]})")
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        wanted = "install g++ or clang++ and APEM trains two to three times faster"
        return _say(Native(None, f"native kernels: no C++ compiler, PyTorch alone is used; {wanted}"))
    instructions, flags = _INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ("plain", ()))
    name = _file_name(compiler, instructions, flags)
    path = _cache() / name
    if path.exists():
        return Native(ctypes.CDLL(str(path)), f"native kernels: {instructions}, {path}")
    started = time.perf_counter()
    try:
        path = _compile(compiler, flags, path)
    except (OSError, subprocess.CalledProcessError) as error:
        found = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return _say(Native(None, f"native kernels: {compiler} failed, PyTorch alone is used; {found[0][:300]}"))
    seconds = time.perf_counter() - started
    return _say(Native(ctypes.CDLL(str(path)), f"native kernels: {instructions}, built in {seconds:.1f} s, {path}"))


def _say(native: Native) -> Native:
    """Write the line to stderr."""
    sys.stderr.write(f"{native.line}\n")
    return native


def _cache() -> Path:
    """Return the folder for built kernels."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "funnelcast"


def _file_name(compiler: str, instructions: str, flags: tuple[str, ...]) -> str:
    """Name a library after everything that goes into it."""
    parts = [
        compiler,
        *_COMMON,
        *flags,
        *(path.read_text(encoding="utf-8") for path in (*_SOURCES, *sorted(_HERE.glob("*.h")))),
    ]
    return f"{instructions}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"


def _compile(compiler: str, flags: tuple[str, ...], path: Path) -> Path:
    """Compile into the cache, or into a temporary folder where that cannot be written; never leaves half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=path.parent)
    except OSError:  # a read-only home: the kernels live as long as the system keeps its temporary files
        folder = tempfile.mkdtemp(prefix="funnelcast-")
        path = Path(folder) / path.name
    built = Path(folder) / f"new-{path.name}"
    command = [compiler, *_COMMON, *flags, *map(str, _SOURCES), "-o", str(built)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  the user's own compiler
        built.replace(path)
    finally:
        if path.parent != Path(folder):
            shutil.rmtree(folder)
    return path
