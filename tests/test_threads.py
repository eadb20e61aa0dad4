"""Rows split over threads: every row once and in order, the modes of the caller, and its number of threads back."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funnelcast.threads import rows_in_parallel


@pytest.fixture
def three_threads() -> Iterator[None]:
    former = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(former)


@given(rows=st.integers(0, 20), threads=st.integers(1, 5))
def test_every_row_once_in_order(rows: int, threads: int) -> None:
    former = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        parts = rows_in_parallel(rows, range)
        assert len(parts) == max(1, min(threads, rows)) and torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(former)
    assert [row for part in parts for row in part] == [*range(rows)]


def test_each_part_computes_on_one_core_of_its_own(three_threads: None) -> None:
    wait = threading.Barrier(3)  # broken unless three parts run at the same time

    def work(begin: int, end: int) -> tuple[int, bool]:
        wait.wait(timeout=30)
        return torch.get_num_threads(), torch.is_grad_enabled()

    assert rows_in_parallel(7, work) == [(1, False)] * 3


def test_inference_tensors_can_be_written(three_threads: None) -> None:
    with torch.inference_mode():
        x = torch.zeros(5)
        rows_in_parallel(5, lambda begin, end: x[begin:end].add_(torch.arange(begin, end)))
    assert x.tolist() == [0, 1, 2, 3, 4] and x.is_inference()


def test_an_error_comes_through_and_leaves_the_threads_as_they_were(three_threads: None) -> None:
    def work(begin: int, end: int) -> None:
        raise ValueError(f"rows {begin}..{end}")

    with pytest.raises(ValueError, match=r"rows 0\.\.2"):
        rows_in_parallel(6, work)
    assert torch.get_num_threads() == 3
