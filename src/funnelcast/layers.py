"""What models share: their base class, the fused embedding, MLPs and towers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, cast, get_args

import torch
from torch import Tensor, nn

from funnelcast.config import Component
from funnelcast.errors import ConfigError, choices
from funnelcast.gates import GateLayer
from funnelcast.prediction import Prediction
from funnelcast.schema import NULL_ID, Schema
from funnelcast.space import SearchSpace

__all__ = [
    "MLP",
    "FeatureEmbedding",
    "FunnelModel",
    "Tower",
    "check_at_least",
    "check_choice",
    "check_unused",
    "check_widths",
    "full_precision",
    "log_odds",
    "reach_log_odds",
    "smooth_step",
    "transition_log_odds",
]

# A first bias needs a finite log-odds, also where every TRAIN row of the local space reached the step.
_SMALLEST_RATE = 1e-6
_INT32_IDS = 2**31 - 1


class FunnelModel(nn.Module):
    """Base of all models: ids in, a `Prediction` out, and nothing about training.

    Args:
        schema: the fields and the funnel that the model is built for.

    Raises:
        ConfigError: the funnel is a graph and the model knows chains alone.
    """

    takes_graph: ClassVar[bool] = False
    search_space: ClassVar[SearchSpace] = {}  # option -> the values that are worth a try

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        if not (self.takes_graph or schema.graph.is_chain):
            raise ConfigError(
                f"{type(self).__name__} should get a chain of steps, received a graph; models 'funnel_graph', 'esm2' "
                "and 'hm3' know graphs"
            )
        self.schema = schema

    def forward(self, ids: Tensor) -> Prediction:
        """Predict every step of every row.

        Args:
            ids: [B, W] int32 or int64 field ids in the schema's column order.
        """
        raise NotImplementedError(f"{type(self).__name__} should define forward(ids)")

    def default_losses(self) -> tuple[Component, ...]:
        """Return the losses of the model's paper, used where an experiment names none."""
        return (Component(name="reach_bce"),)

    def set_progress(self, fraction: float) -> None:
        """Hear how far training is, before each of its steps; only models with a schedule use it.

        Args:
            fraction: finished steps / planned steps, in [0, 1].
        """

    def curve_point(self) -> dict[str, float]:
        """Return numbers of a schedule, by name, that stand beside the loss in the training curve; most have none."""
        return {}

    def gate_layers(self, ids: Tensor) -> tuple[GateLayer, ...]:  # noqa: ARG002 -- for models that have gates
        """Return the gates that rows open, layer by layer; a model without gates has none.

        Args:
            ids: [B, W] field ids.
        """
        return ()


def check_choice(option: str, value: str, literal: object) -> None:
    """Refuse a word that an option's `Literal` type does not list.

    Args:
        option: the option's name.
        value: what the user wrote.
        literal: the `Literal` type.

    Raises:
        ConfigError: the word is unknown; the message lists the known ones.
    """
    known = get_args(literal)
    if value not in known:
        raise ConfigError(f"option '{option}' should be a known word, received {value!r}; {choices(known, str(value))}")


def check_at_least(smallest: int, **options: int) -> None:
    """Refuse whole-number options below a bound.

    Args:
        smallest: the smallest valid value.
        **options: values by the option's name.

    Raises:
        ConfigError: a value is too small or not a whole number.
    """
    for option, value in options.items():
        if not isinstance(value, int) or value < smallest:
            raise ConfigError(f"option '{option}' should be a whole number >= {smallest}, received {value!r}")


def check_widths(**options: Sequence[int]) -> None:
    """Refuse layer widths that are not a list of whole numbers >= 1.

    Args:
        **options: what the user wrote, by the option's name.

    Raises:
        ConfigError: not a list, or a width is too small or not a whole number.
    """
    for option, widths in options.items():
        if not isinstance(widths, list | tuple) or not all(isinstance(width, int) and width >= 1 for width in widths):
            raise ConfigError(f"option '{option}' should be a list of whole numbers >= 1, received {widths!r}")


def check_unused(model: type[FunnelModel], because: str, **options: object) -> None:
    """Refuse options that were set although another one leaves them without a meaning.

    Args:
        model: the class whose constructor has the defaults.
        because: what takes the meaning, such as `gate = 'none'`.
        **options: values by the option's name.

    Raises:
        ConfigError: a value is not the default.
    """
    defaults = inspect.signature(model).parameters
    for option, value in options.items():
        value = tuple(value) if isinstance(value, list) else value
        if value != defaults[option].default:
            raise ConfigError(
                f"option '{option}' should keep its default {defaults[option].default!r} with {because}, where it has "
                f"no meaning, received {value!r}"
            )


