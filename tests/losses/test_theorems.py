"""Theorems 2.1 and 3.1 of the APEM paper: weighted local space = entire space, by enumeration and by simulation.

Entire space D: all rows; local space C: rows with T_{i-1} = 1; pi = P_D(T_{i-1} = 1). Theorem 2.1 re-creates the loss
of p_i over D from C with the weights pi for T_i = 1 and pi (1 - p_i) / (p_{i-1} - p_i) for T_i = 0; theorem 3.1 that of
the drop T_{i-1} - T_i with pi for 1 and pi (1 - p_{i-1} + p_i) / p_i for 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from funnelcast.batch import Batch
from funnelcast.losses.dependence import Dependence
from funnelcast.losses.reach_bce import ReachBce
from funnelcast.losses.transition_bce import TransitionBce
from funnelcast.prediction import Prediction
from funnelcast.schema import Schema

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
ATOMS = 200


def bce(guess: Array, label: Array) -> Array:
    result: Array = -(label * np.log(guess) + (1 - label) * np.log1p(-guess))
    return result


def mse(guess: Array, label: Array) -> Array:
    return np.square(guess - label)


def absolute(guess: Array, label: Array) -> Array:
    return np.abs(guess - label)


class World:
    """A finite X with known probabilities, and any pair of predictors."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.mass = draw.dirichlet(np.ones(ATOMS))
        self.former = draw.uniform(0.05, 0.95, ATOMS)  # p_{i-1}
        self.reach = self.former * draw.uniform(0.05, 0.95, ATOMS)  # p_i
        self.guess = draw.uniform(0.02, 0.3, ATOMS)  # f_i, or the guessed drop; low, so that it errs on one side
        self.pi = float(self.mass @ self.former)

    def weights_2_1(self) -> tuple[Array, Array]:
        """Weight of T_i = 1 and of T_i = 0."""
        return np.full(ATOMS, self.pi), self.pi * (1 - self.reach) / (self.former - self.reach)

    def weights_3_1(self) -> tuple[Array, Array]:
        """Weight of a drop of 1 and of 0."""
        return np.full(ATOMS, self.pi), self.pi * (1 - self.former + self.reach) / self.reach


LOSSES = [bce, mse, absolute]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_theorem_2_1_by_enumeration(loss: Callable[[Array, Array], Array], seed: int) -> None:
    w = World(seed)
    one, zero = loss(w.guess, np.ones(ATOMS)), loss(w.guess, np.zeros(ATOMS))
    entire = w.mass @ (w.reach * one + (1 - w.reach) * zero)
    weight_one, weight_zero = w.weights_2_1()
    share = w.mass / w.pi  # P_C(x, T_i) = P_D(x, T_i, T_{i-1} = 1) / pi
    local = share @ (w.reach * weight_one * one + (w.former - w.reach) * weight_zero * zero)
    assert local == pytest.approx(entire, rel=1e-12, abs=1e-12)
    unweighted = share @ (w.reach * one + (w.former - w.reach) * zero)
    assert abs(unweighted - entire) > 0.01


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_theorem_3_1_by_enumeration(loss: Callable[[Array, Array], Array], seed: int) -> None:
    w = World(seed)
    one, zero = loss(w.guess, np.ones(ATOMS)), loss(w.guess, np.zeros(ATOMS))
    drop = w.former - w.reach  # P(T_{i-1} = 1, T_i = 0)
    entire = w.mass @ (drop * one + (1 - drop) * zero)
    weight_one, weight_zero = w.weights_3_1()
    share = w.mass / w.pi
    local = share @ (drop * weight_one * one + w.reach * weight_zero * zero)
    assert local == pytest.approx(entire, rel=1e-12, abs=1e-12)
    unweighted = share @ (drop * one + w.reach * zero)
    assert abs(unweighted - entire) > 0.01


def test_positivity_is_needed() -> None:
    w = World(0)
    w.reach[7] = w.former[7]  # at this x everyone who came this far goes on: C has no row with T_i = 0 there
    one, zero = bce(w.guess, np.ones(ATOMS)), bce(w.guess, np.zeros(ATOMS))
    entire = w.mass @ (w.reach * one + (1 - w.reach) * zero)
    with np.errstate(divide="ignore"):
        weight_one, weight_zero = w.weights_2_1()
    assert np.isinf(weight_zero[7])
    seen = (w.former - w.reach) > 0
    found = np.where(seen, (w.former - w.reach) * np.where(seen, weight_zero, 0.0), 0.0)
    local = w.mass / w.pi @ (w.reach * weight_one * one + found * zero)
    missing = w.mass[7] * (1 - w.reach[7]) * zero[7]
    assert missing > 1e-4
    assert entire - local == pytest.approx(missing, rel=1e-9)


