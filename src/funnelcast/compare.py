"""Models x seeds -> one table: every experiment is trained with every seed, scored on TEST, and averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from funnelcast.config import Experiment
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError
from funnelcast.evaluate import evaluate
from funnelcast.evidence import SharedRows
from funnelcast.files import read_json, sha256, write_bytes, write_json
from funnelcast.latex import to_latex
from funnelcast.leaderboard import build_leaderboard, to_csv, to_markdown
from funnelcast.process import give_back_memory
from funnelcast.published import published, published_markdown
from funnelcast.report import write_report
from funnelcast.run import build_model
from funnelcast.saved_scores import has_scores
from funnelcast.schema import Schema
from funnelcast.train import build_losses, fit
from funnelcast.workers import heed_stop, worker_pool

__all__ = ["check_names", "check_options", "compare"]


def check_names(experiments: Sequence[Experiment]) -> None:
    """Refuse experiments that could not be told apart by their names.

    Args:
        experiments: what will be trained.

    Raises:
        ConfigError: names are not unique, or there is no experiment.
    """
    names = [experiment.name for experiment in experiments]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ConfigError(f"experiment names should be unique and at least one, received: {', '.join(twice or names)}")


def check_options(experiment: Experiment, schema: Schema) -> None:
    """Build model and losses on the same funnel with the smallest fields, which takes no memory.

    Args:
        experiment: what would be trained.
        schema: the fields and the funnel.

    Raises:
        UnknownNameError: no model or loss has this name.
        ConfigError: an option is wrong.
    """
    small = schema.model_copy(update={"fields": tuple(f.model_copy(update={"size": 2}) for f in schema.fields)})
    build_losses(experiment, small, build_model(experiment, small))


def compare(
    experiments: Sequence[Experiment],
    data_folder: Path,
    out: Path,
    *,
    seeds: int = 3,
    jobs: int = 1,
    baseline: str | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train every experiment with seeds 0..seeds-1, evaluate on TEST, and write the leaderboard and the report.

    Runs that are complete in `out` are taken as they are, broken ones are taken up, so the same call goes on after an
    interruption. A wrong option of any experiment is found before the first training.

    Args:
        experiments: at least one; names are unique.
        data_folder: the prepared folder all of them train on.
        out: gets `leaderboard.json`, `.csv`, `.md`, `.tex`, `report.html` and `runs/<experiment>-seed<k>/`.
        seeds: number of seeds, >= 1.
        jobs: trainings at the same time, each with its share of the cores.
        baseline: the experiment that gains refer to; by default the first one of model `single_task`.
        announce: called with one line for every run that ends.

    Returns:
        The leaderboard.

    Raises:
        ConfigError: names are not unique, a number is out of range, or an experiment is wrong.
    """
    check_names(experiments)
    if seeds < 1 or jobs < 1:
        raise ConfigError(f"seeds and jobs should be at least 1, received seeds={seeds}, jobs={jobs}")
    data = PreparedData(data_folder)
    for experiment in experiments:
        check_options(experiment, data.schema)
    tasks = [(e, seed, out / "runs" / f"{e.name}-seed{seed}") for seed in range(seeds) for e in experiments]
    if jobs == 1:
        reports = {folder: _report(data, e, seed, folder, announce) for e, seed, folder in tasks}
    else:
        reports = _in_processes(data_folder, tasks, jobs, announce)
    shared = SharedRows.of_runs(data, Split.TEST, {(e.name, seed): folder for e, seed, folder in tasks})
    board = build_leaderboard([reports[folder] for _, _, folder in tasks], shared, baseline=baseline)
    board["protocol"] = data.schema.protocol
    board["published"] = published(data.schema.dataset, data.schema.protocol, data.schema.step_names)
    write_json(out / "leaderboard.json", board)
    write_bytes(out / "leaderboard.csv", to_csv(board).encode())
    write_bytes(out / "leaderboard.md", (to_markdown(board) + published_markdown(board)).encode())
    write_bytes(out / "leaderboard.tex", to_latex(board).encode())
    write_report(out)
    return board


def _report(
    data: PreparedData, experiment: Experiment, seed: int, folder: Path, announce: Callable[[str], None]
) -> dict[str, Any]:
    """Train and evaluate one run, or take its report from an earlier call."""
    give_back_memory()
    run = fit(folder, data, experiment, seed=seed, resume=True)
    former = read_json(folder / "report.json", "a report") if run.evaluated else {}
    # `funnelcast evaluate` may have left a report of another split, of other data or of calibrated probabilities, an
    # older version one without scores.
    fingerprint = sha256(data.folder / "manifest.json")
    wanted = (Split.TEST.value, fingerprint, None)
    done = (former.get("split"), former.get("data_sha256"), former.get("calibration")) == wanted
    done = done and has_scores(run.folder, Split.TEST, fingerprint)
    report: dict[str, Any] = former if done else evaluate(run, data, Split.TEST)
    aucs = " / ".join("-" if s["reach"]["auc"] is None else f"{s['reach']['auc']:.4f}" for s in report["steps"])
    took = "taken from an earlier call" if done else f"{report['train_seconds']:.0f} s"
    announce(f"{experiment.name} seed {seed}: reach AUC {aucs} ({took})")
    return report


def _in_processes(
    data_folder: Path, tasks: list[tuple[Experiment, int, Path]], jobs: int, announce: Callable[[str], None]
) -> dict[Path, dict[str, Any]]:
    """Run tasks in `jobs` fresh processes."""
    reports = {}
    with worker_pool(jobs) as pool:
        futures = {
            pool.submit(_report_in_process, data_folder, experiment.model_dump(), seed, folder): folder
            for experiment, seed, folder in tasks
        }
        for future in as_completed(futures):
            report, line = future.result()
            reports[futures[future]] = report
            announce(line)
    return reports


def _report_in_process(
    data_folder: Path, experiment: dict[str, Any], seed: int, folder: Path
) -> tuple[dict[str, Any], str]:
    """Train and evaluate one run in a process of its own; returns the report and its line."""
    lines: list[str] = []
    plan = Experiment.model_validate(experiment)
    report = heed_stop(lambda: _report(PreparedData(data_folder, verify=False), plan, seed, folder, lines.append))
    return report, lines[0]