def full_precision(x: Tensor) -> Tensor:
    """Widen numbers of 16 bits to float32, as softmax, norms and losses want them; leave others as they are.

    Args:
        x: of any shape.

    Example:
        >>> full_precision(torch.zeros(1, dtype=torch.bfloat16)).dtype, full_precision(torch.zeros(1).double()).dtype
        (torch.float32, torch.float64)
    """
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def log_odds(rate: float) -> float:
    """Return log(rate / (1 - rate)) with the rate cut to [1e-6, 1 - 1e-6].

    Args:
        rate: a share in [0, 1].

    Example:
        >>> log_odds(0.5), round(log_odds(1.0), 3)
        (0.0, 13.816)
    """
    rate = min(max(rate, _SMALLEST_RATE), 1.0 - _SMALLEST_RATE)
    return math.log(rate) - math.log1p(-rate)


def reach_log_odds(schema: Schema) -> list[float]:
    """Return the log-odds of every step's reach on TRAIN, the first biases of reach heads."""
    return [log_odds(step.reach_rate) for step in schema.steps]


def transition_log_odds(schema: Schema) -> list[float]:
    """Return the log-odds of every step's transition on TRAIN, the first biases of transition heads."""
    return [log_odds(step.transition_rate) for step in schema.steps]


def column_offsets(schema: Schema) -> Tensor:
    """Return for each column of a batch's ids where its field starts in the fused table.

    Args:
        schema: F fields with sizes n_f.

    Returns:
        [W] offsets; int32 as long as every id of the table fits, else int64, to which adding promotes int32 ids.
    """
    offsets, start = [], 0
    for field in schema.fields:
        offsets += [start] * field.max_length
        start += field.size
    return torch.tensor(offsets, dtype=torch.int32 if start <= _INT32_IDS else torch.int64)


class FeatureEmbedding(nn.Module):
    """One vector a field from one fused table: e_f = E[offset_f + id], or the mean over a multi-valued field.

    A multi-valued field is the mean over its valid positions: the first one always counts (it holds the null id where
    the field is empty), a later one where its id is not the padding 0. Ids stay integers all the way, since float32
    cannot tell 2^24 and 2^24 + 1 apart. Ids outside a field's size are not looked for: the encoder maps every
    unknown value to id 1, and a wrong id would silently read another field's row.

    Args:
        schema: F fields; the table has `schema.n_ids` rows.
        width: D >= 1, numbers a vector.

    Shapes: ids [B, W] int32 or int64 -> [B, F, D]. The table starts as N(0, 0.01^2).

    Raises:
        ConfigError: the width is not a whole number >= 1.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> fields = (Field(name="item", size=10), Field(name="tags", size=5, max_length=3))
        >>> steps = (Step(name="click", reach_rate=0.1, transition_rate=0.1),)
        >>> embedding = FeatureEmbedding(Schema(dataset="shop", fields=fields, steps=steps), 4)
        >>> embedding(torch.tensor([[2, 3, 4, 0]])).shape
        torch.Size([1, 2, 4])
    """

    offsets: Tensor
    columns: Tensor | None

    def __init__(self, schema: Schema, width: int) -> None:
        super().__init__()
        check_at_least(1, width=width)
        self.table = nn.Parameter(torch.empty(schema.n_ids, width))
        nn.init.normal_(self.table, std=0.01)
        self.register_buffer("offsets", column_offsets(schema), persistent=False)
        self.n_outputs = schema.n_fields * width
        self.register_buffer("columns", None, persistent=False)
        self._chunks = _chunks(schema)
        self.sparse = False  # whether the table's gradient holds the rows of the batch alone

    def read_from(self, columns: Sequence[int]) -> None:
        """Say where the columns of its fields stand in a batch that has other columns too.

        Args:
            columns: W positions.
        """
        self.columns = torch.tensor(columns)

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows of the table [B, W] that ids [B, columns of a batch] name."""
        own = ids if self.columns is None else ids.index_select(1, self.columns)
        return own + self.offsets

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids [B, W] and return vectors [B, F, D]."""
        rows = self.rows(ids)
        vectors = nn.functional.embedding(rows, self.table, sparse=self.sparse)  # [B, W, D]
        if not any(multi for _, _, multi in self._chunks):
            return vectors
        ids = rows - self.offsets
        parts = [
            _valid_mean(vectors[:, start:stop], ids[:, start:stop]) if multi else vectors[:, start:stop]
            for start, stop, multi in self._chunks
        ]
        return torch.cat(parts, dim=1)


