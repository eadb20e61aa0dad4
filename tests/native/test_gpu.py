"""The kernels for GPUs, in Triton's interpreter on the CPU and through its compiler; nothing here needs a GPU."""

from __future__ import annotations

import importlib.util
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import gpu as benchmark
from benchmarks import workload
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from funnelcast.native import LayerWeights, asrg, attention_usable, gpu, gpu_state, native_state, read_patterns
from funnelcast.native.gpu import padded

from . import gpu_checks as checks
from .layers import layer_inputs

ROOT = Path(__file__).parents[2]
Call = Callable[..., Any]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed here")


def elsewhere(environment: dict[str, str]) -> Iterator[Call]:
    """Calls functions in one other process, since Triton reads its environment once."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            yield lambda function, *arguments, **named: pool.submit(function, *arguments, **named).result()


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Call]:
    yield from elsewhere({"TRITON_INTERPRET": "1"})


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    yield from elsewhere({"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))})


@needs_triton
@pytest.mark.parametrize("residual", checks.RESIDUALS)
@pytest.mark.parametrize("gated", [True, False])
def test_the_papers_sizes(interpreted: Call, residual: str, gated: bool) -> None:
    interpreted(checks.compare_layers, 3, 64 if residual == "tokens" else 23, 18, 64, 2, residual, gated)


@needs_triton
@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(0, 3), n=st.integers(1, 40), size=st.integers(1, 12), points=st.integers(1, 40),
    heads=st.integers(1, 3), residual=st.sampled_from(checks.RESIDUALS), gated=st.booleans(),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_any_size(
    interpreted: Call, rows: int, n: int, size: int, points: int, heads: int, residual: str, gated: bool, seed: int
) -> None:
    width = min(size * heads, 32 // heads * heads)
    if width > 2:  # the normalisation of one or two numbers has a gradient of nearly 0 / 0
        n = points if residual == "tokens" else n
        interpreted(checks.compare_layers, rows, n, width, points, heads, residual, gated, seed)


@needs_triton
@pytest.mark.parametrize(("n", "points", "residual"), [(128, 70, "gated"), (70, 70, "tokens")])
def test_more_points_than_one_block_holds(interpreted: Call, n: int, points: int, residual: str) -> None:
    assert points > gpu.SCORES // padded(n)
    interpreted(checks.compare_layers, 2, n, 12, points, 3, residual, True)


@needs_triton
def test_a_program_takes_several_rows(interpreted: Call) -> None:
    interpreted(checks.compare_with_few_programs, 9, 6, 20, 2, "gated", True)
    interpreted(checks.compare_with_few_programs, 70, 6, 70, 1, "tokens", True)


@needs_triton
def test_products_in_bfloat16(interpreted: Call) -> None:
    interpreted(checks.compare_in_bfloat16, 3, 23, 18, 64, 2, "shared", True)


@needs_triton
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3), st.integers(1, 40), st.integers(1, 32), st.integers(1, 17), st.integers(0, 2**16))
def test_patterns(interpreted: Call, rows: int, points: int, width: int, queries: int, seed: int) -> None:
    interpreted(checks.compare_patterns, rows, points, width, queries, seed)


@needs_triton
@pytest.mark.parametrize(
    ("changed", "heads", "message"),
    [
        ({0: torch.zeros(2, 5, 6).double()}, 2, "x should be torch.float32 on cpu, received torch.float64 on cpu"),
        ({7: torch.zeros(6, device="meta")}, 2, "shift should be torch.float32 on cpu, received torch.float32 on meta"),
        ({3: torch.zeros(6, 6).half()}, 2, "key should be torch.float32 or torch.bfloat16, received torch.float16"),
        ({4: torch.zeros(6, 6).half()}, 2, "value should be torch.float32 on cpu, received torch.float16 on cpu"),
        ({1: torch.zeros(2, 3)}, 2, "gate should be [2, 4], received [2, 3]"),
        ({0: torch.zeros(2, 129, 6)}, 2, "x should be at most [B, 128, 32] on a GPU, received [2, 129, 6]"),
        (
            {8: torch.zeros(6, 3)},
            2,
            "readers should be None on a GPU, where funnelcast::read_patterns is their operator",
        ),
        ({}, 4, "heads should be a divisor of 6, received 4"),
    ],
)
def test_what_does_not_fit_is_refused(interpreted: Call, changed: dict[int, Any], heads: int, message: str) -> None:
    assert interpreted(checks.refusal, changed, heads) == message


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "number", "precision"),
    [
        ((23, 18, 64, 2, 2), "fp32", "ieee"),
        ((64, 18, 64, 2, 1), "fp32", "tf32"),
        ((64, 18, 64, 2, 1), "bf16", "ieee"),
        ((128, 32, 128, 1, 3), "fp32", "ieee"),
        ((128, 32, 128, 1, 3), "fp32", "tf32"),
    ],
)
def test_the_compiler_takes_them(compiled: Call, sizes: tuple[int, ...], number: str, precision: str) -> None:
    """The interpreter runs code that Triton's compiler refuses; and the largest sizes fit into shared memory."""
    assert max(compiled(checks.compile_layer, *sizes, number, precision)) <= 99 * 1024


