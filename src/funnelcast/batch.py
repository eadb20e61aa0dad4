"""Batch: what flows from the loader to a model and its losses.

Shape legend of the whole package: B rows of a batch, S steps, F fields, W columns of ids, D embedding width d,
K inducing points, H hidden width, M attention heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """Rows of encoded fields with their labels.

    Args:
        ids: [B, W] int32 or int64, field ids in the schema's column order; never float, which would merge ids above
            2^24.
        labels: [B, S] float32 in {0, 1}; the value under an unobserved label is 0 and must not be read.
        observed: [B, S] bool, whether the label is known.
        weight: [B] float32 >= 0, sample weight.
        user: [B] int64 hashed user id, or None.
        true_reach: [B, S] float32 true reach of simulated data, or None; no model sees it.
        true_transition: [B, S] float32 true transition, or None.
        true_potential: [B, S] float32 rate of the step if every row had come to it, or None.
        value: [B] float32 >= 0, the value of the last step, or None where that step is an event; 0 where the step did
            not happen, and also under an unobserved last label, where it must not be read.
        scope: [B, S] bool, whether the row is known to lie in the step's scope, where the steps form a graph; None in a
            chain, whose scope is the former step.

    Raises:
        ValueError: shapes or types do not fit together.

    Example:
        >>> batch = Batch.of(torch.tensor([[2, 3]]), torch.tensor([[1.0, 0.0]]))
        >>> len(batch), batch.local.tolist()
        (1, [[True, True]])
    """

    ids: Tensor
    labels: Tensor
    observed: Tensor
    weight: Tensor
    user: Tensor | None = None
    true_reach: Tensor | None = None
    true_transition: Tensor | None = None
    true_potential: Tensor | None = None
    value: Tensor | None = None
    scope: Tensor | None = None

    def __post_init__(self) -> None:
        rows = self.ids.shape[0]
        if self.ids.dim() != 2 or self.ids.is_floating_point():
            raise ValueError(f"ids should be whole numbers [B, W], received {self.ids.dtype} {tuple(self.ids.shape)}")
        if self.labels.dim() != 2 or self.labels.shape[0] != rows:
            raise ValueError(f"labels should be [{rows}, S], received {tuple(self.labels.shape)}")
        if self.observed.shape != self.labels.shape or self.observed.dtype is not torch.bool:
            raise ValueError(
                f"observed should be bool {tuple(self.labels.shape)}, "
                f"received {self.observed.dtype} {tuple(self.observed.shape)}"
            )
        if self.weight.shape != (rows,):
            raise ValueError(f"weight should be [{rows}], received {tuple(self.weight.shape)}")
        if self.value is not None and self.value.shape != (rows,):
            raise ValueError(f"value should be [{rows}], received {tuple(self.value.shape)}")
        if self.scope is not None and (self.scope.shape != self.labels.shape or self.scope.dtype is not torch.bool):
            raise ValueError(f"scope should be bool {tuple(self.labels.shape)}, received {tuple(self.scope.shape)}")

    @classmethod
    def of(cls, ids: Tensor, labels: Tensor) -> Batch:
        """Make a batch in which every label is observed and every row weighs 1.

        Args:
            ids: [B, W] whole numbers.
            labels: [B, S] in {0, 1}.
        """
        labels = labels.float()
        return cls(ids, labels, torch.ones_like(labels, dtype=torch.bool), torch.ones(len(ids), device=ids.device))

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def former(self) -> Tensor:
        """[B, S] bool: the former step, in a graph a parent, is known to have happened; the first step needs none."""
        if self.scope is not None:
            return self.scope
        reached = (self.labels > 0.5) & self.observed
        return torch.cat([torch.ones_like(reached[:, :1]), reached[:, :-1]], dim=1)

    @property
    def local(self) -> Tensor:
        """[B, S] bool: the row lies in the step's local space and the step's label is known."""
        return self.former & self.observed

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply a function to every tensor that the batch has.

        Args:
            function: takes a tensor with B rows.

        Example:
            >>> len(Batch.of(torch.tensor([[2], [3]]), torch.zeros(2, 1)).map(lambda rows: rows[:1]))
            1
        """
        values = [getattr(self, field.name) for field in fields(self)]
        return Batch(*(None if value is None else function(value) for value in values))  # type: ignore[arg-type]

    def take(self, index: Tensor) -> Batch:
        """Pick rows.

        Args:
            index: [n] int64 row numbers.
        """
        return self.map(lambda value: value.index_select(0, index))

    def cut(self, start: int, stop: int) -> Batch:
        """View the rows start..stop-1.

        Args:
            start: first row.
            stop: row after the last one.
        """
        return self.map(lambda value: value[start:stop])

    def split(self, rows: int) -> Iterator[Batch]:
        """View the rows as batches of equal size, the last one excepted.

        Args:
            rows: rows of a batch, >= 1.

        Example:
            >>> [len(part) for part in Batch.of(torch.tensor([[2], [3], [4]]), torch.zeros(3, 1)).split(2)]
            [2, 1]
        """
        names, missing = [field.name for field in fields(self)], (None,) * -(-len(self) // rows)
        columns = [missing if (value := getattr(self, name)) is None else value.split(rows) for name in names]
        for values in zip(*columns, strict=True) if len(self) else ():
            # Rows of a batch that was checked need no second look, which would cost as much as picking them.
            batch = object.__new__(Batch)
            batch.__dict__.update(zip(names, values, strict=True))
            yield batch

    def to(self, device: torch.device) -> Batch:
        """Move all tensors to a device.

        Args:
            device: the target device.
        """
        return self.map(lambda value: value.to(device, non_blocking=True))

    @classmethod
    def concatenate(cls, batches: Sequence[Batch]) -> Batch:
        """Put the rows of several batches below each other.

        Args:
            batches: at least one; all have the same tensors.
        """
        rows = zip(*([getattr(batch, field.name) for field in fields(batch)] for batch in batches), strict=True)
        return cls(*(None if values[0] is None else torch.cat(values) for values in rows))  # type: ignore[arg-type]
