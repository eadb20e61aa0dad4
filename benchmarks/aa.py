"""A/A comparisons: how often each test calls two sets of seeds of one and the same model different.

python -m benchmarks.aa [--repeats 200] [--seeds 5] [--rows 2000] [--model shared_bottom] [--json build/aa.json]

Every repeat trains the model anew with seeds of its own for either side, on the same TRAIN rows, and compares both
sides on TEST rows that no other repeat has, so that the repeats are independent but for TRAIN. A test of "the model is
no better" should reject in 5 % of them at .05. DeLong and the bootstrap ask another question, whether the models that
were trained differ, which they do a little by their seeds; what they reject above 5 % is that difference.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from funnelcast.batch import Batch
from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.description import HashSplit
from funnelcast.data.prepare import prepare
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.datasets.synthetic import Synthetic
from funnelcast.metrics import Undefined, Value
from funnelcast.significance.bootstrap import resampled_auc
from funnelcast.significance.combined import combined_p
from funnelcast.significance.delong import Outcome, compare_placements, placements
from funnelcast.significance.paired import paired_test
from funnelcast.train import fit

Array = NDArray[Any]
STEPS = ("click", "buy")
FIT_ROWS = 10_000  # TRAIN and VALID together, 4 : 1
LEVELS = (0.05, 0.01)
RESAMPLES = 400


def simulate(folder: Path, repeats: int, rows: int) -> PreparedData:
    """Prepare a small funnel whose users fall into one part each, with TEST rows for all repeats."""
    total = FIT_ROWS + repeats * rows
    world = Synthetic(rows=total, steps=STEPS, rates=(0.2, 0.3), fields=8, ids=(8, 40, 200, 16), numeric=0, multi=0)
    split = HashSplit(kind="hash", column="user_id", valid=0.2 * FIT_ROWS / total, test=1 - FIT_ROWS / total)
    description = world.describe(None, folder / "raw").model_copy(update={"split": split})
    prepare(description, folder / "data", threads=1)
    return PreparedData(folder / "data", verify=False)


def test_blocks(data: PreparedData, repeats: int, rows: int) -> list[Batch]:
    """Cut TEST into blocks by user, so that a user's rows stay together but at the blocks' ends."""
    batch = data.read(data.row_groups(Split.TEST))
    assert batch.user is not None
    order = torch.argsort(batch.user, stable=True)
    size = min(rows, len(batch) // repeats)
    return [batch.take(order[number * size : (number + 1) * size]) for number in range(repeats)]


def log_odds(data: PreparedData, plan: Experiment, seed: int, block: Batch) -> Array:
    """Train with a seed and return the log-odds of reach [N, S] on a block."""
    with tempfile.TemporaryDirectory() as folder:
        model = fit(Path(folder) / "run", data, plan, seed=seed).load_model()
    with torch.inference_mode():
        prediction = model(block.ids)
    found: Array = (prediction.log_reach - prediction.log_not_reach).numpy()
    return found


def p_values(sides: list[list[Array]], block: Batch, step: int, repeat: int) -> dict[str, Value]:
    """Compare two sides, each a list of scores by seed, by every test."""
    assert block.user is not None
    labels = (block.labels[:, step] > 0.5).numpy()
    users = np.unique(block.user.numpy(), return_inverse=True)[1]
    by_row, by_user = Outcome(labels), Outcome(labels, None, users)
    placed = [[placements(scores[:, step], by_row) for scores in side] for side in sides]
    values = [{seed: float(each[labels].mean()) for seed, each in enumerate(side)} for side in placed]
    means = [np.mean(side, axis=0) for side in placed]
    seeds = paired_test("auc", values[0], values[1])
    row, user = (compare_placements(means[0], means[1], outcome) for outcome in (by_row, by_user))
    drawn = [
        np.mean([resampled_auc(scores[:, step], by_user, RESAMPLES, repeat) for scores in side], axis=0)
        for side in sides
    ]
    error = float(np.std(drawn[0] - drawn[1], ddof=1))
    found: dict[str, Value] = {
        "t-test over seeds": seeds.t_p,
        "Wilcoxon over seeds": seeds.wilcoxon_p,
        "DeLong by row": row.p,
        "DeLong by user": user.p,
        "bootstrap by user": math.erfc(abs(user.value) / error / math.sqrt(2)),
    }
    gaps = [values[0][seed] - values[1][seed] for seed in values[0]]
    found["seeds and rows together"] = combined_p(gaps, user.standard_error)
    both = [p for p in (seeds.t_p, user.p) if not isinstance(p, Undefined)]
    return {**found, "t-test and DeLong by user": max(both) if len(both) == 2 else Undefined("one is undefined")}


def rejections(name: str, step: str, values: list[Value], level: float) -> dict[str, Any]:
    """Count how often a test rejects, with the binomial error of that share."""
    known = [p for p in values if not isinstance(p, Undefined)]
    share = sum(p < level for p in known) / len(known) if known else math.nan
    error = math.sqrt(share * (1 - share) / len(known)) if known else math.nan
    expected = math.sqrt(level * (1 - level) / len(known)) if known else math.nan
    return {
        "step": step,
        "test": name,
        "level": level,
        "repeats": len(known),
        "rejected": None if math.isnan(share) else share,
        "error": None if math.isnan(error) else error,
        "error_at_level": None if math.isnan(expected) else expected,
    }


def run(repeats: int, seeds: int, rows: int, model: str) -> list[dict[str, Any]]:
    """Make all comparisons and count."""
    options = {} if model == "logistic" else {"width": 4}
    train = TrainConfig(epochs=1, batch_size=256, learning_rate=0.01, device="cpu")
    plan = Experiment(name="aa", model=Component(name=model, options=options), train=train)
    found: dict[tuple[str, str], list[Value]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = simulate(Path(folder), repeats, rows)
        started = time.perf_counter()
        for repeat, block in enumerate(test_blocks(data, repeats, rows)):
            first = 2 * seeds * repeat
            scores = [log_odds(data, plan, first + number, block) for number in range(2 * seeds)]
            for step, name in enumerate(STEPS):
                for test, p in p_values([scores[:seeds], scores[seeds:]], block, step, repeat).items():
                    found.setdefault((name, test), []).append(p)
            if (repeat + 1) % 10 == 0:
                print(f"{repeat + 1} of {repeats} repeats, {time.perf_counter() - started:.0f} s", flush=True)
    return [rejections(test, step, values, level) for (step, test), values in found.items() for level in LEVELS]


def main() -> None:
    """Print one line a step, test and level."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5, help="seeds a side")
    parser.add_argument("--rows", type=int, default=2000, help="TEST rows of a repeat")
    parser.add_argument("--model", default="shared_bottom")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    records = run(chosen.repeats, chosen.seeds, chosen.rows, chosen.model)
    print(
        "| step | test | level | rejected | binomial error | error if the level holds |\n|---|---|---:|---:|---:|---:|"
    )
    for record in records:
        shares = [record[key] for key in ("rejected", "error", "error_at_level")]
        cells = ["-" if share is None else f"{share:.1%}" for share in shares]
        print(f"| {record['step']} | {record['test']} | {record['level']} | {' | '.join(cells)} |")
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
