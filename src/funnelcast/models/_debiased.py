"""What models with debiased transitions share: the choice of the estimator, its first values, its loss."""

from __future__ import annotations

import math
from typing import Literal

from funnelcast.config import Component
from funnelcast.errors import ConfigError
from funnelcast.layers import log_odds
from funnelcast.objective import check_weights, per_step
from funnelcast.schema import Schema

__all__ = ["Estimator", "Gradients", "check_debiasing", "estimator_losses", "first_imputed_errors", "first_step_loss"]

Estimator = Literal["ips", "dr"]
Gradients = Literal["joint", "split"]


def first_imputed_errors(schema: Schema) -> list[float]:
    """Return for the steps 2..S the u with softplus(u) = entropy of the step's transition rate on TRAIN.

    That entropy is the mean error of towers that start at the rate; a rate of 1 is cut, as for the towers.

    Args:
        schema: the funnel with its rates.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> (start,) = first_imputed_errors(Schema(dataset="shop", fields=(Field(name="item", size=9),), steps=steps))
        >>> round(math.log1p(math.exp(start)), 4)
        0.6931
    """
    starts = []
    for step in schema.steps[1:]:
        logit = log_odds(step.transition_rate)
        rate = 1 / (1 + math.exp(-logit))
        entropy = math.log1p(math.exp(-logit)) + (1 - rate) * logit  # -log r + (1 - r) log(r / (1 - r))
        starts.append(math.log(math.expm1(entropy)))
    return starts


def check_debiasing(schema: Schema, clip: tuple[float, ...] | float, **weights: float) -> None:
    """Refuse a weight below 0, a clip outside [0, 1] and another number of clips than transitions from step 2 on.

    Args:
        schema: the funnel.
        clip: smallest propensity, one number or one for each of the S-1 transitions.
        **weights: values by the option's name.

    Raises:
        ConfigError: a value is out of range, or the number of clips is not S-1.
    """
    check_weights(**weights)
    if bool((per_step("clip", clip, schema.n_steps - 1) > 1.0).any()):
        raise ConfigError(f"option 'clip' should hold probabilities in [0, 1], received {clip!r}")


def first_step_loss(schema: Schema) -> Component:
    """Return the cross-entropy of the first step's reach alone; its transition is its reach, and needs no debiasing.

    Args:
        schema: the funnel.
    """
    return Component(name="reach_bce", options={"step_weights": (1.0, *[0.0] * (schema.n_steps - 1))})


def estimator_losses(
    schema: Schema, estimator: Estimator, *, weight: float, clip: tuple[float, ...] | float, gradients: Gradients
) -> tuple[Component, ...]:
    """Return the loss `transition_ips` or `transition_dr`; none for a funnel of one step, which has no such transition.

    Args:
        schema: the funnel.
        estimator: `ips` or `dr`.
        weight: weight of every transition from step 2 on.
        clip: smallest propensity, one number or one for each of those transitions.
        gradients: who learns from which part of `transition_dr`.
    """
    if schema.n_steps == 1:
        return ()
    options: dict[str, object] = {"step_weights": weight, "clip": clip}
    if estimator == "dr":
        options["gradients"] = gradients
    return (Component(name=f"transition_{estimator}", options=options),)