def _chunks(schema: Schema) -> list[tuple[int, int, bool]]:
    """Cut the columns into multi-valued fields and runs of single-valued ones: (start, stop, is multi-valued)."""
    chunks: list[tuple[int, int, bool]] = []
    for start, stop in pairwise(schema.columns):
        multi = stop - start > 1
        if chunks and not multi and not chunks[-1][2]:
            chunks[-1] = (chunks[-1][0], stop, False)
        else:
            chunks.append((start, stop, multi))
    return chunks


def _valid_mean(vectors: Tensor, ids: Tensor) -> Tensor:
    """Average one multi-valued field: vectors [B, P, D] with ids [B, P] -> [B, 1, D]."""
    later = ids[:, 1:] != NULL_ID  # [B, P-1]
    valid = torch.cat([torch.ones_like(later[:, :1]), later], dim=1)[:, :, None]  # [B, P, 1]
    return (vectors * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True)


class MLP(nn.Sequential):
    """A stack of linear layers with ReLU after each: h_l = max(0, W_l h_{l-1} + b_l).

    Args:
        n_inputs: numbers a row.
        hidden: widths of the layers, each >= 1; none makes it the identity.

    Shapes: [..., n_inputs] -> [..., n_outputs] with n_outputs = hidden[-1], or n_inputs without layers.
    Weights start Kaiming-uniform, biases at 0.

    Raises:
        ConfigError: a width is not a whole number >= 1.

    Source: He et al. 2015, "Delving deep into rectifiers" (the first weights).
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int]) -> None:
        check_widths(hidden=hidden)
        layers: list[nn.Module] = []
        for width in hidden:
            linear = nn.Linear(n_inputs, width)
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU()]
            n_inputs = width
        super().__init__(*layers)
        self.n_outputs = n_inputs


class Tower(nn.Module):
    """An MLP that ends in one logit, whose bias starts at a given log-odds.

    Args:
        n_inputs: numbers a row.
        hidden: widths of the MLP's layers.
        start: first value of the last bias, as log-odds.

    Shapes: [..., n_inputs] -> [...]. The last weights start Xavier-uniform.

    Raises:
        ConfigError: a width is not a whole number >= 1.

    Example:
        >>> Tower(3, (), start=-2.0)(torch.zeros(3)).item()
        -2.0
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int], *, start: float = 0.0) -> None:
        super().__init__()
        self.body = MLP(n_inputs, hidden)
        self.output = nn.Linear(self.body.n_outputs, 1)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.constant_(self.output.bias, start)

    def forward(self, x: Tensor) -> Tensor:
        """Map rows [..., n_inputs] to logits [...]."""
        logits: Tensor = self.output(self.body(x))
        return logits.squeeze(-1)


class _SmoothStep(torch.autograd.Function):
    """f_D(v) = v (3/2 - 2 v^2) + 1/2 of v = u / g cut to [-1/2, 1/2]; backward needs nothing but v."""

    @staticmethod
    def forward(u: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        v = (u / gamma).clamp_(-0.5, 0.5)
        return (v.square().mul_(-2.0).add_(1.5)).mul_(v).add_(0.5), v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1], inputs[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, dz: Tensor, _: Tensor) -> tuple[Tensor, None]:
        v, gamma = ctx.saved_tensors
        slope = v.square().mul_(-6.0).add_(1.5)  # 0 at both ends, where the cut begins
        return slope.mul_(dz).div_(gamma), None


def smooth_step(u: Tensor, gamma: Tensor) -> Tensor:
    """Map scores to gates: f_D(u) = -2 u^3 / g^3 + 3 u / (2 g) + 1/2, and 0 below -g/2, 1 above g/2.

    Args:
        u: scores of any shape.
        gamma: [] width g > 0 of the part that is neither 0 nor 1; it gets no gradient.

    Source: APEM paper, equation 13; Hazimeh et al. 2021 (DSelect-k), the smooth-step function.

    Example:
        >>> smooth_step(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]), torch.tensor(4.0)).tolist()
        [0.0, 0.15625, 0.5, 0.84375, 1.0]
    """
    value, _ = _SmoothStep.apply(u, gamma)  # type: ignore[no-untyped-call]
    return cast(Tensor, value)