@needs_triton
@pytest.mark.slow
def test_the_compiler_takes_the_patterns(compiled: Call) -> None:
    assert max(compiled(checks.compile_patterns, 128, 32, 32)) <= 99 * 1024


def test_torch_knows_shapes_on_a_gpu() -> None:
    """What is kept for backward differs from the CPU's, and gradients have the types of their inputs."""
    with FakeTensorMode():
        inputs = [torch.randn(value.shape, device="cuda") for value in layer_inputs(3, 5, 6, 4)]
        y, means, kept = torch.ops.funnelcast.asrg(*inputs, None, 1e-5, 2, 2, True)
        assert y.shape == kept.shape == (3, 4, 6) and y.device.type == "cuda" and means.shape == (3, 0, 6)
        inputs[3:6] = [value.bfloat16() for value in inputs[3:6]]
        found = torch.ops.funnelcast.asrg_backward(y, None, *inputs, None, kept, 1e-5, 2, 2)
        assert [(g.shape, g.dtype) for g in found[:-1]] == [(value.shape, value.dtype) for value in inputs]
        assert read_patterns(y, inputs[2].T).shape == (3, 4, 6)


def test_autocast_means_products_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.funnelcast.asrg.default:
                seen.extend(tensor.dtype for tensor in args[:8])
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
    with FakeTensorMode(), Watch():  # type: ignore[no-untyped-call]
        x, gate, *weights = (torch.randn(value.shape, device="cuda") for value in layer_inputs(3, 5, 6, 4))
        assert asrg(x, gate, LayerWeights(*weights), 1e-5, 2, "shared")[0].dtype is torch.float32
    assert seen == [torch.float32] * 3 + [torch.bfloat16] * 3 + [torch.float32] * 2


def test_a_gpu_has_an_implementation() -> None:
    for name in ("asrg", "asrg_backward", "read_patterns", "read_patterns_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"funnelcast::{name}", "CUDA")


@pytest.fixture
def fresh() -> Iterator[None]:
    gpu_state.cache_clear()
    yield
    gpu_state.cache_clear()


@pytest.mark.usefixtures("fresh")
class TestState:
    """What `funnelcast doctor` says, and which tokens are taken, as if there were a GPU."""

    @staticmethod
    def pretend(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0), triton: object = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setitem(sys.modules, "triton", triton)

    def test_reasons(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert gpu_state() == gpu.Gpu(False, "no CUDA device")

    def test_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pretend(monkeypatch, (7, 5))
        assert gpu_state() == gpu.Gpu(False, "compute capability 7.5 is below 8.0, PyTorch alone is used")

    def test_rocm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pretend(monkeypatch)
        monkeypatch.setattr(torch.version, "hip", "7.0")
        assert gpu_state() == gpu.Gpu(False, "the kernels are for CUDA, received ROCm; PyTorch alone is used")

    def test_without_triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pretend(monkeypatch)
        assert not gpu_state().ready and gpu_state().line.startswith("no Triton (") and "install" in gpu_state().line

    def test_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FUNNELCAST_NATIVE", "off")
        assert gpu_state() == gpu.Gpu(False, "off (FUNNELCAST_NATIVE)")

    def test_what_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pretend(monkeypatch, triton=type("Triton", (), {"__version__": "3.7.1"}))
        assert gpu_state() == gpu.Gpu(True, "Triton 3.7.1")
        with FakeTensorMode():
            sizes = [(2, 64, 18), (2, 128, 32), (2, 129, 18), (2, 64, 33)]
            assert [attention_usable(torch.empty(size, device="cuda")) for size in sizes] == [True, True, False, False]
            x = torch.empty(2, 64, 18, device="cuda")
            assert attention_usable(x, 64) and not attention_usable(x, 65) and not attention_usable(x.half())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_the_benchmark_says_what_it_needs() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "benchmarks.gpu: there should be a CUDA device, received a machine without one\n"


def test_the_benchmark_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, with a small table."""
    monkeypatch.setenv("FUNNELCAST_NATIVE", "on")
    monkeypatch.setattr(benchmark, "CHECKED_ROWS", 16)
    monkeypatch.setattr(workload, "ALI_CCP", [9, 4])
    try:
        assert benchmark.check(workload.schema(sizes=[9, 4]), torch.device("cpu"))
        found = benchmark.figures(torch.device("cpu"), 40, (8,), 16)
    finally:
        torch.backends.cuda.matmul.fp32_precision = "none"
        gpu_state.cache_clear()
        native_state.cache_clear()
    assert [figure.name for figure in found] == [
        f"{what}_8_kernels_{precision}"
        for precision in ("fp32", "tf32", "bf16")
        for what in ("train", "score")
        if (what, precision) != ("score", "bf16")
    ]
    assert "check fp32: reach to" in capsys.readouterr().out
