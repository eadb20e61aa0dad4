"""Several predictions as one: losses and probabilities of the mean, by hand and as laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funnelcast.batch import Batch
from funnelcast.ensemble import mean_of_losses, mean_of_probabilities
from funnelcast.objective import objective
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES
from funnelcast.schema import Field, Schema, Step

LOGITS = st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=4)
STEPS = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.3) for name in "abc")
SCHEMA = Schema(dataset="toy", fields=(Field(name="item", size=3),), steps=STEPS)


def test_probabilities_by_hand() -> None:
    """p = (.5, .1) and (.25, .2): means .375 and .15, so c_2 = .4; 1 - c_2 = (.5 * .8 + .25 * .2) / .75 = .6."""
    p = torch.tensor([[[0.5, 0.1]], [[0.25, 0.2]]], dtype=torch.float64)
    mean = mean_of_probabilities([Prediction.from_reach(torch.logit(row)) for row in p])
    torch.testing.assert_close(mean.reach, torch.tensor([[0.375, 0.15]]))
    torch.testing.assert_close(mean.transition, torch.tensor([[0.375, 0.4]]))
    torch.testing.assert_close(mean.log_not_reach.exp(), torch.tensor([[0.625, 0.85]]))
    torch.testing.assert_close(mean.log_not_transition.exp(), torch.tensor([[0.625, 0.6]]))


@pytest.mark.parametrize("name", ["reach_bce", "transition_bce"])
def test_the_loss_of_the_mean_is_the_mean_of_the_losses(name: str) -> None:
    torch.manual_seed(0)
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    batch = Batch.of(torch.zeros(3, 1, dtype=torch.int32), labels)
    loss = LOSSES.create(name, SCHEMA, options={})
    members = [Prediction.from_transitions(2 * torch.randn(3, 3)) for _ in range(4)]
    expected = torch.stack([objective([loss], member, batch) for member in members]).mean()
    torch.testing.assert_close(objective([loss], mean_of_losses(members), batch), expected)


@given(LOGITS)
def test_a_mean_is_a_funnel(logits: list[list[float]]) -> None:
    members = [Prediction.from_transitions(torch.tensor([row])) for row in logits]
    mean = mean_of_probabilities(members)
    reach = torch.stack([member.reach for member in members])
    torch.testing.assert_close(mean.reach, reach.mean(0))
    torch.testing.assert_close(
        mean.log_reach[:, 1:], mean.log_reach[:, :-1] + mean.log_transition[:, 1:], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(mean.reach + mean.log_not_reach.exp(), torch.ones(1, 3))
    torch.testing.assert_close(mean.transition + mean.log_not_transition.exp(), torch.ones(1, 3))
    assert (mean.log_reach <= 0).all() and (mean.log_transition <= 0).all()


def test_one_member_is_itself() -> None:
    member = Prediction.from_reach(torch.tensor([[0.3, 2.0]]))  # a marginal pair that rises
    assert mean_of_probabilities([member]) is member
    assert torch.equal(mean_of_losses([member]).log_transition, member.log_transition)
