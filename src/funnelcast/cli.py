"""The command `funnelcast`: parse, call one function, print."""

from __future__ import annotations

import inspect
import shlex
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from funnelcast import __version__
from funnelcast.config import Experiment, explain, load_experiment
from funnelcast.errors import ConfigError, FunnelcastError
from funnelcast.process import prepare_process
from funnelcast.registry import DATASETS, LOSSES, MODELS, Registry

if TYPE_CHECKING:
    from funnelcast.data.description import Description
    from funnelcast.data.shards import PreparedData
    from funnelcast.data.split import Split
    from funnelcast.run import Run

__all__ = ["app", "main"]

app = typer.Typer(
    name="funnelcast",
    help="Forecast the probability of every step of a conversion funnel.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
# Piped output has no width of its own; 80 columns would fold every table.
# Names and paths come from users: what looks like markup in them is text.
console = Console(width=None if sys.stdout.isatty() else 160, markup=False)

Set = Annotated[list[str], typer.Option("--set", help="An option as key=value; may be given several times.")]
Data = Annotated[Path | None, typer.Option("--data", help="Prepared folder; overrides the experiment file.")]


def _value(text: str) -> Any:
    """Read a value as TOML would; what is not TOML is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _pairs(settings: list[str]) -> dict[str, Any]:
    """Split `key=value` texts."""
    for setting in settings:
        if "=" not in setting:
            raise ConfigError(f"--set should be key=value, received '{setting}'")
    return {key.strip(): _value(value.strip()) for key, _, value in (setting.partition("=") for setting in settings)}


def _experiment(path: Path, settings: list[str]) -> Experiment:
    """Read an experiment file and apply `--set section.key=value`."""
    from pydantic import ValidationError

    tree = load_experiment(path).model_dump()
    for key, value in _pairs(settings).items():
        section, _, option = key.rpartition(".")
        sections = {"train": tree["train"], "optimizer": tree["optimizer"], "model": tree["model"]["options"]}
        target = {"": tree, **sections}.get(section)
        if target is None:
            known = ", ".join(f"'{name}.'" for name in sections)
            raise ConfigError(f"--set {key}: should begin with one of {known}, or name a top-level key")
        target[option] = value
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise explain(f"{path} with --set", error, Experiment) from error


def _data_folder(data: Path | None, experiments: list[Experiment]) -> Path:
    """Choose the prepared folder: the option, else the one all experiments name."""
    if data is not None:
        return data
    named = {experiment.data for experiment in experiments}
    if len(named) != 1 or None in named:
        raise ConfigError("the prepared folder should be given by --data or by one 'data' key in every experiment file")
    return Path(str(named.pop()))


def _description(dataset: str, source: Path | None, settings: list[str], work: Path) -> Description:
    """Make a description from a dataset file or a registered dataset."""
    from funnelcast.data.description import load_description

    if dataset.endswith(".toml"):
        if source is not None or settings:
            raise ConfigError(
                "--source and --set belong to a registered dataset; a dataset file holds its own settings"
            )
        return load_description(Path(dataset))
    description: Description = DATASETS.create(dataset, options=_pairs(settings)).describe(source, work)
    return description


def _opened(run: Path, data: Path | None, split: str) -> tuple[Run, PreparedData, Split]:
    """Open a run with the prepared folder to score, by default the one it was trained on."""
    from funnelcast.data.shards import PreparedData
    from funnelcast.data.split import Split
    from funnelcast.run import Run

    parts = [part.value for part in Split]
    if split not in parts:
        raise ConfigError(f"--split should be one of {', '.join(parts)}, received '{split}'")
    opened = Run(run)
    folder = data or Path(opened.record["data"]["folder"])
    if data is None and not folder.is_dir():
        raise ConfigError(f"{folder}: the prepared folder the run was trained on is not here; name it by --data")
    return opened, PreparedData(folder), Split(split)


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(help="A dataset file (.toml) or the name of a dataset.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    source: Annotated[Path | None, typer.Option(help="File or folder of a named dataset.")] = None,
    settings: Set = [],  # noqa: B006
    memory: Annotated[str, typer.Option(help="Memory limit, such as 1GB.")] = "1GB",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; all cores by default.")] = None,
) -> None:
    """Encode raw logs into shards for training."""
    import tempfile

    from funnelcast.data import prepare as preparation

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
        description = _description(dataset, source, settings, Path(work))
        manifest = preparation.prepare(description, out, memory_limit=memory, threads=threads)
    table = Table("split", "rows", *(f"{step} positives" for step in manifest["splits"]["train"]["positives"]))
    for name, part in manifest["splits"].items():
        table.add_row(name, f"{part['rows']:,}", *(f"{n:,}" for n in part["positives"].values()))
    console.print(table)
    audit = manifest["audit"]
    if audit["rows"]:
        console.print(f"{audit['rows']:,} rows have a later step but not the former one: {audit['action']}")
    console.print(f"prepared {manifest['dataset']} in {out}", soft_wrap=True)


@app.command()
def train(
    experiment: Annotated[Path, typer.Argument(help="An experiment file (.toml).")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder.")],
    data: Data = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    settings: Set = [],  # noqa: B006
) -> None:
    """Train one model and write its run."""
    from funnelcast.data.shards import PreparedData
    from funnelcast.train import fit

    plan = _experiment(experiment, settings)
    try:
        run = fit(out, PreparedData(_data_folder(data, [plan])), plan, seed=seed, resume=resume)
    except KeyboardInterrupt:
        words = ["funnelcast", *sys.argv[1:], *([] if resume else ["--resume"])]
        Console(stderr=True).print(f"stopped; go on with: {shlex.join(words)}", markup=False, soft_wrap=True)
        raise
    console.print(f"trained {run.experiment.name} in {run.folder}", soft_wrap=True)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    data: Annotated[Path | None, typer.Option("--data", help="Prepared folder; by default the run's own.")] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
) -> None:
    """Score a split and write report.json into the run."""
    from funnelcast.evaluate import evaluate as evaluate_run

    opened, prepared, part = _opened(run, data, split)
    report = evaluate_run(opened, prepared, part)
    columns = ("auc", "logloss", "ne", "pcoc", "ece", "brier", "gauc")
    table = Table("step", "space", "rows", "positives", *columns)
    for step in report["steps"]:
        for space in ("reach", "transition"):
            values = step[space]
            cells = ["-" if values[name] is None else f"{values[name]:.5f}" for name in columns]
            table.add_row(step["name"], space, f"{values['rows']:,}", f"{values['positives']:,}", *cells)
    console.print(table)
    if value := report["steps"][-1].get("value"):
        names = ("mean_value", "mean_expected", "mae", "rmse", "bias_ratio", "gini", "decile_error")
        numbers = (f"{name} {'-' if value[name] is None else format(value[name], '.5g')}" for name in names)
        console.print(f"value of {report['steps'][-1]['name']}: {', '.join(numbers)}", soft_wrap=True)


@app.command()
def overlap(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    data: Annotated[Path | None, typer.Option("--data", help="Prepared folder; by default the run's own.")] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "valid",
    share: Annotated[float, typer.Option(help="Smallest effective share of the local rows to accept.")] = 0.5,
) -> None:
    """Judge whether a run's propensities can carry weights; write overlap.json into the run."""
    from funnelcast.overlap import overlap as judge

    record = judge(*_opened(run, data, split), share=share)
    heads = ("all rows below", "largest weight", "effective rows", "share of local", "theorem 2.1: share of local")
    table = Table("step", "local rows", "clip", *heads)
    for step in record["steps"]:
        for candidate, theorem in zip(step["inverse_propensity"], step["theorem_2_1"], strict=True):
            numbers = (candidate["largest_weight"], candidate["effective_rows"])
            shares = (candidate["effective_share"], theorem["effective_share"])
            table.add_row(
                step["name"],
                f"{step['local_rows']:,}",
                f"{candidate['clip']:g}{' *' if candidate['clip'] == step['clip'] else ''}",
                f"{candidate['share_below']:.1%}",
                *("-" if number is None else f"{number:,.1f}" for number in numbers),
                *("-" if value is None else f"{value:.1%}" for value in shares),
            )
    console.print(table)
    console.print(f"* the smallest clip with an effective share of {share:g} or more of the local rows")
    for step in record["steps"]:
        common = step["histogram"]["overlap"]
        shared = "not defined" if common is None else f"{common:.1%}"
        console.print(
            f"{step['name']}: {step['advice']}; overlap of rows with and without {step['former']}: {shared}",
            soft_wrap=True,
        )


@app.command()
def compare(
    experiments: Annotated[list[Path], typer.Argument(help="Experiment files (.toml).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the table, the report and the runs.")],
    data: Data = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at the same time.")] = 1,
    settings: Set = [],  # noqa: B006
) -> None:
    """Train models x seeds and write leaderboard and report."""
    from funnelcast.compare import compare as compare_experiments
    from funnelcast.leaderboard import error_table, to_rich_table

    plans = [_experiment(path, settings) for path in experiments]
    folder = _data_folder(data, plans)
    board = compare_experiments(
        plans, folder, out, seeds=seeds, jobs=jobs, announce=lambda line: console.print(line, highlight=False)
    )
    console.print(to_rich_table(board))
    errors = error_table(board)
    if errors is not None:
        console.print(errors)
    console.print(f"table and report in {out / 'report.html'}", soft_wrap=True)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    source: Annotated[Path, typer.Argument(help="Parquet file of raw rows.")],
    target: Annotated[Path, typer.Argument(help="Parquet file to write.")],
) -> None:
    """Score raw rows: every step's reach and transition beside the raw columns."""
    from funnelcast.predict import predict_file
    from funnelcast.run import Run

    rows = predict_file(Run(run), source, target)
    console.print(f"scored {rows:,} rows into {target}", soft_wrap=True)


