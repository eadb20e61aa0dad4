"""Where rows wait to be picked for a GPU: on the device as a whole where they fit, else in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from funnelcast.batch import Batch

__all__ = ["Index", "fits_device", "pick_rows", "stage"]

# A split moves to a GPU if it takes no more than this share of the free memory: activations and Adam come later.
DEVICE_SHARE = 0.5

Index = np.ndarray[Any, np.dtype[np.int64]]


def fits_device(size: int, device: torch.device) -> bool:
    """Say whether rows should move to a device as a whole.

    Args:
        size: bytes of all rows.
        device: where batches are used; there is nothing to move to on a CPU.

    Example:
        >>> fits_device(1, torch.device("cpu"))
        False
    """
    return device.type == "cuda" and size <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]


def stage(parts: Iterable[Batch], rows: int, device: torch.device) -> Batch:
    """Put rows below each other on a device; besides them, memory holds one part at a time.

    Args:
        parts: at least one; all have the same tensors.
        rows: of all parts together.
        device: the target device.

    Example:
        >>> part = Batch.of(torch.tensor([[2]]), torch.zeros(1, 1))
        >>> stage([part, part], 2, torch.device("cpu")).ids.tolist()
        [[2], [2]]
    """
    whole: Batch | None = None
    start = 0
    for part in parts:
        if whole is None:
            whole = part.map(lambda value: value.new_empty(rows, *value.shape[1:], device=device))
        for field in fields(part):
            if (value := getattr(part, field.name)) is not None:
                getattr(whole, field.name)[start : start + len(part)] = value
        start += len(part)
    if whole is None or start != rows:
        raise ValueError(f"parts should have {rows} rows and be at least one, received {start} rows")
    return whole


def pick_rows(source: Batch, order: Index, *, pinned: bool) -> Callable[[int, int], Batch]:
    """Return what picks the rows from one place in an order to another, where the source is.

    Args:
        source: the rows.
        order: [n] row numbers, all within the rows, which is not looked at on a CPU.
        pinned: pick into page-locked memory, from which a GPU copies while the next step is prepared.
    """
    if source.ids.device.type != "cpu":
        numbers = torch.from_numpy(order).to(source.ids.device)
        return lambda start, stop: source.take(numbers[start:stop])
    return lambda start, stop: _pick(source, order[start:stop], pinned)


def _pick(source: Batch, index: Index, pinned: bool) -> Batch:
    """Pick rows on the CPU."""

    def rows(value: Tensor) -> Tensor:
        picked = torch.empty(len(index), *value.shape[1:], dtype=value.dtype, pin_memory=pinned)
        # Faster than Tensor.index_select; any mode but "raise" lets NumPy write to `out` without a copy.
        value.numpy().take(index, axis=0, out=picked.numpy(), mode="clip")
        return picked

    return source.map(rows)
