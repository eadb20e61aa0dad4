"""The tests here need the compiled kernels."""

from __future__ import annotations

import os
import shutil

import pytest

from funnelcast.native import library, native_state
from funnelcast.native.build import COMPILERS, switched_off


@pytest.fixture(autouse=True)
def _needs_the_kernels() -> None:
    if library() is not None:
        return
    if switched_off() or not ("CXX" in os.environ or any(map(shutil.which, COMPILERS))):
        pytest.skip(native_state().line)
    pytest.fail(native_state().line)  # there is a compiler, and it should take the sources
