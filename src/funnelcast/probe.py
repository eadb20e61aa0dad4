"""Looks into a trained model: the gates that rows open, and what its towers read.

Shape legend: N rows, n gates of a layer, D numbers that the towers read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError, DataError
from funnelcast.evaluate import SCORING_ROWS
from funnelcast.gates import GateLayer
from funnelcast.layers import FunnelModel, Tower

__all__ = ["gates_of", "last_reached", "spread_rows", "towers_read"]

Array = NDArray[Any]


def spread_rows(data: PreparedData, split: Split, rows: int) -> Batch:
    """Read rows at even distances over a split, all of them where it has no more.

    Args:
        data: a prepared folder.
        split: the part.
        rows: rows wanted, >= 1.

    Raises:
        ConfigError: fewer than one row is wanted.
        DataError: the split is empty.
    """
    if rows < 1:
        raise ConfigError(f"rows should be a number >= 1, received {rows}")
    total = data.rows(split)
    if not total:
        raise DataError(f"{data.folder}: {split.value} has no rows to inspect")
    rows = min(rows, total)
    wanted = np.arange(rows) * total // rows
    start, parts = 0, []
    for batch in Loader(data, split, SCORING_ROWS).in_order():
        first, last = np.searchsorted(wanted, (start, start + len(batch)))
        if last > first:
            parts.append(batch.take(torch.from_numpy(wanted[first:last] - start)))
        start += len(batch)
    return Batch.concatenate(parts)


def gates_of(model: FunnelModel, ids: Tensor) -> list[GateLayer]:
    """Compute the gates of rows, with the weights as they are.

    Args:
        model: on its device, in evaluation mode.
        ids: [N, W] field ids, N >= 1.

    Returns:
        The layers in the model's order, on the CPU; none for a model without gates.

    Raises:
        DataError: a gate is not a finite number, as after a diverged training.
    """
    device = next(model.parameters()).device
    with torch.inference_mode():
        parts = [model.gate_layers(part.to(device)) for part in ids.split(SCORING_ROWS)]
        layers = [
            GateLayer(same[0].name, torch.cat([part.values.float().cpu() for part in same]), same[0].kind)
            for same in zip(*parts, strict=True)
        ]
    for layer in layers:
        if not layer.values.isfinite().all():
            raise DataError(f"the gates of {layer.name} should be finite numbers; a lower learning_rate may help")
    return layers


def towers_read(model: FunnelModel, ids: Tensor) -> Array:
    """Return what a model's towers read of rows, one tower beside the other.

    Args:
        model: on its device, in evaluation mode.
        ids: [N, W] field ids.

    Returns:
        [N, D] float32, D = 0 for a model without towers.
    """
    seen: list[Tensor] = []
    towers = [module for module in model.modules() if isinstance(module, Tower)]
    hooks = [tower.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for tower in towers]
    try:
        with torch.inference_mode():
            model(ids.to(next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    sides = [np.zeros((len(ids), 0), np.float32), *(x.flatten(1).float().cpu().numpy() for x in seen)]
    return np.concatenate(sides, axis=1)


def last_reached(batch: Batch) -> Array:
    """Return the number of the last step that each row is known to have reached, from 1 on, or 0.

    Args:
        batch: N rows.

    Example:
        >>> last_reached(Batch.of(torch.tensor([[2], [3]]), torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))).tolist()
        [2, 0]
    """
    reached = ((batch.labels > 0.5) & batch.observed).numpy()
    numbers: Array = (reached * np.arange(1, reached.shape[1] + 1)).max(axis=1)
    return numbers
