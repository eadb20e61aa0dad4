"""ESCM2."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from funnelcast.config import Component
from funnelcast.errors import ConfigError
from funnelcast.experts import Experts
from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import (
    FeatureEmbedding,
    FunnelModel,
    Tower,
    check_at_least,
    check_choice,
    check_widths,
    full_precision,
)
from funnelcast.models._debiased import Estimator, Gradients, check_debiasing, estimator_losses, first_imputed_errors
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import CLIP, WEIGHT, Choice, LogUniform, SearchSpace

__all__ = ["Escm2"]


@MODELS.register
class Escm2(FunnelModel):
    """ESCM2, "Entire space counterfactual multi-task model". Wang et al., SIGIR 2022, arXiv:2204.05125.

    h_k = sum_e softmax(W_k x)_e f_e(x),  c_i = sigmoid(tower_i(h_i)),  p_i = c_1 * ... * c_i,  x = flatten(E[x])

    L = e(o_1, p_1) + lam_g sum_{i>=2} e(o_i, p_i) + lam_c L_c   over the entire space

    ESMM's loss on shared experts with one gate a head, and a counterfactual term L_c on the transitions: inverse
    propensity (`transition_ips`) or doubly robust (`transition_dr`), whose imputed error d_i = softplus(other_i(h'_i))
    comes from one more gate and tower a step from step 2 on. A funnel of one step has no such term.

    NOTE[paper]: two steps there; any number here, each transition with the reach of its former step as propensity. The
    paper's weights were tuned for each dataset; lam_c from 0.1 to 1 is reported.

    Idea: ESMM on experts, its transitions debiased by propensity.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        experts: E >= 1, number of experts.
        expert: widths of each expert's layers, at least one.
        tower: widths of each tower's layers, those of the imputation towers too.
        estimator: `ips` or `dr`.
        lam_c: weight >= 0 of the counterfactual term.
        lam_g: weight >= 0 of the reach of each step from step 2 on.
        clip: smallest propensity in [0, 1], one number or one for each transition from step 2 on.
        gradients: with `dr`, who learns from what: `joint` as reported for the paper, or `split`, where the imputed
            error learns from its own term alone (see `transition_dr`).
        head: what the logits stand for: `transition`, `reach` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> x [B, F*D] -> experts [E, B, H], gates [B, heads, E] -> mixtures [B, heads, H] -> transition
    logits [B, S], companion [B, S]; heads is S, with `dr` 2 S - 1.

    Raises:
        ConfigError: a width or the number of experts is not a whole number >= 1, `expert` is empty, a weight or the
            clip is out of range, or the estimator is unknown.

    Source: the loss as it is usually reported; the paper's text was not verified.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> model = Escm2(schema, experts=3, expert=(8,), tower=(), estimator="dr")
        >>> model(torch.tensor([[2], [3], [4]])).companion.shape
        torch.Size([3, 2])
    """

    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "escm2_ips": {"estimator": "ips"},
        "escm2_dr": {"estimator": "dr"},
    }

    search_space: ClassVar[SearchSpace] = {
        "experts": Choice(2, 4, 8),
        "expert": Choice((64,), (128,), (128, 64), (256, 128)),
        "lam_c": LogUniform(0.01, 1.0, grid=(0.01, 0.1, 1.0)),
        "lam_g": WEIGHT,
        "clip": CLIP,
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        experts: int = 4,
        expert: tuple[int, ...] = (256, 128),
        tower: tuple[int, ...] = (64,),
        estimator: Estimator = "ips",
        lam_c: float = 0.1,
        lam_g: float = 1.0,
        clip: tuple[float, ...] | float = 0.01,
        gradients: Gradients = "joint",
        head: Head = "transition",
    ) -> None:
        super().__init__(schema)
        self.head = head
        check_at_least(1, experts=experts)
        check_widths(expert=expert, tower=tower)
        if not expert:
            raise ConfigError("option 'expert' should name at least one layer, received none")
        check_choice("estimator", estimator, Estimator)
        check_choice("gradients", gradients, Gradients)
        check_debiasing(schema, clip, lam_c=lam_c, lam_g=lam_g)
        self.estimator, self.lam_c, self.lam_g, self.clip = estimator, lam_c, lam_g, clip
        self.gradients: Gradients = gradients
        imputed = first_imputed_errors(schema) if estimator == "dr" else []
        self.embedding = FeatureEmbedding(schema, width)
        self.experts = Experts(experts, self.embedding.n_outputs, expert)
        self.gates = nn.Linear(self.embedding.n_outputs, (schema.n_steps + len(imputed)) * experts, bias=False)
        nn.init.xavier_uniform_(self.gates.weight)
        self.towers = nn.ModuleList(Tower(expert[-1], tower, start=start) for start in first_logits(schema, head))
        self.companions = nn.ModuleList(Tower(expert[-1], tower, start=start) for start in imputed)

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        x = self.embedding(ids).flatten(1)  # [B, F*D]
        heads = [*self.towers, *self.companions]
        gates = full_precision(self.gates(x)).view(ids.shape[0], len(heads), -1).softmax(dim=2)  # [B, heads, E]
        mixtures = torch.einsum("bse,ebh->bsh", gates, self.experts(x))  # [B, heads, H]
        outputs = [head(mixture) for head, mixture in zip(heads, mixtures.unbind(1), strict=True)]
        n_steps = self.schema.n_steps
        prediction = to_prediction(self.head, torch.stack(outputs[:n_steps], dim=1))
        if self.estimator == "ips":
            return prediction
        # The first step has no imputed error; its column is 0 and never read.
        companion = [torch.zeros_like(outputs[0]), *outputs[n_steps:]]
        return replace(prediction, companion=torch.stack(companion, dim=1))

    def default_losses(self) -> tuple[Component, ...]:
        """Return the cross-entropy of every reach and the counterfactual term."""
        reach = (1.0, *[self.lam_g] * (self.schema.n_steps - 1))
        return (
            Component(name="reach_bce", options={"step_weights": reach}),
            *estimator_losses(self.schema, self.estimator, weight=self.lam_c, clip=self.clip, gradients=self.gradients),
        )