def _list(registry: Registry[Any], heading: str) -> None:
    """Print a registry: names, first lines of the docstrings, options with defaults."""
    table = Table(heading, "what it is", "options")
    for name in registry.names():
        cls = registry.get(name)
        title = (inspect.getdoc(cls) or "").split("\n", 1)[0]
        options = ", ".join(
            key if option.default is inspect.Parameter.empty else f"{key}={option.default!r}"
            for key, option in registry.options(name).items()
        )
        table.add_row(name, title, options)
    console.print(table)


@app.command()
def models() -> None:
    """List the models and the losses with their options."""
    _list(MODELS, "model")
    _list(LOSSES, "loss")


@app.command()
def datasets() -> None:
    """List the datasets with their options."""
    _list(DATASETS, "dataset")
    for name in DATASETS.names():
        cls = DATASETS.get(name)
        console.print(f"{name}: {cls.where} Terms: {cls.terms}")


@app.command()
def doctor() -> None:
    """Show versions, cores and devices, and whether a tiny training step works here."""
    import torch

    from funnelcast.native import gpu_state, native_state
    from funnelcast.run import environment

    table = Table("what", "value")
    for key, value in environment().items():
        table.add_row(key, str(value))
    table.add_row("compiled", native_state().line.removeprefix("native kernels: "))
    table.add_row("on GPUs", gpu_state().line)
    table.add_row("cuda", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.Adam([weight], fused=True)
    weight.square().sum().backward()
    optimizer.step()
    table.add_row("fused Adam", "works" if bool((weight < 1).all()) else "broken")
    console.print(table)


def _show_version(value: bool) -> None:
    if value:
        console.print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False,
) -> None:
    """Forecast the probability of every step of a conversion funnel."""


def main() -> None:
    """Run the command line; our own errors become one line and exit code 2, Ctrl-C exit code 130."""
    prepare_process()
    try:
        app(standalone_mode=True)
    except FunnelcastError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
