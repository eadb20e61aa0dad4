"""Modules that need Triton are not looked through for doctests where it is not installed."""

import importlib.util
from pathlib import Path

_NATIVE = Path(__file__).parent / "src" / "funnelcast" / "native"
_OF_TRITON = [str(path) for suffix in ("kernels", "gpu") for path in _NATIVE.glob(f"*_{suffix}.py")]
collect_ignore = _OF_TRITON if importlib.util.find_spec("triton") is None else []
