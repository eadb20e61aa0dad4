"""Several predictions of the same rows as one: the mean of their losses, or the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from funnelcast.prediction import Prediction

__all__ = ["mean_of_losses", "mean_of_probabilities"]


def mean_of_losses(members: Sequence[Prediction]) -> Prediction:
    """Average every log-probability over the members: log p = mean_m log p_m and log(1-p) = mean_m log(1 - p_m).

    The pair is no probability and its complement. But a loss that is linear in the logarithms, as cross-entropies on
    reach and on transitions are, is exactly the mean of the members' losses, so that each learns on its own.

    Args:
        members: M >= 1 predictions [B, S] without companion, penalty or value.

    Example:
        >>> members = [Prediction.from_reach(torch.tensor([[z]])) for z in (-1.0, 3.0)]
        >>> bce = [-m.log_reach.item() for m in members]
        >>> abs(-mean_of_losses(members).log_reach.item() - sum(bce) / 2) < 1e-6
        True
    """
    return Prediction(*(torch.stack(field).mean(0) for field in zip(*map(_logs, members), strict=True)))


def mean_of_probabilities(members: Sequence[Prediction]) -> Prediction:
    """Average probabilities: p_i = mean_m p_mi, and c_i = sum_m p_m,i-1 c_mi / sum_m p_m,i-1 with p_m,0 = 1.

    So c_i is what a mixture of the members says: p_i = p_{i-1} c_i wherever it holds in each of them.

    Args:
        members: M >= 1 predictions [B, S] of a chain, without companion, penalty or value.

    Example:
        >>> members = [Prediction.from_transitions(torch.tensor([[z, z]])) for z in (0.0, 40.0)]
        >>> mean = mean_of_probabilities(members)  # p: .5 and .25, 1 and 1
        >>> [round(p, 4) for p in mean.reach[0].tolist()], [round(c, 4) for c in mean.transition[0].tolist()]
        ([0.75, 0.625], [0.75, 0.8333])
    """
    if len(members) == 1:
        return members[0]
    p, not_p, c, not_c = (torch.stack(field) for field in zip(*map(_logs, members), strict=True))  # [M, B, S]
    weight = torch.cat([torch.zeros_like(p[:, :, :1]), p[:, :, :-1]], dim=2)  # log p_m,i-1
    total = torch.logsumexp(weight, 0)
    count = math.log(len(members))
    # Rounding may lift a mean of probabilities above 1 by an ulp.
    return Prediction(
        *(
            log.clamp(max=0.0)
            for log in (
                torch.logsumexp(p, 0) - count,
                torch.logsumexp(not_p, 0) - count,
                torch.logsumexp(weight + c, 0) - total,
                torch.logsumexp(weight + not_c, 0) - total,
            )
        )
    )


def _logs(prediction: Prediction) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four fields that every prediction has."""
    return (
        prediction.log_reach,
        prediction.log_not_reach,
        prediction.log_transition,
        prediction.log_not_transition,
    )
