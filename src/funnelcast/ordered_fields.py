"""Ordered fields as numbers: the place of a bucket in its order, and a learned shift of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.schema import UNKNOWN_ID, Schema

__all__ = ["OrderedFields", "split_fields"]

FIRST = UNKNOWN_ID + 1  # the id of the lowest bucket


def split_fields(schema: Schema) -> tuple[Schema, tuple[int, ...], tuple[int, ...]]:
    """Divide the fields into those to embed and the ordered ones.

    Where every field is ordered, all of them are embedded too, since a model without an embedding has no tokens.

    Args:
        schema: the fields and the funnel.

    Returns:
        The schema of the fields to embed, their columns in a batch's ids, and the columns of the ordered fields.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> fields = (Field(name="tags", size=9, max_length=2), Field(name="age", size=5, ordered=True))
        >>> step = Step(name="click", reach_rate=0.1, transition_rate=0.1)
        >>> split_fields(Schema(dataset="shop", fields=fields, steps=(step,)))[1:]
        ((0, 1), (2,))
    """
    starts = schema.columns[:-1]
    ordered = tuple(start for start, field in zip(starts, schema.fields, strict=True) if field.ordered)
    kept = [(start, field) for start, field in zip(starts, schema.fields, strict=True) if not field.ordered]
    kept = kept or list(zip(starts, schema.fields, strict=True))
    columns = tuple(start + i for start, field in kept for i in range(field.max_length))
    return schema.model_copy(update={"fields": tuple(field for _, field in kept)}), columns, ordered


class OrderedFields(nn.Module):
    """Two numbers a field: u = 2 (id - 2) / (n - 3) - 1 and s = S[offset + id]; u is 0 for null and unknown.

    u runs from -1 to 1 over the n - 2 buckets of a field of size n, so that neighbours stay neighbours, also where
    TRAIN has few rows of a bucket; s lets any bucket, null and unknown included, stand apart from the line.

    Args:
        schema: the fields; those that are `ordered` are read.

    Shapes: ids [B, W] -> [B, 2N] for N ordered fields, u first. S starts at 0.

    Raises:
        ConfigError: no field of the schema is ordered.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> step = Step(name="click", reach_rate=0.1, transition_rate=0.1)
        >>> schema = Schema(dataset="shop", fields=(Field(name="age", size=5, ordered=True),), steps=(step,))
        >>> OrderedFields(schema)(torch.tensor([[0], [2], [3], [4]])).tolist()
        [[0.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]
    """

    columns: Tensor
    offsets: Tensor
    middles: Tensor
    halves: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        _, _, columns = split_fields(schema)
        sizes = [field.size for field in schema.fields if field.ordered]
        if not sizes:
            raise ConfigError(f"dataset '{schema.dataset}' should have an ordered field, received none")
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        places = [(size - FIRST - 1) / 2.0 for size in sizes]  # half of the way from the lowest to the highest bucket
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.register_buffer("offsets", torch.tensor(starts), persistent=False)
        self.register_buffer("middles", torch.tensor([FIRST + max(p, 0.0) for p in places]), persistent=False)
        self.register_buffer("halves", torch.tensor([p if p > 0.0 else 1.0 for p in places]), persistent=False)
        self.shifts = nn.Parameter(torch.zeros(sum(sizes)))  # S
        self.n_outputs = 2 * len(sizes)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids [B, W] to numbers [B, 2N]."""
        own = ids.index_select(1, self.columns)
        u = (own - self.middles) / self.halves
        u = u.masked_fill(own < FIRST, 0.0)
        shifts = self.shifts[own + self.offsets]
        return torch.cat([u, shifts], dim=1)
