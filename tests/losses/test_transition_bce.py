"""TransitionBce with numbers worked out by hand, and as the likelihood of the whole chain."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import pytest
import torch

from funnelcast.batch import Batch
from funnelcast.errors import ConfigError
from funnelcast.losses.transition_bce import TransitionBce
from funnelcast.prediction import Prediction
from funnelcast.schema import Schema

MakeSchema = Callable[[int], Schema]
# c = (1/2, 1/4, 3/4) on every row
PREDICTION = Prediction.from_transitions(torch.tensor([[0.0, -math.log(3), math.log(3)]]).expand(4, 3))


def test_by_hand(make_schema: MakeSchema, batch: Batch) -> None:
    loss = TransitionBce(make_schema(3))(PREDICTION, batch)
    # local space: step 1 all rows; step 2 rows 1 and 2 (row 4 is unobserved); step 3 row 1 (row 4: former unknown)
    assert loss.mask.tolist() == [[True, True, True], [True, True, False], [True, False, False], [True, False, False]]
    sums = [7 * math.log(2), math.log(4) + 2 * math.log(4 / 3), math.log(4 / 3)]
    rows, space = [7, 4, 7], [7, 3, 1]
    by_rows = loss.total(batch.weight).item()
    assert by_rows == pytest.approx(sum(s / n for s, n in zip(sums, rows, strict=True)), rel=1e-6)
    by_space = TransitionBce(make_schema(3), normalise="space")(PREDICTION, batch).total(batch.weight).item()
    assert by_space == pytest.approx(sum(s / n for s, n in zip(sums, space, strict=True)), rel=1e-6)


def test_rows_is_the_likelihood_of_the_chain(make_schema: MakeSchema) -> None:
    chains = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)]
    logits = torch.tensor([[0.3, -1.2, 0.8], [-0.4, 0.5, 1.1], [1.7, 0.2, -0.6], [-0.9, 2.0, 0.1]], dtype=torch.float64)
    c = torch.sigmoid(logits).numpy()
    likelihoods = []
    for row, chain in zip(c, chains, strict=True):
        stop = sum(chain)  # steps reached, then one that was not
        likelihoods.append(np.prod(row[:stop]) * (1 - row[stop] if stop < 3 else 1.0))
    batch = Batch.of(torch.zeros(4, 1, dtype=torch.int32), torch.tensor(chains))
    total = TransitionBce(make_schema(3))(Prediction.from_transitions(logits), batch).total(batch.weight)
    assert total.item() == pytest.approx(-np.mean(np.log(likelihoods)), rel=1e-6)


def test_likelihood_sums_to_one_over_all_chains(make_schema: MakeSchema) -> None:
    logits = torch.tensor([[0.3, -1.2, 0.8]])
    loss = TransitionBce(make_schema(3))
    mass = 0.0
    for chain in product((0, 1), repeat=3):
        if all(later <= former for former, later in pairwise(chain)):
            one = Batch.of(torch.zeros(1, 1, dtype=torch.int32), torch.tensor([chain]))
            mass += math.exp(-loss(Prediction.from_transitions(logits), one).total(one.weight).item())
    assert mass == pytest.approx(1.0, rel=1e-6)


def test_step_outside_its_space_gets_no_gradient(make_schema: MakeSchema) -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    batch = Batch.of(torch.zeros(2, 1, dtype=torch.int32), torch.tensor([[0, 0, 0], [1, 0, 0]]))
    TransitionBce(make_schema(3))(Prediction.from_transitions(logits), batch).total(batch.weight).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[0.25, 0.0, 0.0], [-0.25, 0.25, 0.0]]))


def test_options(make_schema: MakeSchema, batch: Batch) -> None:
    loss = TransitionBce(make_schema(3), step_weights=(0.0, 0.0, 2.0), normalise="space")
    assert loss(PREDICTION, batch).total(batch.weight).item() == pytest.approx(2 * math.log(4 / 3), rel=1e-6)
    with pytest.raises(ConfigError, match=r"option 'normalise' .* received 'row'; did you mean 'rows'.*rows, space"):
        TransitionBce(make_schema(3), normalise="row")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="option 'step_weights'"):
        TransitionBce(make_schema(3), step_weights=(1.0,))
