"""Compiled work on the rows of embedding tables: sums of sparse gradients, and lazy Adam."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from funnelcast.native.build import address, compiled

__all__ = ["catch_up_rows", "lazy_adam_rows", "sum_by_row"]


class _Seen:
    """One number a row of the largest table so far, -1 between calls; saves the sort that finding equal rows needs."""

    places = torch.empty(0, dtype=torch.int32)

    @classmethod
    def of(cls, rows: int) -> Tensor:
        if len(cls.places) < rows:
            cls.places = torch.full((rows,), -1, dtype=torch.int32)
        return cls.places


def sum_by_row(rows: Tensor, values: Tensor, table_rows: int) -> tuple[Tensor, Tensor]:
    """Add up the values of equal rows.

    Args:
        rows: [n] int64 in [0, table_rows).
        values: [n, D] float32 on the CPU.
        table_rows: rows of the table.

    Returns:
        [u] the distinct rows in order of appearance, and [u, D] their sums.
    """
    rows, values = rows.contiguous(), values.contiguous()
    n, D = values.shape
    places, unique = torch.empty(n, dtype=torch.int32), torch.empty(n, dtype=torch.int64)
    native = compiled()
    native.funnelcast_unique_rows.restype = ctypes.c_int64
    count = native.funnelcast_unique_rows(
        ctypes.c_int64(n), address(rows), address(_Seen.of(table_rows)), address(places), address(unique)
    )
    sums = values.new_empty(count, D)
    sizes = map(ctypes.c_int64, (n, count, D))
    native.funnelcast_sum_rows(*sizes, address(values), address(places), address(sums))
    return unique[:count], sums


def lazy_adam_rows(
    rows: Tensor,
    gradient: Tensor,
    table: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    betas: tuple[float, float],
    step_size: float,
    root_scale: float,
    eps: float,
    decay: float,
) -> None:
    """Update rows of a table and of its moments in place, as `LazyAdam` states.

    Args:
        rows: [u] distinct rows, int64.
        gradient: [u, D] float32.
        table: [n_ids, D] float32, contiguous.
        first: [n_ids, D] first moment.
        second: [n_ids, D] second moment.
        betas: decay of the moments.
        step_size: lr / (1 - b1^t).
        root_scale: 1 / sqrt(1 - b2^t).
        eps: added to the root.
        decay: L2 term.
    """
    rows, gradient = rows.contiguous(), gradient.contiguous()
    numbers = [*map(ctypes.c_double, betas), *map(ctypes.c_float, (step_size, root_scale, eps, decay))]
    compiled().funnelcast_lazy_adam(
        ctypes.c_int64(len(rows)),
        ctypes.c_int64(gradient.shape[1]),
        *map(address, (rows, gradient, table, first, second)),
        *numbers,
        ctypes.c_int64(torch.get_num_threads()),
    )


def catch_up_rows(
    rows: Tensor,
    table: Tensor,
    first: Tensor,
    second: Tensor,
    last: Tensor,
    sums: Tensor,
    *,
    present: int,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Bring rows of a table and of its moments to the present in place, as `DeferredAdam` states.

    Args:
        rows: [n] int64, possibly repeated.
        table: [n_ids, D] float32, contiguous.
        first: [n_ids, D] first moment.
        second: [n_ids, D] second moment.
        last: [n_ids] int32, the step that each row has seen.
        sums: [steps, 4] float64, for each such step the sum of weights and of weights times d, d^2 and d^3.
        present: the number of finished steps.
        betas: decay of the moments.
        eps: added to the root.
    """
    rows = rows.contiguous()
    compiled().funnelcast_catch_up(
        ctypes.c_int64(len(rows)),
        ctypes.c_int64(table.shape[1]),
        address(rows),
        ctypes.c_int64(present),
        address(last),
        address(sums),
        ctypes.c_double(betas[0]),
        ctypes.c_double(betas[1]),
        ctypes.c_float(eps),
        *map(address, (table, first, second)),
    )
