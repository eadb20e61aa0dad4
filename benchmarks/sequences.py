"""Confidence sequences and the split: false alarms, coverage and power over many simulated experiments.

python -m benchmarks.sequences [--runs 400] [--looks 40] [--seed 0] [--json build/sequences.json]

Every world is run without a lift (A/A) and with the lift that `abtest design` promises to find with 80 % power by the
last look. A look is what `abtest analyse` does at the end of a day, vectorised over the runs. `peeking` rejects where a
z-test at 5 % does at any look, `one look` where it does at the last one. A share of 5 % of 400 runs has a binomial
error of 1.1 %.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.experiment.assignment import assign
from funnelcast.experiment.design import Plan, detectable_lift
from funnelcast.experiment.looks import LEAST_USERS
from funnelcast.experiment.ratio import normal_quantile
from funnelcast.experiment.sample_ratio import MISMATCH_LEVEL, sample_ratio
from funnelcast.experiment.sequence import mixing_spread, tightest

Floats = NDArray[np.float64]
ALPHA = 0.05


@dataclass(frozen=True)
class Arm:
    """One arm at one look, for R runs.

    Args:
        rate: [R] r.
        error: [R] standard error of log r.
        events: [R] users with an event.
        users: [R] users with a unit.
    """

    rate: Floats
    error: Floats
    events: Floats
    users: Floats


def clustered(events: Floats, units: Floats) -> Arm:
    """`ratio` on the log scale for [R, U] counts: error = sqrt(U / (U - 1) sum (x / r - n)^2) / sum n."""
    total, users = units.sum(axis=1), np.count_nonzero(units, axis=1)
    rate = events.sum(axis=1) / total
    with np.errstate(divide="ignore", invalid="ignore"):
        square = ((events / rate[:, None] - units) ** 2).sum(axis=1) * users / (users - 1)
    return Arm(rate, np.sqrt(square) / total, np.count_nonzero(events, axis=1).astype(float), users.astype(float))


def counted(events: Floats, users: int) -> Arm:
    """The same where every user comes once and has an event or none."""
    rate = events / users
    with np.errstate(divide="ignore", invalid="ignore"):
        return Arm(rate, np.sqrt((1 - rate) / (rate * (users - 1))), events, np.full(len(events), float(users)))


Looks = Iterator[tuple[Arm, Arm]]
World = Callable[[np.random.Generator, int, int, float], Looks]


def new_users(rate: float, users: int) -> World:
    """Users who come once, so many a look and arm, each with an event or none."""

    def world(draw: np.random.Generator, runs: int, looks: int, lift: float) -> Looks:
        counts = [draw.binomial(users, p, (looks, runs)).cumsum(axis=0) for p in (rate, rate * (1 + lift))]
        for look in range(looks):
            yield tuple(counted(count[look].astype(float), users * (look + 1)) for count in counts)  # type: ignore[misc]

    return world


def returning_users(rate: float, users: int, shape: float = 2.0, alike: float = 8.0) -> World:
    """A fixed number of users an arm who come back all the time, some often; tastes and hence days are alike."""

    def world(draw: np.random.Generator, runs: int, looks: int, lift: float) -> Looks:
        activity = [draw.gamma(shape, 1 / shape, (runs, users)) for _ in range(2)]
        taste = [draw.beta(alike * rate, alike * (1 - rate), (runs, users)) * (1 + effect) for effect in (0.0, lift)]
        units, events = np.zeros((2, runs, users)), np.zeros((2, runs, users))
        for _ in range(looks):
            for arm in range(2):
                shown = draw.poisson(0.3 * activity[arm])
                units[arm] += shown
                events[arm] += draw.binomial(shown, np.minimum(taste[arm], 1))
            yield clustered(events[0], units[0]), clustered(events[1], units[1])

    return world


def one_purchase(rate: float, users: int, delay: float = 5.0) -> World:
    """Users who come at some look and buy once, if ever, so many looks later on average."""

    def world(draw: np.random.Generator, runs: int, looks: int, lift: float) -> Looks:
        entry = draw.integers(0, looks, (2, runs, users))
        chance = np.array([rate, rate * (1 + lift)])[:, None, None]
        buys = draw.random((2, runs, users)) < chance
        bought = np.where(buys, entry + draw.geometric(1 / (1 + delay), entry.shape) - 1, looks)
        for look in range(looks):
            here, done = (entry <= look).astype(float), (bought <= look).astype(float)
            yield clustered(done[0], here[0]), clustered(done[1], here[1])

    return world


def amounts(share: float, users: int, sigma: float = 1.0) -> World:
    """New users of whom few pay, amounts being lognormal."""

    def world(draw: np.random.Generator, runs: int, looks: int, lift: float) -> Looks:
        sums = np.zeros((2, 3, runs))  # sum, sum of squares, payers
        for look in range(looks):
            for arm, effect in enumerate((0.0, lift)):
                payers = draw.binomial(users, share, runs)
                values = draw.lognormal(0, sigma, (runs, payers.max())) * (1 + effect)
                values *= np.arange(payers.max()) < payers[:, None]
                sums[arm] += np.stack([values.sum(axis=1), (values**2).sum(axis=1), payers])
            yield tuple(_amount(sums[arm], users * (look + 1)) for arm in range(2))  # type: ignore[misc]

    return world


def _amount(sums: Floats, users: int) -> Arm:
    rate = sums[0] / users
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt((sums[1] / users - rate**2) / (users - 1)) / rate
    return Arm(rate, error, sums[2], np.full(len(rate), float(users)))


def radii(error: Floats, spread: float) -> Floats:
    """`sequence.radius` for many errors."""
    x = (spread / error) ** 2
    found: Floats = error * np.sqrt((1 + 1 / x) * (np.log1p(x) - 2 * np.log(ALPHA)))
    return found


def follow(world: World, runs: int, looks: int, lift: float, planned: float, seed: int) -> dict[str, Any]:
    """Run experiments and count what each rule says."""
    spread, z = mixing_spread(float(np.log1p(planned)), ALPHA), normal_quantile(1 - ALPHA)
    truth = np.log1p(lift)
    peeked, found, held = np.zeros(runs, bool), np.zeros(runs, bool), np.ones(runs, bool)
    first = np.full(runs, np.nan)
    last = np.zeros(runs, bool)
    for look, (a, b) in enumerate(world(np.random.default_rng(seed), runs, looks, lift), start=1):
        with np.errstate(divide="ignore", invalid="ignore"):
            middle, error = np.log(b.rate / a.rate), np.hypot(a.error, b.error)
        ready = np.minimum(a.events, b.events) >= LEAST_USERS
        middle, error = np.where(ready, middle, 0.0), np.where(ready, error, 1e9)
        half = radii(error, spread)
        last = np.abs(middle) > z * error
        peeked |= last
        first[(np.abs(middle) > half) & ~found] = look
        found |= np.abs(middle) > half
        held &= ~ready | (np.abs(middle - truth) <= half)
    return {
        "lift": lift,
        "peeking": float(peeked.mean()),
        "one_look": float(last.mean()),
        "sequence": float(found.mean()),
        "coverage": float(held.mean()),
        "median_look": float(np.median(first[found])) if found.any() else None,
    }


def last_variance(world: World, looks: int, seed: int) -> float:
    """v (1 / s_a + 1 / s_b) / N at the last look, from some A/A runs."""
    *_, (a, b) = world(np.random.default_rng(seed), 100, looks, 0.0)
    return float(np.mean(a.error**2 + b.error**2))


WORLDS: dict[str, World] = {
    "click 20 %, new users": new_users(0.2, 250),
    "order 1 %, new users": new_users(0.01, 2000),
    "click 20 %, returning users": returning_users(0.2, 800),
    "one late purchase a user": one_purchase(0.1, 2000),
    "amounts of 2 % of users": amounts(0.02, 1000),
}


def sequences(runs: int, looks: int, seed: int) -> list[dict[str, Any]]:
    """Measure every world without and with a lift."""
    records = []
    for number, (name, world) in enumerate(WORLDS.items()):
        # Half of the users in each arm: 1 / s_a + 1 / s_b = 4, with N = 1.
        variance = last_variance(world, looks, seed + 1000 + number) / 4
        planned = detectable_lift(variance, 1, Plan(alpha=ALPHA), always_valid=True)
        for lift in (0.0, planned):
            record = follow(world, runs, looks, lift, planned, seed + 10 * number + (lift > 0))
            records.append({"world": name, "runs": runs, "looks": looks, "planned_lift": planned, **record})
    return records


def splits(seed: int, tests: int = 10_000) -> list[dict[str, Any]]:
    """Measure the alarm of `sample_ratio` on fair and unfair splits of 100,000 users, and the split of the hash."""
    draw, users = np.random.default_rng(seed), 100_000
    records: list[dict[str, Any]] = []
    for share in (0.5, 0.505, 0.51, 50 / 102):
        counts = draw.binomial(users, share, tests)
        alarms = [sample_ratio([int(n), users - int(n)], [0.5, 0.5]).mismatch for n in counts]
        records.append({"split": f"{share:.4g} of 0.5", "tests": tests, "alarms": float(np.mean(alarms))})
    salts = 20
    errors = [abs(float(np.mean(assign(range(users), f"salt {i}") == 0)) - 0.5) for i in range(salts)]
    records.append({"split": "hash, 100,000 users", "tests": salts, "worst_share_error": max(errors)})
    return records


def main() -> None:
    """Print one line a world and lift, then one a split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--looks", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    started = time.perf_counter()
    records = sequences(chosen.runs, chosen.looks, chosen.seed)
    print("| world | lift | peeking | one look | sequence | coverage, all looks | median look of a find |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for record in records:
        shares = [record[key] for key in ("peeking", "one_look", "sequence", "coverage")]
        median = "-" if record["median_look"] is None else f"{record['median_look']:.0f}"
        cells = [f"{record['lift']:+.1%}", *(f"{share:.1%}" for share in shares), median]
        print(f"| {record['world']} | {' | '.join(cells)} |")
    found = splits(chosen.seed)
    for entry in found:
        what = {key: value for key, value in entry.items() if key not in ("split", "tests")}
        numbers = ", ".join(f"{key} {value:.3%}" for key, value in what.items())
        print(f"{entry['split']}: {numbers} in {entry['tests']} (alarm below p = {MISMATCH_LEVEL})")
    print(f"tightest x = {tightest(ALPHA):.2f}; {time.perf_counter() - started:.0f} s")
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(records + found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
