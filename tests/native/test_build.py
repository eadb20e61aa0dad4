"""Where the compiled kernels come from, and what is said about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from funnelcast.native import build
from funnelcast.native.build import compiled, native_state, usable


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native_state.cache_clear()
    yield
    native_state.cache_clear()


def test_built_once_and_then_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = native_state()
    assert first.library is not None and "built in" in first.line and capsys.readouterr().err == f"{first.line}\n"
    assert [path.suffix for path in (tmp_path / "funnelcast").iterdir()] == [".so"]
    native_state.cache_clear()
    second = native_state()
    assert second.library is not None and "built in" not in second.line and capsys.readouterr().err == ""


def test_switched_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FUNNELCAST_NATIVE", "off")
    assert native_state().line == "native kernels: off (FUNNELCAST_NATIVE=off)"
    assert not usable(torch.zeros(1)) and not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="should be called where there is a library; native kernels: off"):
        compiled()


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert native_state().library is None
    assert capsys.readouterr().err.startswith("native kernels: no C++ compiler, PyTorch alone is used; install g++")


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_a_compiler_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, compiler: str
) -> None:
    monkeypatch.setenv("CXX", compiler)
    assert native_state().library is None
    assert capsys.readouterr().err.startswith(f"native kernels: {compiler} failed, PyTorch alone is used; ")
    assert not list((tmp_path / "funnelcast").iterdir())


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = native_state()
    assert found.library is not None and "funnelcast-" in found.line


def test_only_float32_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "library", lambda: object())
    assert usable(torch.zeros(1)) and not usable(torch.zeros(1).double()) and not usable(torch.zeros(1).bfloat16())
    assert not usable(torch.zeros(1, device="meta"))
