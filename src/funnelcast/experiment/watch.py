"""An exposure log without outcomes -> users of each variant, the check of the split, latency and errors."""

from __future__ import annotations

from typing import Any

import numpy as np

from funnelcast.experiment.exposed_users import Split, find_users
from funnelcast.experiment.joined import Files, daily_newcomers, open_database, service_by_variant
from funnelcast.experiment.logs import open_log
from funnelcast.experiment.sample_ratio import sample_ratio

__all__ = ["watch"]

Record = dict[str, Any]


def watch(files: Files, split: Split) -> Record:
    """Count an experiment that runs.

    Args:
        files: the logs, of which the outcomes are not read.
        split: how users were meant to be split.

    Returns:
        `variants`, `assignment`, `days`, `service` and `counts` as in `ab.json`, see docs/abtest.md.

    Raises:
        ConfigError: an option is out of range.
        DataError: the log is missing, unreadable, or has no exposure that can be used.
    """
    with open_database(files) as connection:
        exposures = open_log(connection, files.exposures, "exposures")
        shares, counts = find_users(connection, exposures, split)
        experiment = counts.pop("experiment")
        names = list(shares)
        arm = connection.execute("SELECT arm FROM users").fetchnumpy()["arm"].astype(np.int64)
        cells = connection.execute("SELECT day, arm, count(*) FROM exposed GROUP BY ALL").fetchall()
        days = sorted({day for day, *_ in cells})
        newcomers = daily_newcomers(connection, days, len(names)).tolist()
        service = service_by_variant(connection, names)
    users = np.bincount(arm, minlength=len(names)).tolist()
    by_day = {(day, number): count for day, number, count in cells}
    shown = [sum(by_day.get((day, number), 0) for day in days) for number in range(len(names))]
    found = sample_ratio(users, list(shares.values()))
    return {
        "experiment": experiment,
        "crossed": split.crossed,
        "variants": [
            {
                "variant": name,
                "share": share,
                "users": users[number],
                "exposures": shown[number],
                "exposures_per_user": {"value": shown[number] / users[number] if users[number] else None},
            }
            for number, (name, share) in enumerate(shares.items())
        ],
        "assignment": {
            "users": users,
            "shares": list(found.shares),
            "p_value": found.p_value,
            "mismatch": found.mismatch,
        },
        "days": [
            {
                "date": day.isoformat(),
                "newcomers": dict(zip(names, row, strict=True)),
                "exposures": {name: by_day.get((day, number), 0) for number, name in enumerate(names)},
            }
            for day, row in zip(days, newcomers, strict=True)
        ],
        "service": service,
        "counts": {"exposures": counts},
    }
