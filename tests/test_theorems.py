"""`verify`: both sides of the theorems by hand, the law over random worlds, and a broken weight that is found."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import Command

from funnelcast import theorems
from funnelcast.errors import ConfigError
from funnelcast.theorems import World, random_world, verify

# P_D: nobody 1/2, step 1 alone 3/8, both steps 1/8. The guesses of the steps are 0.3 and 0.2, that of the drop 0.1.
SMALL = World(np.ones(1), np.array([[0.5, 0.25]]), np.array([[0.3, 0.2]]))


def sides(record: dict[str, Any], theorem: str, loss: str, step: int = 2) -> list[float]:
    (check,) = [c for c in record["checks"] if (c["theorem"], c["loss"], c["step"]) == (theorem, loss, step)]
    return [side["value"] for side in check["sides"]]


def test_both_theorems_by_hand() -> None:
    record = verify(SMALL, rows=1000)
    # L(f_1, T_1) = 0.5 * 0.49 + 0.5 * 0.09 = 0.29. Over D: 0.125 * 0.64 + 0.875 * 0.04 = 0.115; over C the chances are
    # 0.25 and 0.75 and the weights 0.5 * 0.125 / 0.125 and 0.5 * 0.875 / 0.375: 0.08 + 0.035 again, unweighted 0.19.
    assert sides(record, "2.1", "squared") == pytest.approx([0.405, 0.405, 0.48], abs=1e-15)
    # A drop has the chance 0.375 over D and 0.75 over C: 0.375 * 0.81 + 0.625 * 0.01, unweighted 0.75 * 0.81 + 0.0025.
    assert sides(record, "3.1", "squared") == pytest.approx([0.31, 0.31, 0.61], abs=1e-15)
    assert sides(record, "3.1", "absolute") == pytest.approx([0.375 * 0.9 + 0.0625] * 2 + [0.75 * 0.9 + 0.025])
    cross = -(np.log(0.3) + np.log(0.7)) / 2 - 0.125 * np.log(0.2) - 0.875 * np.log(0.8)
    assert sides(record, "2.1", "cross-entropy")[:2] == pytest.approx([cross, cross], abs=1e-15)


def test_standard_error_by_hand() -> None:
    (check,) = [c for c in verify(SMALL, rows=400)["checks"] if (c["theorem"], c["loss"]) == ("3.1", "squared")]
    # Over C unweighted the loss is 0.81 or 0.01 with chances 3/4 and 1/4, over D with 3/8 and 5/8.
    spread = 0.8**2 * (3 / 16 + 15 / 64)
    assert check["sides"][2]["standard_error"] == pytest.approx(np.sqrt(spread / 400))
    assert check["sides"][0]["standard_error"] is None


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 10_000))
def test_weighted_sides_agree_and_unweighted_ones_do_not(cells: int, steps: int, seed: int) -> None:
    for check in verify(random_world(cells, steps, seed), rows=10)["checks"]:
        assert check["holds_exactly"] and check["unweighted_differs"]


def test_the_simulation_agrees_within_its_error_and_tells_the_unweighted_side_apart() -> None:
    record = verify(random_world(200, 3, 0), rows=1_000_000)
    assert record["holds"] and len(record["checks"]) == 2 * 2 * 3
    for check in record["checks"]:
        _, weighted, unweighted = check["sides"]
        assert abs(weighted["simulated_difference"]) < 4 * weighted["standard_error"] < 0.01
        assert abs(unweighted["simulated_difference"]) > 100 * unweighted["standard_error"]


def test_standard_errors_describe_the_spread_of_the_simulation() -> None:
    world = random_world(20, 2, 5)
    z = []
    for seed in range(200):
        (check,) = [c for c in verify(world, 1000, seed)["checks"] if (c["theorem"], c["loss"]) == ("2.1", "absolute")]
        z.append(check["sides"][1]["simulated_difference"] / check["sides"][1]["standard_error"])
    assert abs(np.mean(z)) < 0.25 and 0.85 < np.std(z) < 1.15


def test_seeds_repeat() -> None:
    world = random_world(10, 2, 3)
    assert verify(world, 100, seed=4) == verify(world, 100, seed=4) != verify(world, 100, seed=5)


@pytest.mark.parametrize("cells", [1, 7])
def test_joint_is_a_distribution(cells: int) -> None:
    world = random_world(cells, 3, 1)
    assert world.joint.shape == (cells, 4)
    assert world.joint.sum() == pytest.approx(1) and (world.joint > 0).all()
    assert world.joint.sum(axis=1) == pytest.approx(world.mass)


def test_impossible_worlds_are_refused() -> None:
    one, good = np.ones(1), np.array([[0.5, 0.25]])
    for transition in (np.array([[0.5, 1.0]]), np.array([[0.0, 0.5]])):
        with pytest.raises(ConfigError, match=r"transition should be in \(0, 1\)"):
            World(one, transition, good)
    with pytest.raises(ConfigError, match="guess should fall along the funnel"):
        World(one, good, np.array([[0.2, 0.2]]))
    with pytest.raises(ConfigError, match="numbers > 0 of sum 1, received the sum 2"):
        World(2 * one, good, good)
    with pytest.raises(ConfigError, match="S >= 2"):
        World(one, good[:, :1], good[:, :1])


@pytest.fixture
def command(command: Command) -> Command:
    """Run `funnelcast verify ...`."""
    return partial(command, "verify")


def test_command_prints_and_writes(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "theorems.json"
    words = ("--cells", "30", "--steps", "2", "--rows", "5000", "--seed", "1")
    code, text, err = command(*words, "--out", str(out))
    assert (code, err) == (0, "")
    assert "6 of 6 equalities hold with the weights" in text and "without weights 6 are broken" in text
    record = json.loads(out.read_text())
    assert (record["format"], record["cells"], record["steps"], record["rows"], record["seed"]) == (1, 30, 2, 5000, 1)
    assert record["holds"] and f"{record['checks'][0]['sides'][0]['value']:.6f}" in text


def test_a_broken_weight_is_found(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    right = theorems._weights
    monkeypatch.setattr(theorems, "_weights", lambda joint, local, label: right(joint, local, label) * (1 + 1e-9))
    record = verify(random_world(5, 2, 0), rows=100)
    assert not record["holds"] and not any(check["holds_exactly"] for check in record["checks"])
    code, text, _ = command("--cells", "5", "--steps", "2", "--rows", "100")
    assert code == 1 and "0 of 6 equalities hold" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "1"), "steps should be a whole number >= 2, received 1"),
        (("--cells", "0"), "cells should be a whole number >= 1, received 0"),
        (("--rows", "0"), "rows should be a whole number >= 1, received 0"),
        (("--seed", "-1"), "seed should be a whole number >= 0, received -1"),
    ],
)
def test_command_refuses(command: Command, words: tuple[str, ...], message: str) -> None:
    code, _, err = command(*words)
    assert code == 2 and message in err
