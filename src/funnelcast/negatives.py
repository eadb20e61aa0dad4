"""Down-sampled negatives: what a model that saw a share of them learns, and the way back to the probabilities.

`funnelcast.data.negatives` draws the rows.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.layers import FunnelModel
from funnelcast.prediction import Prediction
from funnelcast.schema import Schema

__all__ = ["add_correction", "check_entry", "correct", "sampled_rates"]

Model = TypeVar("Model", bound=FunnelModel)


def correct(prediction: Prediction, share: float) -> Prediction:
    """Turn what holds among the sampled rows into what holds among all rows.

    With q_i the reach among the rows kept, a the share of the rows with T_1 = 0 that were kept, and
    m = 1 - q_1 + a q_1:

        p_i = a q_i / m,   1 - p_i = ((1 - a) (1 - q_1) + a (1 - q_i)) / m,   c_i = q_i / q_{i-1} for i >= 2

    A row with T_i = 1 has T_1 = 1 and is always kept, so every reach is divided by the same P(kept | x) = a / m and
    their ratios, the transitions from step 2 on, stay. Both numerators are sums of what is >= 0, so nothing cancels,
    also where independent heads say q_i > q_1. The value given the last step stays as well.

    Args:
        prediction: what the model says of sampled rows.
        share: a in (0, 1].

    Source: He et al. 2014, "Practical lessons from predicting clicks on ads at Facebook", section 6.3, for one step;
        the steps after it by the argument above.

    Example:
        >>> p = correct(Prediction.from_transitions(torch.zeros(1, 2)), 0.5)  # q = 1/2, 1/4
        >>> p.reach, p.transition
        (tensor([[0.3333, 0.1667]]), tensor([[0.3333, 0.5000]]))
    """
    if share == 1.0:
        return prediction
    log_q, log_not_q = prediction.log_reach.double(), prediction.log_not_reach.double()  # [B, S]
    log_a, log_rest = math.log(share), math.log1p(-share)
    log_m = torch.logaddexp(log_not_q[:, :1], log_a + log_q[:, :1])  # [B, 1]
    log_not_p = torch.logaddexp(log_rest + log_not_q[:, :1], log_a + log_not_q) - log_m
    log_p, log_not_p = (log_a + log_q - log_m).clamp(max=0.0), log_not_p.clamp(max=0.0)

    def first(value: Tensor, of: Tensor) -> Tensor:
        return torch.cat([value[:, :1].to(of.dtype), of[:, 1:]], dim=1)

    return replace(
        prediction,
        log_reach=log_p.to(prediction.log_reach.dtype),
        log_not_reach=log_not_p.to(prediction.log_reach.dtype),
        log_transition=first(log_p, prediction.log_transition),
        log_not_transition=first(log_not_p, prediction.log_not_transition),
    )


def sampled_rates(schema: Schema, share: float) -> Schema:
    """Return the schema with the rates of the rows kept, at which a model's first biases should stand.

    r'_i = r_i / (r_1 + a (1 - r_1)); transitions from step 2 on stay.

    Args:
        schema: the funnel with the rates of all TRAIN rows.
        share: a in (0, 1].

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=n, reach_rate=r, transition_rate=0.2) for n, r in [("click", 0.2), ("buy", 0.04)])
        >>> schema = sampled_rates(Schema(dataset="shop", fields=(Field(name="item", size=9),), steps=steps), 0.25)
        >>> [(round(step.reach_rate, 3), round(step.transition_rate, 3)) for step in schema.steps]
        [(0.5, 0.5), (0.1, 0.2)]
    """
    if share == 1.0:
        return schema
    kept = schema.steps[0].reach_rate + share * (1.0 - schema.steps[0].reach_rate)
    steps = [step.model_copy(update={"reach_rate": step.reach_rate / kept}) for step in schema.steps]
    steps[0] = steps[0].model_copy(update={"transition_rate": steps[0].reach_rate})
    return schema.model_copy(update={"steps": tuple(steps)})


def check_entry(schema: Schema) -> None:
    """Refuse a funnel in which a row may take a later step without the first one.

    Args:
        schema: the funnel.

    Raises:
        ConfigError: a step does not lie behind the first one, so that its rate among the rows kept says too little.
    """
    for step, parents in zip(schema.steps[1:], schema.graph.edges[1:], strict=True):
        if any(branch != (0, True) and branch[0] < 1 for branch in parents):
            raise ConfigError(
                f"'train.negatives' should be 1.0 in this funnel: its step '{step.name}' can happen without the first "
                f"step '{schema.steps[0].name}', whose negatives are sampled"
            )


def add_correction(model: Model, share: float) -> Model:
    """Make a model answer for all rows in evaluation mode; in training mode, where losses read it, for those kept.

    Args:
        model: it is changed in place.
        share: a in (0, 1].

    Returns:
        The model.
    """
    # No closure over the model, so that a copy of a model, such as a mean of weights, corrects its own answer.
    model.register_forward_hook(partial(_answer, share))
    return model


def _answer(share: float, model: nn.Module, _: tuple[Tensor], prediction: Prediction) -> Prediction:
    return prediction if model.training else correct(prediction, share)
