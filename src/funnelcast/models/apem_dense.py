"""APEM on the categories beside a dense path a step, with ordered fields as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from funnelcast.dense_path import DensePath
from funnelcast.ensemble import mean_of_losses, mean_of_probabilities
from funnelcast.errors import ConfigError
from funnelcast.gates import GateLayer
from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import FeatureEmbedding, FunnelModel, Tower, check_at_least, check_choice, check_unused
from funnelcast.models.apem import Apem
from funnelcast.ordered_fields import OrderedFields, split_fields
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import UNKNOWN_ID, Schema
from funnelcast.space import Choice, SearchSpace

__all__ = ["ApemDense"]

Paths = Literal["step", "shared"]


class HideIds(nn.Module):
    """Put one learned vector a field in place of its unknown ids, and in training in place of a share q of all ids.

    e_f = u_f where the id is unknown or, in training, with probability q, independently a row and field. So u_f stands
    for "whatever it is", and an id that TRAIN has not shown is to the model what a hidden one was.

    Args:
        fields: which of the C fields, at least one.
        columns: where each of them stands in a batch's ids.
        width: D.
        share: q in [0, 1].

    Shapes: ids [B, W], vectors [B, C, D] -> [B, C, D]. u starts at 0.
    """

    fields: Tensor
    columns: Tensor

    def __init__(self, fields: Sequence[int], columns: Sequence[int], width: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("fields", torch.tensor(fields), persistent=False)
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.unknown = nn.Parameter(torch.zeros(len(fields), width))  # u

    def forward(self, ids: Tensor, vectors: Tensor) -> Tensor:
        """Replace what is unknown or hidden."""
        hidden = ids.index_select(1, self.columns) == UNKNOWN_ID  # [B, fields]
        if self.training:
            hidden = hidden | (torch.rand(hidden.shape, device=ids.device) < self.share)
        known = vectors.index_select(1, self.fields)
        return vectors.index_copy(1, self.fields, torch.where(hidden[:, :, None], self.unknown, known))


class Member(nn.Module):
    """The logits of one member: APEM on the categories and the dense paths.

    Args:
        schema: the fields and the funnel.
        width: D.
        numbers: whether ordered fields are numbers.
        hidden_share: q.
        large_field: number of ids from which on a single-valued field is large.
        apem: options of APEM, or None for none.
        dense: options of every dense path.
        starts: of each path, the first log-odds of its outputs.

    Shapes: ids [B, W] -> logits [B, S].
    """

    def __init__(
        self,
        schema: Schema,
        *,
        width: int,
        numbers: bool,
        hidden_share: float,
        large_field: int,
        apem: dict[str, Any] | None,
        dense: dict[str, Any],
        starts: Sequence[Sequence[float]],
    ) -> None:
        super().__init__()
        embedded, columns, ordered = split_fields(schema) if numbers else (schema, tuple(range(schema.width)), ())
        # The dense paths hold the first log-odds; APEM's loss on dependence is not part of this model.
        self.apem = None if apem is None else Apem(embedded, width=width, selector_input="fields", sigma=0.0, **apem)
        if self.apem is None:
            self.table = FeatureEmbedding(embedded, width)
        else:
            for tower in self.apem.towers:
                nn.init.zeros_(cast(Tower, tower).output.bias)
        self.embedding.read_from(columns)
        self.numbers = OrderedFields(schema) if ordered else None
        large = [i for i, f in enumerate(embedded.fields) if f.size >= large_field and f.max_length == 1]
        places = [columns[embedded.columns[i]] for i in large]
        self.hide = HideIds(large, places, width, hidden_share) if large else None
        n_inputs = embedded.n_fields * width + (self.numbers.n_outputs if self.numbers else 0)
        self.paths = nn.ModuleList(DensePath(n_inputs, starts=start, **dense) for start in starts)

    @property
    def embedding(self) -> FeatureEmbedding:
        """The one table of vectors, which APEM and the dense paths share."""
        return self.table if self.apem is None else self.apem.embedding

    def vectors(self, ids: Tensor) -> Tensor:
        """Look up the categories of ids [B, W], hidden ones replaced: [B, C, D]."""
        vectors: Tensor = self.embedding(ids)
        if self.hide is not None:
            vectors = self.hide(ids, vectors)
        return vectors

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids [B, W] to logits [B, S]."""
        vectors = self.vectors(ids)  # [B, C, D]
        first = vectors.flatten(1)
        if self.numbers is not None:
            first = torch.cat([first, self.numbers(ids)], dim=1)  # [B, C*D + 2N]
        logits = torch.cat([path(first) for path in self.paths], dim=1)  # [B, S]
        return logits if self.apem is None else logits + self.apem.logits(vectors)

    def gate_layers(self, ids: Tensor) -> tuple[GateLayer, ...]:
        """Return APEM's gates z_l [B, K] of every layer for ids [B, W]."""
        return () if self.apem is None else self.apem.gates_of(self.vectors(ids))


