"""What each speed option does to the AUC: the same experiment and seeds with one option changed at a time.

    python -m benchmarks.quality --data build/kuairand --out build/quality/kuairand \
        experiments/kuairand/apem.toml experiments/kuairand/mmoe.toml

Every run is a `funnelcast train` and `evaluate` of its own; complete ones in the output folder are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

PLAIN = ["optimizer.embedding='adam'"]
OPTIONS: dict[str, tuple[list[str], dict[str, str]]] = {
    "plain": (PLAIN, {"FUNNELCAST_NATIVE": "off"}),
    "compiled": (PLAIN, {}),
    "deferred_adam": (["optimizer.embedding='deferred_adam'"], {}),
    "lazy_adam": (["optimizer.embedding='lazy_adam'"], {}),
    "bf16": ([*PLAIN, "train.precision='bf16'"], {}),
    "deferred_bf16": (["optimizer.embedding='deferred_adam'", "train.precision='bf16'"], {}),
}


def report(experiment: Path, data: Path, folder: Path, seed: int, option: str, epochs: int) -> dict[str, Any]:
    """Train and evaluate, unless it is done, and return the run's report."""
    settings, environment = OPTIONS[option]
    command = [sys.executable, "-m", "funnelcast"]
    given = [part for setting in [*settings, f"train.epochs={epochs}"] for part in ("--set", setting)]
    train = [*command, "train", str(experiment), "--data", str(data), "--out", str(folder), "--seed", str(seed)]
    if not (folder / "report.json").is_file():
        for step in ([*train, "--resume", *given], [*command, "evaluate", str(folder)]):
            subprocess.run(step, check=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def line(name: str, reports: list[dict[str, Any]], rates: list[float]) -> str:
    """Write a table's row: mean and sample standard deviation of every step's reach AUC."""
    cells = []
    for number in range(len(reports[0]["steps"])):
        values = [found["steps"][number]["reach"]["auc"] for found in reports]
        spread = f" ±{statistics.stdev(values):.4f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.4f}{spread}")
    return f"| {name} | {' | '.join(cells)} | {statistics.median(rates):,.0f} |"


def main() -> None:
    """Train what is missing and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=[*OPTIONS])
    chosen = parser.parse_args()
    lines: list[str] = []
    for experiment in chosen.experiments:
        for option in chosen.options:
            folders = [chosen.out / f"{experiment.stem}-{option}-{seed}" for seed in range(chosen.seeds)]
            reports = [
                report(experiment, chosen.data, folder, seed, option, chosen.epochs)
                for seed, folder in enumerate(folders)
            ]
            if not lines:
                steps = [f"{step['name']} reach AUC" for step in reports[0]["steps"]]
                lines += [f"| run | {' | '.join(steps)} | train rows/s |", f"| --- |{' ---: |' * (len(steps) + 1)}"]
            histories = [json.loads((folder / "history.json").read_text()) for folder in folders]
            rates = [history["rows"] / history["train_seconds"] for history in histories]
            lines.append(line(f"{experiment.stem}, {option}", reports, rates))
            print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
