"""Rows split over threads, each of which computes on one core."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

__all__ = ["rows_in_parallel"]

T = TypeVar("T")


def rows_in_parallel(rows: int, work: Callable[[int, int], T]) -> list[T]:
    """Call `work(begin, end)` for consecutive parts of the rows, one a thread, without gradients.

    Many small products are far faster so than with every product split over the threads, which then wait for each
    other after each of them. The parts are those of `torch.get_num_threads()`, always the same ones.

    Args:
        rows: >= 0.
        work: called with the first row and the one behind the last; it should compute in PyTorch.

    Returns:
        What `work` returned, in the order of the rows; one call at least.

    Example:
        >>> sum(rows_in_parallel(1000, lambda begin, end: end - begin))
        1000
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    parts = max(1, min(threads, rows))

    def some(part: int) -> T:
        with torch.inference_mode(inference), torch.no_grad():  # modes belong to a thread
            return work(rows * part // parts, rows * (part + 1) // parts)

    if parts == 1:
        return [some(0)]
    torch.set_num_threads(1)
    try:
        return list(_pool(parts).map(some, range(parts)))
    finally:
        torch.set_num_threads(threads)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "funnelcast-rows", lambda: torch.set_num_threads(1))
