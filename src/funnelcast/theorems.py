"""Theorems 2.1 and 3.1 of the APEM paper, both sides by enumeration of a finite world and by simulation.

Entire space D: all rows; local space C: rows with T_{i-1} = 1. Shape legend: X cells (values of x), S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.errors import ConfigError

__all__ = ["LOSSES", "TOLERANCE", "World", "random_world", "verify"]

Floats = NDArray[np.float64]
Loss = Callable[[Floats, Floats], Floats]
TOLERANCE = 1e-10  # of the enumeration, relative to the entire side where that is above 1
LARGEST_Z = 4.0  # standard errors that a true equality may be off in a simulation
_LOWEST, _HIGHEST = 0.1, 0.9  # of a random transition, so that no weight is a division by almost nothing


def _cross_entropy(guess: Floats, label: Floats) -> Floats:
    result: Floats = -(label * np.log(guess) + (1 - label) * np.log1p(-guess))
    return result


def _squared(guess: Floats, label: Floats) -> Floats:
    return np.square(guess - label)


def _absolute(guess: Floats, label: Floats) -> Floats:
    return np.abs(guess - label)


# The theorems hold for any loss.
LOSSES: Mapping[str, Loss] = {"cross-entropy": _cross_entropy, "squared": _squared, "absolute": _absolute}


@dataclass(frozen=True)
class World:
    """A finite X with known probabilities, and predictors that may be wrong in any way.

    Args:
        mass: [X] P(x) > 0, of sum 1.
        transition: [X, S] c_i(x) = P(T_i = 1 | T_{i-1} = 1, x) in (0, 1).
        guess: [X, S] f_i(x) in (0, 1), falling along the funnel so that the cross-entropy of a drop is defined.

    Raises:
        ConfigError: fewer than two steps, or a number out of its range. With c_i(x) = 0 or 1 some outcome of D has no
            row in C that could stand for it, and no weight helps.

    Example:
        >>> World(np.ones(1), np.array([[0.5, 0.25]]), np.array([[0.3, 0.2]])).joint.tolist()
        [[0.5, 0.375, 0.125]]
    """

    mass: Floats
    transition: Floats
    guess: Floats

    def __post_init__(self) -> None:
        shape = (len(self.mass), self.transition.shape[1])
        if shape[1] < 2 or self.transition.shape != shape or self.guess.shape != shape:
            raise ConfigError(
                f"transition and guess should be [X, S] with S >= 2 for mass [{shape[0]}], received "
                f"{list(self.transition.shape)} and {list(self.guess.shape)}"
            )
        if not ((self.mass > 0).all() and abs(self.mass.sum() - 1) < TOLERANCE):
            raise ConfigError(f"mass should hold numbers > 0 of sum 1, received the sum {self.mass.sum()}")
        for name in ("transition", "guess"):
            values = getattr(self, name)
            if not ((values > 0) & (values < 1)).all():
                raise ConfigError(f"{name} should be in (0, 1), received {values.min()} to {values.max()}")
        if not (np.diff(self.guess, axis=1) < 0).all():
            raise ConfigError("guess should fall along the funnel")

    @property
    def joint(self) -> Floats:
        """[X, S+1] P(x, depth), where depth is the number of steps that happened."""
        reach = np.cumprod(np.pad(self.transition, ((0, 0), (1, 0)), constant_values=1.0), axis=1)
        return self.mass[:, None] * -np.diff(reach, axis=1, append=0.0)


def random_world(cells: int, steps: int, seed: int) -> World:
    """Draw a world: P(x) from a flat Dirichlet, every c_i(x) and f_i(x) / f_{i-1}(x) uniform in [0.1, 0.9].

    Args:
        cells: number X of values of x, >= 1.
        steps: number S of steps, >= 2.
        seed: >= 0.

    Raises:
        ConfigError: a number is too small.

    Example:
        >>> random_world(3, 2, seed=0).joint.shape
        (3, 3)
    """
    for name, value, smallest in (("cells", cells, 1), ("steps", steps, 2), ("seed", seed, 0)):
        if value < smallest:
            raise ConfigError(f"{name} should be a whole number >= {smallest}, received {value}")
    draw = np.random.default_rng(seed)
    mass = draw.dirichlet(np.ones(cells))
    transition = draw.uniform(_LOWEST, _HIGHEST, (cells, steps))
    falling = np.cumprod(draw.uniform(_LOWEST, _HIGHEST, (cells, steps)), axis=1)
    return World(mass, transition, np.asarray(falling, np.float64))


@dataclass(frozen=True)
class _Task:
    """What a theorem says of one step: a label and a guess on every cell and depth.

    Args:
        label: [S+1] the label at each depth.
        guess: [X] what is predicted.
        common: [X, S+1] a loss over D that stands on both sides.
    """

    label: NDArray[np.bool_]
    guess: Floats
    common: Floats


def _tasks(world: World, step: int, loss: Loss) -> dict[str, _Task]:
    """Both theorems of step i = `step` (from 1): 2.1 of (T_{i-1}, T_i), 3.1 of the drop T_{i-1} - T_i."""
    depth = np.arange(world.transition.shape[1] + 1)
    former, reached = depth >= step - 1, depth >= step
    f_former, f_own = world.guess[:, step - 2], world.guess[:, step - 1]
    first = loss(f_former[:, None], former[None, :].astype(np.float64))
    return {
        "2.1": _Task(reached, f_own, first),
        "3.1": _Task(former & ~reached, f_former - f_own, np.zeros_like(first)),
    }


def _weights(joint: Floats, local: NDArray[np.bool_], label: NDArray[np.bool_]) -> Floats:
    """[X, S+1] P(T_{i-1} = 1) P(label | x) / P(label, T_{i-1} = 1 | x), from sums over the joint table alone."""
    share = joint[:, local].sum()
    weights = np.empty_like(joint)
    for value in (False, True):
        same = label == value
        weights[:, same] = (share * joint[:, same].sum(axis=1) / joint[:, same & local].sum(axis=1))[:, None]
    return weights


def _mean(chance: Floats, function: Floats) -> float:
    """Mean of a function of (x, depth) under probabilities, or under the counts of drawn rows.

    Rows that share x and depth share the value, so their counts hold all that the rows say.
    """
    return float((chance * function).sum() / chance.sum())


def _variance(chance: Floats, function: Floats) -> float:
    return _mean(chance, np.square(function - _mean(chance, function)))


def _draw(chance: Floats, rows: int, draw: np.random.Generator) -> Floats:
    """Count rows drawn from P(x, depth)."""
    flat = chance.ravel() / chance.sum()
    return draw.multinomial(rows, flat).reshape(chance.shape).astype(np.float64)


def _check(name: str, step: int, world: World, loss: str, rows: int, draw: np.random.Generator) -> dict[str, Any]:
    """Compute all sides of one theorem for one step and loss."""
    task, joint = _tasks(world, step, LOSSES[loss])[name], world.joint
    local = np.arange(joint.shape[1]) >= step - 1
    inside = np.where(local, joint, 0.0) / joint[:, local].sum()  # P_C(x, depth)
    value = LOSSES[loss](task.guess[:, None], task.label[None, :].astype(np.float64))
    weights = _weights(joint, local, task.label)
    everyone, insiders = _draw(joint, rows, draw), _draw(inside, rows, draw)
    common, shared = _mean(joint, task.common), _mean(everyone, task.common)
    entire, seen = _mean(joint, value), _mean(everyone, value)
    sides = [_side("entire", common + entire, 0.0, shared + seen, 0.0, None)]
    for side, function in (("local, weighted", weights * value), ("local, unweighted", value)):
        own, found = _mean(inside, function), _mean(insiders, function)
        # Two independent samples; what both sides have in common cancels. The variance is exact, since a sample that
        # misses a rare large weight would think itself more precise than it is.
        error = float(np.sqrt((_variance(inside, function) + _variance(joint, value)) / rows))
        sides.append(_side(side, common + own, own - entire, shared + found, found - seen, error))
    return {"theorem": name, "step": step, "loss": loss, "sides": sides, **_verdict(sides)}


def _side(
    side: str, value: float, difference: float, simulated: float, off: float, error: float | None
) -> dict[str, Any]:
    return {
        "side": side,
        "value": value,
        "difference": difference,
        "simulated": simulated,
        "simulated_difference": off,
        "standard_error": error,
    }


def _verdict(sides: list[dict[str, Any]]) -> dict[str, bool]:
    """Say whether the weighted side equals the entire one, and whether the unweighted one is another number."""
    entire, weighted, unweighted = sides
    largest = TOLERANCE * max(1.0, abs(entire["value"]))
    return {
        "holds_exactly": abs(weighted["difference"]) <= largest,
        "holds_in_simulation": abs(weighted["simulated_difference"]) <= LARGEST_Z * weighted["standard_error"],
        "unweighted_differs": abs(unweighted["difference"]) > largest,
    }


def verify(world: World, rows: int = 1_000_000, seed: int = 0) -> dict[str, Any]:
    """Compare both sides of theorems 2.1 and 3.1 for every step from the second one on and three losses.

    Theorem 2.1: E_D[L(f_{i-1}, T_{i-1}) + L(f_i, T_i)] = E_D[L(f_{i-1}, T_{i-1})] + E_C[w(x, T_i) L(f_i, T_i)];
    theorem 3.1: E_D[L(f_{i-1} - f_i, T_{i-1} - T_i)] = E_C[w(x, T_{i-1} - T_i) L(f_{i-1} - f_i, T_{i-1} - T_i)],
    w(x, t) = P_D(T_{i-1} = 1) P_D(t | x) / P_D(t, T_{i-1} = 1 | x). The unweighted side has w = 1.

    Enumeration sums over all x and all outcomes. The simulation draws `rows` rows of D and, independently, as many of
    C; the standard error, known exactly in a finite world, is that of the difference of the two means.

    Args:
        world: X with its probabilities and predictors.
        rows: rows of each sample, >= 1.
        seed: of the simulation, >= 0.

    Returns:
        `{"format": 1, "cells", "steps", "rows", "seed", "tolerance", "largest_z", "checks", "holds"}`; a check has
        `theorem`, `step`, `loss`, three `sides` and what they say; `holds` is whether every equality holds.

    Raises:
        ConfigError: a number is too small.

    Source: APEM paper, equations (7)-(9) and (22).

    Example:
        >>> record = verify(random_world(cells=5, steps=2, seed=1), rows=1000)
        >>> record["holds"], len(record["checks"])
        (True, 6)
    """
    for name, value, smallest in (("rows", rows, 1), ("seed", seed, 0)):
        if value < smallest:
            raise ConfigError(f"{name} should be a whole number >= {smallest}, received {value}")
    draw = np.random.default_rng([seed, 1])  # another stream than the one that drew the world
    cells, steps = world.transition.shape
    checks = [
        _check(theorem, step, world, loss, rows, draw)
        for theorem in ("2.1", "3.1")
        for step in range(2, steps + 1)
        for loss in LOSSES
    ]
    return {
        "format": 1,
        "cells": cells,
        "steps": steps,
        "rows": rows,
        "seed": seed,
        "tolerance": TOLERANCE,
        "largest_z": LARGEST_Z,
        "checks": checks,
        "holds": all(check["holds_exactly"] and check["holds_in_simulation"] for check in checks),
    }
