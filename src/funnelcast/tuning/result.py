"""What a tuning found: the best experiment as a file, the record of all trials, and a table."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from funnelcast.config import Component, Experiment
from funnelcast.files import read_json, write_bytes, write_json
from funnelcast.registry import TREES
from funnelcast.space import describe, identity
from funnelcast.tuning.folder import FORMAT, locked
from funnelcast.tuning.search import changes, with_values
from funnelcast.tuning.study import FINISHED, Study, decode

__all__ = ["experiment_toml", "to_table", "write_results"]

Record = dict[str, Any]
_WORDS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def _toml(value: Any) -> str:
    """Write a value as TOML; JSON's texts, numbers and lists are TOML's too."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k, ensure_ascii=False)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _section(values: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]


def experiment_toml(experiment: Experiment, comments: Sequence[str] = ()) -> str:
    """Write an experiment as its file; its name is that of the file, and `[tune]` is left out.

    Trees take nothing that the training loop alone knows, so that only what differs from its defaults is written.

    Args:
        experiment: what `load_experiment` should read again.
        comments: lines for the top.

    Example:
        >>> print(experiment_toml(Experiment(name="mine", model=Component(name="logistic")))[:27])
        [model]
        name = "logistic"
    """

    def component(it: Component) -> list[str]:
        return _section({"name": it.name, **it.options})

    lines = [f"# {' '.join(comment.split())}" for comment in comments]
    lines += _section({"data": experiment.data})
    lines += ["[model]", *component(experiment.model)]
    for loss in experiment.losses:
        lines += ["", "[[losses]]", *component(loss)]
    of_the_loop = experiment.model.name not in TREES.names()
    for name in ("train", "optimizer"):
        values = getattr(experiment, name).model_dump(exclude_defaults=not of_the_loop)
        lines += ["", f"[{name}]", *_section(values)] if values else []
    return "\n".join(lines) + "\n"


def _importance(study: optuna.Study) -> dict[str, float] | None:
    """Ask Optuna how much each parameter matters; it raises or warns where it cannot tell from these trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            shares = optuna.importance.get_param_importances(study)
        except (RuntimeError, UserWarning, ValueError):
            return None
    return {name: float(share) for name, share in shares.items()} or None


def _trial_record(study: Study, trial: FrozenTrial) -> Record:
    return {
        "number": trial.number,
        "state": _WORDS.get(trial.state, "running"),
        "parameters": decode(study.search.space, trial.params),
        "score": trial.value if trial.state in FINISHED else None,
        "epochs": [score for _, score in sorted(trial.intermediate_values.items())],
        "seconds": trial.user_attrs.get("seconds", 0.0),
        "reason": trial.user_attrs.get("reason"),
    }


def _study_record(study: Study) -> Record:
    """Summarise a study."""
    trials = [_trial_record(study, trial) for trial in study.optuna.get_trials(deepcopy=False)]
    complete = [trial for trial in trials if trial["state"] == "finished"]
    start = next((t for t in complete if identity(t["parameters"]) == identity(study.search.start)), None)
    return {
        "experiment": study.name,
        "model": study.search.experiment.model.name,
        "space": describe(study.search.space),
        "left_out": list(study.search.left_out),
        "start": study.search.start,
        "finished": sum(trial["state"] in ("finished", "pruned") for trial in trials),
        **{word: sum(trial["state"] == word for trial in trials) for word in ("pruned", "failed")},
        "seconds": sum(trial["seconds"] for trial in trials),
        "score_as_it_stands": start["score"] if start else None,
        "best": min(complete, key=lambda trial: (trial["score"], trial["number"]), default=None),
        "importance": _importance(study.optuna),
        "trials": trials,
    }


def write_results(out: Path, studies: Sequence[Study], command: str) -> Record:
    """Write the best experiment of each study and the record of all studies of the folder.

    Args:
        out: the folder of the tuning.
        studies: those of this call; what other calls found stays in the record.
        command: the command line, for the files' first line.

    Returns:
        The content of `tuning.json`.
    """
    records = {study.name: _study_record(study) for study in studies}
    with locked(out, "folder"):
        path, found = out / "tuning.json", records
        if path.exists():
            former = read_json(path, "the record of a tuning", "studies", version=FORMAT)["studies"]
            found = {record["experiment"]: record for record in former} | records
        settings = read_json(out / "settings.json", "the settings of a tuning", version=FORMAT)
        del settings["format"]
        record = {"format": FORMAT, "settings": settings, "studies": [found[name] for name in sorted(found)]}
        for study in studies:
            if (best := records[study.name]["best"]) is not None:
                write_bytes(out / f"{study.name}.toml", _best_file(study, best, records[study.name], command).encode())
        write_json(path, record)
    return cast(Record, json.loads(json.dumps(record)))  # lists, as whoever reads the file gets them


def _best_file(study: Study, best: Record, record: Record, command: str) -> str:
    """Write the best trial's experiment, with what is to be known about it on top."""
    stands = record["score_as_it_stands"]
    kept = "the best epoch" if study.has_epochs else "the trees that are kept"
    comments = [
        command,
        f"trial {best['number']} of {record['finished']} finished ones ({record['pruned']} of them pruned), "
        f"{record['failed']} failed; seed {study.settings.seed}",
        f"VALID, mean normalised entropy of {kept}: {best['score']:.6f}; as the experiment stands: "
        f"{'-' if stands is None else format(stands, '.6f')}",
    ]
    return experiment_toml(with_values(study.search.experiment, best["parameters"]), [c for c in comments if c])


def to_table(record: Record, experiments: Sequence[str]) -> Table:
    """Lay the results out for a terminal.

    Args:
        record: the content of `tuning.json`.
        experiments: the names to show.
    """
    table = Table(title="VALID: mean normalised entropy, lower is better", title_justify="left")
    table.add_column("experiment")
    for head in ("trials", "pruned", "failed", "as it stands", "best", "gain", "seconds"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("best has", overflow="fold")
    for row in record["studies"]:
        if row["experiment"] in experiments:
            best, stands = row["best"], row["score_as_it_stands"]
            score = best["score"] if best else None
            gain = "-" if score is None or not stands else f"{(1 - score / stands) * 100:+.2f} %"
            table.add_row(
                row["experiment"],
                *(str(row[key]) for key in ("finished", "pruned", "failed")),
                *("-" if number is None else f"{number:.5f}" for number in (stands, score)),
                gain,
                f"{row['seconds']:.0f}",
                changes(row["start"], best["parameters"]) if best else "-",
            )
    return table
