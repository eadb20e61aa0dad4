"""ResFlow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.layers import MLP, FeatureEmbedding, FunnelModel, Tower, check_widths, reach_log_odds
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import HIDDEN, Choice, SearchSpace

__all__ = ["ResFlow"]


class Flow(nn.Module):
    """One step's network, whose layers each add to the same layer of the former step's network.

    Shapes: x [B, n_inputs] and the former step's layers [B, H_l] -> this step's layers [B, H_l], l = 1..L.
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MLP(n, (m,)) for n, m in pairwise([n_inputs, *hidden]))

    def forward(self, x: Tensor, former: Sequence[Tensor]) -> list[Tensor]:
        """Map x and what the former step found, nothing for the first step, to the outputs of all layers."""
        outputs: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            h = layer(outputs[-1] if outputs else x)
            outputs.append(h + former[number] if former else h)
        return outputs


@MODELS.register
class ResFlow(FunnelModel):
    """ResFlow, "Residual multi-task learner for applied ranking". Fu et al. (Shopee), KDD 2024, arXiv:2411.09705.

    h_k^0 = x = flatten(E[x]),  h_1^l = f_1^l(h_1^{l-1}),  h_k^l = f_k^l(h_k^{l-1}) + h_{k-1}^l  for k >= 2

    logit_1 = w_1 . h_1^L + b_1,  logit_k = logit_{k-1} + r_k,  r_k = w_k . h_k^L + b_k,  p_k = sigmoid(logit_k)

    f is a linear layer with ReLU. Each step's network adds to what the former step's network has found, layer by layer,
    and its logit is the former step's log-odds plus a residual. With `monotone` the residual is min(r_k, 0), so that
    reach cannot rise; where r_k > 0 the step then learns nothing from the row.

    There is no option `head`: the residual logit is the head.

    NOTE[paper]: of the paper only the abstract was read. The authors' code for two steps has the same additions, layer
    by layer and in the logit; it also has PReLU and batch normalisation, and weights positive rows and tasks by data
    set. That a third step adds to the sums of the second, and min(r_k, 0), are as reported: that code shows neither.

    Idea: each step's network adds to the former step's, layer by layer and in the logit.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        hidden: widths of the layers of every step's network, at least one; the same for all, since they are added.
        monotone: whether the residual of a logit may only lower it.

    Shapes: ids [B, W] -> x [B, F*D] -> h_k^l [B, H_l] -> reach logits [B, S].

    Raises:
        ConfigError: a width is not a whole number >= 1, or `hidden` is empty.

    Source: abstract; the authors' code, github.com/BrunoTruthAlliance/ResFlow, e-comm/resflow.py (the additions).

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.1) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> ResFlow(schema, hidden=(8, 4))(torch.tensor([[2], [3], [4]])).reach.shape
        torch.Size([3, 2])
    """

    search_space: ClassVar[SearchSpace] = {
        "hidden": HIDDEN,
        "monotone": Choice(False, True),
    }

    def __init__(
        self, schema: Schema, *, width: int = 18, hidden: tuple[int, ...] = (256, 128, 64), monotone: bool = False
    ) -> None:
        super().__init__(schema)
        check_widths(hidden=hidden)
        if not hidden:
            raise ConfigError("option 'hidden' should name at least one layer, received none")
        self.monotone = monotone
        self.embedding = FeatureEmbedding(schema, width)
        self.flows = nn.ModuleList(Flow(self.embedding.n_outputs, hidden) for _ in schema.steps)
        reach = reach_log_odds(schema)
        # A residual starts where the former step's log-odds plus it give the rate of TRAIN.
        starts = [reach[0], *(after - before for before, after in pairwise(reach))]
        self.towers = nn.ModuleList(Tower(hidden[-1], (), start=start) for start in starts)

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        x = self.embedding(ids).flatten(1)  # [B, F*D]
        former: list[Tensor] = []  # h_{k-1}^1 .. h_{k-1}^L
        logits: list[Tensor] = []
        for flow, tower in zip(self.flows, self.towers, strict=True):
            former = flow(x, former)
            logit = tower(former[-1])
            if logits:
                logit = logits[-1] + (logit.clamp(max=0.0) if self.monotone else logit)
            logits.append(logit)
        return Prediction.from_reach(torch.stack(logits, dim=1))
