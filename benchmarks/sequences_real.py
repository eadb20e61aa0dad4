"""A/A experiments on real users: how often `abtest analyse` decides between two halves that were treated alike.

python -m benchmarks.sequences_real build/kuairand [--runs 200] [--json build/sequences_real.json]

The rows of a prepared folder with users and times are exposures, their labels the outcomes. Every run splits the users
anew by the hash and looks at the end of each day, at all steps. No difference is real, so every decision is a false
alarm; at alpha = 5 % there should be at most 5 % of them over all steps together.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from funnelcast.data.sql import identifier
from funnelcast.experiment.assignment import assign
from funnelcast.experiment.joined import Cells, Joined
from funnelcast.experiment.looks import Rules, Totals, looks
from funnelcast.experiment.sample_ratio import sample_ratio
from funnelcast.schema import Schema, label_column
from funnelcast.significance.holm import holm


def read(folder: Path) -> Joined:
    """Count rows and labels of every user and day."""
    steps = Schema.load(folder / "schema.json").step_names
    sums = ", ".join(f"coalesce(sum({identifier(label_column(step))}), 0)::DOUBLE" for step in steps)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW rows AS SELECT * FROM read_parquet('{folder}/*/*.parquet')")
        table = connection.execute(
            f'SELECT CAST("time" AS DATE), dense_rank() OVER (ORDER BY "user") - 1, count(*)::DOUBLE, {sums} '
            'FROM rows GROUP BY 1, "user" ORDER BY 1, 2'
        ).fetchall()
    days = sorted({row[0] for row in table})
    cells: list[list[Any]] = [[row for row in table if row[0] == day] for day in days]
    users = [np.array([row[1] for row in day], dtype=np.int64) for day in cells]
    events = [np.array([row[3:] for row in day]) for day in cells]
    known = [Cells(user, count) for user, count in zip(users, events, strict=True)]
    return Joined(
        shares={"A": 0.5, "B": 0.5},
        steps=tuple(steps),
        arm=np.zeros(1 + max(int(user.max()) for user in users), dtype=np.int64),
        days=days,
        exposed=[Cells(u, np.array([row[2] for row in day])) for u, day in zip(users, cells, strict=True)],
        known=known,
        caused=known,
        newcomers=np.zeros((len(days), 2), dtype=np.int64),
        covariate=None,
        counts={},
    )


def measure(folder: Path, runs: int, rules: Rules) -> dict[str, Any]:
    """Split the users of a folder many times."""
    world = read(folder)
    alarms, peeked, last, mismatches = 0, 0, 0, 0
    for run in range(runs):
        split = replace(world, arm=assign(range(len(world.arm)), f"run {run}"))
        totals = Totals(split, rules.per)
        p_values: list[float] = []
        significant = np.zeros(len(world.steps), dtype=bool)
        ever = significant.copy()
        for seen in looks(totals, rules):
            p_values = [row[0].p_value for row in seen]
            intervals = [totals.rates(step).lift(1).interval() for step in range(len(world.steps))]  # type: ignore[union-attr]
            significant = np.array([isinstance(i, tuple) and not i[0] <= 0 <= i[1] for i in intervals])
            ever |= significant
        alarms += min(holm(p_values)) < rules.alpha
        peeked += bool(ever.any())
        last += bool(significant.any())
        counts = np.bincount(split.arm, minlength=2).tolist()
        mismatches += sample_ratio(counts, [0.5, 0.5]).mismatch
    return {
        "data": folder.name,
        "users": len(world.arm),
        "days": len(world.days),
        "steps": len(world.steps),
        "runs": runs,
        "sequence": alarms / runs,
        "peeking": peeked / runs,
        "one_look": last / runs,
        "mismatch": mismatches / runs,
    }


def main() -> None:
    """Print the shares of runs with an alarm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a prepared folder with users and times")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--planned-lift", type=float, default=0.05)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    started = time.perf_counter()
    record = measure(chosen.folder, chosen.runs, Rules(planned_lift=chosen.planned_lift))
    print(json.dumps(record, indent=1))
    print(f"{time.perf_counter() - started:.0f} s")
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