@MODELS.register
class ApemDense(FunnelModel):
    """APEM-Dense, ours after the APEM paper: logits of APEM on the categories plus those of a dense path a step.

    x_0 = [e_c for categories c;  r_f, s_f for ordered fields f],   e_c = u_c where the id is unknown or hidden

    x_l = x_0 * (U_il V_il x_{l-1} + b_il) + x_{l-1} for l = 1..C,   l_i = v_i MLP_i(x_C) + w_i x_0 + b_i + apem_i(e)

    Ordered fields (buckets of numbers, target statistics) enter as the place r_f of the bucket and a learned shift s_f
    of it, not as vectors. Cross layers multiply fields with each other; every step has its own, since the rare step
    wants others than the frequent ones. Among many ordered fields, ids of large fields are hidden in most rows of
    training, one learned vector u_c in their place, so that the model rests on what it knows of all rows (statistics,
    small fields) and the ids correct it. APEM's gates see all categories in every layer, as in `apem_field_gates`.

    NOTE[paper]: not in the APEM paper. Its 18 numbers a step are too narrow for the rare step, it has no products of
    fields, and it has no word about numbers; docs/models/apem_dense.md measures what each part brings.

    Idea: APEM on the categories, plus a path with crosses a step; numbers stay numbers, ids are often hidden.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width, a multiple of `heads`.
        numbers: whether ordered fields are numbers; else they are embedded as the others are.
        id_dropout: q in [0, 1], share of the rows of training in which the id of a large field is hidden; `auto` is 0.9
            where at least half of the fields are ordered, so that they can stand in for ids, and else 0.
        large_field: number of ids from which on a single-valued field is large, >= 2.
        paths: dense paths, one a `step` or one `shared` by all.
        cross_layers: C >= 0.
        cross_rank: rank of the cross matrices, >= 0; 0 is the full matrix.
        dense_hidden: widths of the dense MLP's layers.
        dropout: share of its units dropped after each layer in training, in [0, 1).
        members: number of models of this kind, >= 1, that share nothing; each is trained by a loss of its own, and p_i
            is the mean of theirs.
        patterns: whether there is APEM beside the dense paths; without it the next three have no meaning.
        inducing_points: K >= 1 of APEM.
        heads: heads >= 1 of APEM.
        layers: L >= 1 of APEM.
        head: what the logits stand for: `reach`, `transition` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> e [B, C, D], x_0 [B, C*D + 2N] -> logits [B, S].

    Raises:
        ConfigError: an option is out of its range, or set although another option leaves it without a meaning.

    Source: the APEM paper; Wang et al., WWW 2021, "DCN V2" (cross layers); the composition is ours.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.1) for name in ("click", "buy"))
        >>> fields = (Field(name="item", size=10), Field(name="price", size=7, ordered=True))
        >>> model = ApemDense(Schema(dataset="shop", fields=fields, steps=steps), dense_hidden=(8,))
        >>> model(torch.tensor([[2, 2], [3, 6], [4, 0]])).reach.shape
        torch.Size([3, 2])
    """

    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "apem_dense_without_patterns": {"patterns": False},
        "apem_dense_without_crosses": {"cross_layers": 0},
        "apem_dense_without_numbers": {"numbers": False},
        "apem_dense_without_id_dropout": {"id_dropout": 0.0},
        "apem_dense_without_dropout": {"dropout": 0.0},
        "apem_dense_shared_path": {"paths": "shared"},
        "apem_dense_three": {"members": 3},
    }

    search_space: ClassVar[SearchSpace] = {
        "id_dropout": Choice("auto", 0.0, 0.5, 0.9),
        "cross_layers": Choice(1, 2, 3),
        "cross_rank": Choice(16, 64, 128),
        "dense_hidden": Choice((128, 64), (256, 64), (512, 256, 64)),
        "dropout": Choice(0.1, 0.3, 0.5),
        "inducing_points": Choice(16, 32, 64),
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        numbers: bool = True,
        id_dropout: float | Literal["auto"] = "auto",
        large_field: int = 150,
        paths: Paths = "step",
        cross_layers: int = 2,
        cross_rank: int = 64,
        dense_hidden: tuple[int, ...] = (256, 64),
        dropout: float = 0.3,
        members: int = 1,
        patterns: bool = True,
        inducing_points: int = 16,
        heads: int = 2,
        layers: int = 2,
        head: Head = "reach",
    ) -> None:
        super().__init__(schema)
        check_choice("paths", paths, Paths)
        check_at_least(1, members=members)
        check_at_least(2, large_field=large_field)
        if id_dropout == "auto":
            id_dropout = 0.9 if 2 * sum(field.ordered for field in schema.fields) >= schema.n_fields else 0.0
        if not 0.0 <= id_dropout <= 1.0:
            raise ConfigError(f"option 'id_dropout' should be auto or a number in [0, 1], received {id_dropout!r}")
        apem = {"inducing_points": inducing_points, "heads": heads, "layers": layers}
        if not patterns:
            check_unused(ApemDense, "patterns = false", **apem)
        self.head = head
        starts = first_logits(schema, head)
        dense = {"crosses": cross_layers, "rank": cross_rank, "hidden": dense_hidden, "dropout": dropout}
        self.members = nn.ModuleList(
            Member(
                schema,
                width=width,
                numbers=numbers,
                hidden_share=id_dropout,
                large_field=large_field,
                apem=apem | {"head": head} if patterns else None,
                dense=dense,
                starts=[starts] if paths == "shared" else [[start] for start in starts],
            )
            for _ in range(members)
        )

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        found = [to_prediction(self.head, member(ids)) for member in self.members]
        return mean_of_losses(found) if self.training else mean_of_probabilities(found)

    def set_progress(self, fraction: float) -> None:
        """Set APEM's gamma by its schedule."""
        for apem in self._apems():
            apem.set_progress(fraction)

    def curve_point(self) -> dict[str, float]:
        """Return APEM's gamma, the same in all members."""
        return self._apems()[0].curve_point() if self._apems() else {}

    def gate_layers(self, ids: Tensor) -> tuple[GateLayer, ...]:
        """Return APEM's gates z_l [B, K] of every layer for ids [B, W], member after member."""
        found: list[GateLayer] = []
        for number, member in enumerate(self.members, start=1):
            prefix = f"member {number}, " if len(self.members) > 1 else ""
            found += [replace(layer, name=prefix + layer.name) for layer in cast(Member, member).gate_layers(ids)]
        return tuple(found)

    def _apems(self) -> list[Apem]:
        """The members' APEM, if they have one."""
        return [member.apem for member in self.members if isinstance(member, Member) and member.apem is not None]
