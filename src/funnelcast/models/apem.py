"""APEM: inducing-point attention with per-row gates, read out by one task indicator a step and layer."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from funnelcast.apem_layers import (
    Asrg,
    Gates,
    PatternSelector,
    Residual,
    SelectorInput,
    SelfAttention,
    matrix,
    read,
)
from funnelcast.config import Component
from funnelcast.errors import ConfigError
from funnelcast.gates import CLOSED_BELOW, GateLayer
from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import (
    FeatureEmbedding,
    FunnelModel,
    Tower,
    check_at_least,
    check_choice,
    check_unused,
    check_widths,
)
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import Choice, IntegerRange, SearchSpace

__all__ = ["Apem"]

Schedule = Literal["linear", "cosine", "constant"]
Gate = Literal["query", "output", "query_output", "key_mask", "none"]
Sharing = Literal["none", "layer", "all"]
TowerInput = Literal["last", "mean", "concat"]
Representation = Literal["asrg", "self_attention"]
Pattern = Literal["selector", "flatten", "mean"]


@MODELS.register
class Apem(FunnelModel):
    """APEM. Tao, Ha et al. (Ant Group), "Adaptive pattern extraction multi-task learning for multi-step conversion".

    Full title: "Adaptive Pattern Extraction Multi-Task Learning for Multi-Step Conversion Estimations", preprint.

    X_0 = E[x];  for each layer l:  z = f_D(MLP_l(X_{l-1})),  Y_l = LN(MHA(z * I_l, X_{l-1}, X_{l-1}) + R_l),  X_l = Y_l
    T_il = LN(T_i,l-1 + MHA_il(alpha_il, Y_l, Y_l)),  p_i = sigmoid(tower_i(T_iL)),  R_1 = I_1,  R_l = X_{l-1} for l > 1

    The attention has key, value and output matrices but no query projection. Tokens: F fields before the first layer,
    K inducing points after it.

    NOTE[paper]: the schedule of gamma is garbled in print and counts steps; here it is a share of the planned steps
    (`gamma`, `gamma_share`), and its floor is 0.05 instead of 1e-3, below which gates hardly get a gradient.
    NOTE[paper]: LayerNorm(O, H) does not add up in the first layer (K tokens and F tokens); `first_residual` says what
    stands in for H. NOTE[paper]: a closed gate does not remove anything, it makes the attention uniform; `gate =
    "key_mask"` removes. The page docs/models/apem.md lists all readings.

    Idea: inducing-point attention with per-row gates, one task indicator a step, dependence loss.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width, a multiple of `heads`.
        inducing_points: K >= 1.
        heads: M >= 1.
        layers: L >= 1.
        gamma: first and smallest width of the gate function, first >= smallest > 0.
        gamma_schedule: `linear` is max(first * (1 - t / gamma_share), smallest) at the share t of planned steps,
            `cosine` has (1 + cos(pi t / gamma_share)) / 2 as its factor, `constant` stays at first and
            uses neither the smallest width nor `gamma_share`.
        gamma_share: share > 0 of the planned steps at which gamma would be 0; training may end before (> 1).
        gate: what z multiplies: the `query`, the attention's `output`, both (`query_output`), the query while points
            with z < 0.1 are no keys for readers of the layer (`key_mask`), or nothing (`none`, z = 1, no selector).
        first_residual: R_1: I_1 (`inducing`), the query as its gate leaves it, z * I_1 (`gated`), nothing (`none`), the
            mean of the fields (`mean`) or a learned K x F mixture of them (`learned`).
        selector_input: what MLP_l sees: all tokens of X_{l-1} (`former`), their mean (`pooled`), all fields (`fields`),
            or all fields with one selector for all layers (`shared`).
        selector_hidden: widths of the hidden layers of MLP_l.
        pattern_sharing: weights of the Pattern Selectors per layer and step (`none`), per layer (`layer`), or one set
            (`all`); the indicators alpha_il are never shared.
        tower_input: the `last` layer's T_i, or their `mean` or `concat` over all layers.
        tower_hidden: widths of the hidden layers of each tower.
        head: what the logits stand for: `reach`, `transition` or `monotone` (`funnelcast.heads`).
        sigma: weight of the dependence loss, one number or one a pair of steps; 0 trains without it.
        representation: `asrg`, or `self_attention` over the F fields on every layer, X_l = LN(X + MHA(X W^Q, X, X)),
            which has no gates and no inducing points.
        pattern: what a tower reads: T_iL of the Pattern Selector (`selector`), all tokens of Y_L (`flatten`) or their
            mean (`mean`), the same for every step.

    Shapes: ids [B, W] -> X_0 [B, F, D] -> Y_l [B, K, D], T_l [B, S, D] -> reach logits [B, S].

    Raises:
        ConfigError: an option is out of its range, an unknown word, or set although another option leaves it without a
            meaning.

    Source: APEM paper, sections 3.1 and 3.2, equations 10 to 19; table 2 (defaults); section 4.3 (ablations).

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> Apem(schema, inducing_points=5)(torch.tensor([[2], [3], [4]])).reach.shape
        torch.Size([3, 2])
    """

    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "apem_without_asrg": {"representation": "self_attention"},
        "apem_without_patterns": {"pattern": "flatten", "tower_hidden": (64,)},
        "apem_without_dependence": {"sigma": 0.0},
        "apem_open_gates": {"gate": "none"},
        "apem_key_mask": {"gate": "key_mask"},
        "apem_field_gates": {"selector_input": "fields"},
    }

    search_space: ClassVar[SearchSpace] = {
        "layers": IntegerRange(1, 4),
        "inducing_points": Choice(16, 32, 64),
        "heads": Choice(1, 2),
        "sigma": Choice(0.1, 0.3, 1.0, 3.0),
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        inducing_points: int = 64,
        heads: int = 2,
        layers: int = 4,
        gamma: tuple[float, float] = (10.0, 0.05),
        gamma_schedule: Schedule = "linear",
        gamma_share: float = 0.5,
        gate: Gate = "query",
        first_residual: Residual = "inducing",
        selector_input: SelectorInput = "former",
        selector_hidden: tuple[int, ...] = (),
        pattern_sharing: Sharing = "none",
        tower_input: TowerInput = "last",
        tower_hidden: tuple[int, ...] = (),
        head: Head = "reach",
        sigma: tuple[float, ...] | float = 1.0,
        representation: Representation = "asrg",
        pattern: Pattern = "selector",
    ) -> None:
        super().__init__(schema)
        check_choice("representation", representation, Representation)
        check_choice("pattern", pattern, Pattern)
        schedule = {"gamma": gamma, "gamma_schedule": gamma_schedule, "gamma_share": gamma_share}
        selectors = {"selector_input": selector_input, "selector_hidden": selector_hidden}
        if representation == "self_attention":
            generator = {"inducing_points": inducing_points, "gate": gate, "first_residual": first_residual}
            check_unused(Apem, "representation = 'self_attention'", **generator, **schedule, **selectors)
        elif gate == "none":
            check_unused(Apem, "gate = 'none'", **schedule, **selectors)
        if pattern != "selector":
            check_unused(Apem, f"pattern = '{pattern}'", pattern_sharing=pattern_sharing, tower_input=tower_input)
        self.head, self.sigma, self.representation, self.pattern = head, sigma, representation, pattern
        check_at_least(1, width=width, inducing_points=inducing_points, heads=heads, layers=layers)
        if width % heads:
            raise ConfigError(f"option 'width' should be a multiple of heads={heads}, received {width}")
        check_widths(selector_hidden=selector_hidden, tower_hidden=tower_hidden)
        check_choice("gamma_schedule", gamma_schedule, Schedule)
        check_choice("gate", gate, Gate)
        check_choice("first_residual", first_residual, Residual)
        check_choice("selector_input", selector_input, SelectorInput)
        check_choice("pattern_sharing", pattern_sharing, Sharing)
        check_choice("tower_input", tower_input, TowerInput)
        if (
            not isinstance(gamma, list | tuple)
            or len(gamma) != 2
            or not gamma[0] >= gamma[1] > 0.0
            or not gamma_share > 0.0
        ):
            wanted = "two numbers, first >= smallest > 0, and a share > 0"
            raise ConfigError(f"options 'gamma' and 'gamma_share' should be {wanted}, received {gamma}, {gamma_share}")
        self.gate: Gate = "none" if representation == "self_attention" else gate
        self.tower_input = tower_input
        self.gamma, self.gamma_schedule, self.gamma_share = gamma, gamma_schedule, gamma_share

        F, K = schema.n_fields, inducing_points
        tokens = [F] + [K] * (layers - 1)
        self.embedding = FeatureEmbedding(schema, width)
        inputs = {"former": [n * width for n in tokens], "pooled": [width] * layers, "fields": [F * width] * layers}
        sees = [] if self.gate == "none" else inputs.get(selector_input, [F * width])
        self.gates = Gates(selector_input, sees, selector_hidden, K)
        self.gates.gamma.fill_(gamma[0])
        residuals: list[Residual | None] = [first_residual, *[None] * (layers - 1)]
        self.layers = nn.ModuleList(
            SelfAttention(width, heads) if representation == "self_attention" else Asrg(n, width, K, heads, residual)
            for n, residual in zip(tokens, residuals, strict=True)
        )
        selecting = layers if pattern == "selector" else 0
        self.indicators = nn.ParameterList(matrix(schema.n_steps, width) for _ in range(selecting))  # alpha
        groups = schema.n_steps if pattern_sharing == "none" else 1
        n_patterns = min(1, selecting) if pattern_sharing == "all" else selecting
        self.patterns = nn.ModuleList(PatternSelector(groups, width, heads) for _ in range(n_patterns))
        last_tokens = F if representation == "self_attention" else K
        read = {"flatten": last_tokens, "mean": 1}.get(pattern, layers if tower_input == "concat" else 1)
        starts = first_logits(schema, head)
        self.towers = nn.ModuleList(Tower(read * width, tower_hidden, start=start) for start in starts)

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        return to_prediction(self.head, self.logits(self.embedding(ids)))

    def logits(self, fields: Tensor) -> Tensor:
        """Map the vectors of the fields [B, F, D] to what the head reads [B, S]."""
        x, closed, former, history = fields, None, None, []
        for number, layer in enumerate(self.layers):
            if self.pattern == "selector":
                selector = cast(PatternSelector, self.patterns[number % len(self.patterns)])
                readers = selector.readers(self.indicators[number])  # [D, S*M]
                x, means, closed = self._represent(number, layer, fields, x, closed, readers)
                former = selector(read(x, readers, closed) if means is None else means, former)
                history.append(former)  # [B, S, D]
            else:
                x, _, closed = self._represent(number, layer, fields, x, closed, None)
        patterns = self._read(x, history)  # [B, S, tower inputs]
        logits = [tower(pattern) for tower, pattern in zip(self.towers, patterns.unbind(1), strict=True)]
        return torch.stack(logits, dim=1)

    def _represent(
        self, number: int, layer: nn.Module, fields: Tensor, x: Tensor, closed: Tensor | None, readers: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return a layer's tokens, what readers find in them if known yet, and what [B, K] readers must not look at."""
        if self.representation == "self_attention":
            return layer(x), None, None
        z = None if self.gate == "none" else self.gates(number, fields, x)  # [B, K]
        query_gate = None if self.gate == "output" else z
        output_gate = z if self.gate in ("output", "query_output") else None
        if z is None or self.gate != "key_mask":
            return *layer(x, query_gate, output_gate, closed, readers), None
        y, _ = layer(x, query_gate, output_gate, closed)  # [B, K, D]
        return y, None, z < CLOSED_BELOW

    def _read(self, x: Tensor, history: list[Tensor]) -> Tensor:
        """Return what the towers see [B, S, inputs], from the last tokens and the T of every layer."""
        if self.pattern != "selector":
            shared = x.flatten(1) if self.pattern == "flatten" else x.mean(dim=1)
            return shared[:, None].expand(-1, self.schema.n_steps, -1)
        if self.tower_input == "concat":
            return torch.cat(history, dim=2)
        return history[-1] if self.tower_input == "last" else torch.stack(history).mean(0)

    def set_progress(self, fraction: float) -> None:
        """Set gamma by its schedule; in evaluation mode it stays what training made it."""
        if self.training:
            (first, smallest), done = self.gamma, min(fraction / self.gamma_share, 1.0)
            fall = {"linear": done, "cosine": 0.5 * (1.0 - math.cos(math.pi * done)), "constant": 0.0}
            self.gates.gamma.fill_(max(first * (1.0 - fall[self.gamma_schedule]), smallest))

    def curve_point(self) -> dict[str, float]:
        """Return gamma, where there are gates."""
        return {} if self.gate == "none" else {"gamma": self.gates.gamma.item()}

    def gate_layers(self, ids: Tensor) -> tuple[GateLayer, ...]:
        """Return z_l [B, K] of every layer for ids [B, W]."""
        return self.gates_of(self.embedding(ids))

    def gates_of(self, fields: Tensor) -> tuple[GateLayer, ...]:
        """Return z_l [B, K] of every layer for the vectors of the fields [B, F, D]."""
        found: list[GateLayer] = []
        x, closed = fields, None
        for number, layer in enumerate(self.layers if self.gate != "none" else ()):
            found.append(GateLayer(f"layer {number + 1}", self.gates(number, fields, x)))
            x, _, closed = self._represent(number, layer, fields, x, closed, None)
        return tuple(found)

    def default_losses(self) -> tuple[Component, ...]:
        """Return L_M and L_D of the paper, equation 21; without a weight there is no L_D."""
        dependence = Component(name="dependence", options={"sigma": self.sigma})
        return (Component(name="reach_bce"), *([dependence] if self.sigma else []))
