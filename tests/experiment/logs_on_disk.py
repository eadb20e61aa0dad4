"""Exposure and outcome logs in files, written by hand or drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from funnelcast.experiment.assignment import assign

START = datetime(2026, 3, 1)
Row = Mapping[str, Any]


def write_lines(path: Path, rows: Sequence[Row | str]) -> str:
    """JSON lines; texts go as they are, so that a test can break one."""
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def at(day: float) -> str:
    """Time of day `day` of March 2026, counted from 1."""
    return (START + timedelta(days=day - 1)).isoformat()


@dataclass(frozen=True)
class World:
    """Users who come on some days and click, of whom some buy.

    Args:
        users: how many.
        days: how many.
        lift: of the click rate of the treatment.
        share: of the treatment.
        names: of the variants.
        steps: names of the two steps.
    """

    users: int = 2000
    days: int = 5
    lift: float = 0.0
    share: float = 0.5
    names: tuple[str, str] = ("control", "treatment")
    steps: tuple[str, str] = ("click", "buy")

    def write(self, folder: Path, seed: int = 0, service: bool = True) -> tuple[str, str, str]:
        """Write exposures, outcomes and covariates as Parquet; returns the paths."""
        draw = np.random.default_rng(seed)
        arm = assign(range(self.users), f"salt {seed}", (1 - self.share, self.share))
        taste, activity = draw.beta(3, 9, self.users), draw.gamma(2, 0.5, self.users)
        counts = draw.poisson(activity[:, None], (self.users, self.days))
        user = np.repeat(np.arange(self.users), counts.sum(axis=1))
        day = np.concatenate([np.repeat(np.arange(self.days), row) for row in counts])
        time = np.datetime64(START, "us") + ((day + 0.9 * draw.random(len(user))) * 86_400e6).astype("timedelta64[us]")
        click = draw.random(len(user)) < taste[user] * (1 + self.lift * arm[user])
        buy = click & (draw.random(len(user)) < 0.4)
        folder.mkdir(parents=True, exist_ok=True)
        ids = [f"user {number}" for number in user]
        requests = [f"request {number}" for number in range(len(user))]
        exposures = {
            "time": time,
            "user": ids,
            "experiment": ["spring"] * len(user),
            "variant": np.array(self.names)[arm[user]],
            "request_id": requests,
        }
        if service:
            exposures |= {"latency_ms": draw.gamma(3, 4, len(user)), "error": draw.random(len(user)) < 0.01}
        pq.write_table(pa.table(exposures), folder / "exposures.parquet")
        outcomes = {"time": time[click] + np.timedelta64(60, "s"), "user": np.array(ids)[click]}
        outcomes |= {self.steps[0]: click[click], self.steps[1]: buy[click]}
        pq.write_table(pa.table(outcomes), folder / "outcomes.parquet")
        past = {"user": [f"user {n}" for n in range(self.users)], "past": draw.binomial(20, taste) / 20}
        pq.write_table(pa.table(past), folder / "past.parquet")
        return tuple(str(folder / f"{name}.parquet") for name in ("exposures", "outcomes", "past"))  # type: ignore[return-value]
