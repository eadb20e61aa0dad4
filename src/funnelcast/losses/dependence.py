"""Squared error of the drop between two steps, which ties their heads together."""

from __future__ import annotations

import torch
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.objective import StepLoss, per_step, require_chain
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES
from funnelcast.schema import Schema

__all__ = ["Dependence"]


@LOSSES.register
class Dependence:
    """Squared error of p_{i-1} - p_i against the label o_{i-1} - o_i over the entire space, the paper's L_D.

    L_D = sum_{i>=2} sigma_{i-1} / M sum_j [ (o_{i-1,j} - o_ij) - (p_{i-1,j} - p_ij) ]^2

    o_{i-1} - o_i is 1 on a row that reached step i-1 and stopped there, so p_{i-1} - p_i = P(T_{i-1} = 1, T_i = 0 | x)
    at the minimum. It ties two heads but does not force p_i <= p_{i-1}. The loss of a pair stands in the column of its
    later step; the first column is 0 and never counted, so a funnel of one step has the loss 0.

    NOTE[paper]: Table 1 and equation 4 carry the opposite sign, o_i - o_{i-1}; equations 21 and 23 and the text below
    equation 4 carry this one, the only one under which the label is never negative. The paper does not say which
    sigma it used; 1 is our choice. Cross-entropy is not defined here, since p_{i-1} - p_i may be negative.

    Args:
        schema: the funnel.
        sigma: weight >= 0 of each of the S-1 pairs of neighbouring steps, one number or a list; 1 by default.

    Raises:
        ConfigError: the number of weights is not S-1, or one is negative.

    Source: APEM paper, section 3.3, equations 21 and 23; section 2.1, equation 3.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> batch = Batch.of(torch.zeros(1, 1, dtype=torch.int32), torch.tensor([[1, 0]]))
        >>> Dependence(schema)(Prediction.from_transitions(torch.zeros(1, 2)), batch).value.tolist()
        [[0.0, 0.5625]]
    """

    def __init__(self, schema: Schema, *, sigma: tuple[float, ...] | float | None = None) -> None:
        require_chain(schema, "dependence")
        pairs = per_step("sigma", sigma, schema.n_steps - 1)
        self.step_weights: Tensor = torch.cat([torch.zeros(1), pairs])  # [S]

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row and pair; a pair counts where both of its labels are observed."""
        reach, labels, observed = prediction.reach, batch.labels, batch.observed
        error = (labels[:, :-1] - labels[:, 1:]) - (reach[:, :-1] - reach[:, 1:])  # [B, S-1]
        value = torch.cat([0.0 * reach[:, :1], error.square()], dim=1)  # [B, S]
        both = torch.cat([torch.zeros_like(observed[:, :1]), observed[:, :-1] & observed[:, 1:]], dim=1)
        return StepLoss(value, both, both, self.step_weights)