def all_outcomes(w: World) -> tuple[Batch, Index, Index]:
    """Every atom with its outcomes (0, 0), (1, 0), (1, 1), weighted by probability; also atom and outcome of a row."""
    atom: Index = np.tile(np.arange(ATOMS), 3)
    outcome: Index = np.repeat(np.arange(3), ATOMS)
    labels = np.array([[0, 0], [1, 0], [1, 1]])[outcome]
    chance = w.mass[atom] * np.choose(outcome, [1 - w.former[atom], (w.former - w.reach)[atom], w.reach[atom]])
    observed = torch.ones(len(atom), 2, dtype=torch.bool)
    ids = torch.from_numpy(atom[:, None])
    return Batch(ids, torch.from_numpy(labels).double(), observed, torch.from_numpy(chance)), atom, outcome


def logit(p: Array) -> torch.Tensor:
    return torch.from_numpy(np.log(p) - np.log1p(-p))


def test_reach_loss_on_weighted_local_rows_is_the_reach_loss_on_all_rows(make_schema: Callable[[int], Schema]) -> None:
    w = World(1)
    batch, atom, outcome = all_outcomes(w)
    prediction = Prediction.from_reach(torch.stack([logit(w.former), logit(w.guess)], dim=1)[atom])
    loss = ReachBce(make_schema(2), step_weights=(0.0, 1.0))
    entire = loss(prediction, batch).total(batch.weight).item()
    weight_one, weight_zero = w.weights_2_1()
    theorem = np.choose(outcome, [0.0 * atom, weight_zero[atom] / w.pi, weight_one[atom] / w.pi])
    value = loss(prediction, batch).value[:, 1].numpy()
    assert entire == pytest.approx(batch.weight.numpy() @ (theorem * value), rel=1e-6)


def test_dependence_on_weighted_local_rows_is_dependence_on_all_rows(make_schema: Callable[[int], Schema]) -> None:
    w = World(2)
    batch, atom, outcome = all_outcomes(w)
    prediction = Prediction.from_reach(torch.stack([logit(w.guess), logit(w.guess / 2)], dim=1)[atom])
    loss = Dependence(make_schema(2))(prediction, batch)
    weight_one, weight_zero = w.weights_3_1()
    theorem = np.choose(outcome, [0.0 * atom, weight_one[atom] / w.pi, weight_zero[atom] / w.pi])
    local = batch.weight.numpy() @ (theorem * loss.value[:, 1].numpy())
    assert loss.total(batch.weight).item() == pytest.approx(local, rel=1e-6)


def test_transition_loss_with_inverse_propensity_is_the_ideal_loss_of_the_transition(
    make_schema: Callable[[int], Schema],
) -> None:
    # Another weight for another aim: pi / p_{i-1}(x) re-creates E_x[c_i e(1, f) + (1 - c_i) e(0, f)] of the transition.
    w = World(3)
    batch, atom, _ = all_outcomes(w)
    prediction = Prediction.from_transitions(torch.stack([logit(w.former), logit(w.guess)], dim=1)[atom])
    loss = TransitionBce(make_schema(2), step_weights=(0.0, 1.0))(prediction, batch)
    inverse = batch.weight.numpy() * loss.mask[:, 1].numpy() / w.former[atom]
    c = w.reach / w.former
    ideal = w.mass @ (c * bce(w.guess, np.ones(ATOMS)) + (1 - c) * bce(w.guess, np.zeros(ATOMS)))
    assert inverse @ loss.value[:, 1].numpy() == pytest.approx(ideal, rel=1e-6)
    assert abs(loss.total(batch.weight).item() - ideal) > 0.01


def test_theorems_by_simulation() -> None:
    w, draw, rows = World(4), np.random.default_rng(11), 1_000_000
    x = draw.choice(ATOMS, rows, p=w.mass)
    former = draw.random(rows) < w.former[x]
    reached = former & (draw.random(rows) < w.reach[x] / w.former[x])
    for label, (weight_one, weight_zero) in (
        (reached, w.weights_2_1()),
        (former & ~reached, w.weights_3_1()),
    ):
        value = bce(w.guess[x], label.astype(float))
        weight = np.where(label, weight_one[x], weight_zero[x]) / w.pi
        difference = former * weight * value - value  # mean 0 if the theorem holds
        z = difference.mean() / (difference.std() / np.sqrt(rows))
        assert abs(z) < 4
        plain = former / w.pi * value - value
        assert abs(plain.mean() / (plain.std() / np.sqrt(rows))) > 20  # without weights it does not
