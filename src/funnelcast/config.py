"""The experiment file: one model, its losses and its training, as typed and strict objects."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator
from pydantic import Field as Key

from funnelcast.errors import ConfigError, choices
from funnelcast.space import Parameter, read_parameter

__all__ = [
    "Component",
    "EmbeddingOptimizer",
    "Experiment",
    "OptimizerConfig",
    "TrainConfig",
    "TuneConfig",
    "explain",
    "load_experiment",
    "read_toml",
]

EmbeddingOptimizer = Literal["adam", "deferred_adam", "lazy_adam", "sparse_adam", "rowwise_adagrad"]


class Strict(BaseModel):
    """A record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class Component(Strict):
    """A registered name with its constructor's options, such as the table `[model]`.

    Args:
        name: a name of the registry.
        options: the constructor's keyword arguments; in TOML they stand beside `name`.

    Example:
        >>> Component.model_validate({"name": "mmoe", "experts": 4}).options
        {'experts': 4}
    """

    name: str
    options: dict[str, Any] = Key(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, data: Any) -> Any:
        if isinstance(data, dict) and not isinstance(data.get("options"), dict):
            return {
                **({"name": data["name"]} if "name" in data else {}),
                "options": {k: v for k, v in data.items() if k != "name"},
            }
        return data


class TrainConfig(Strict, strict=True):
    """Everything about training that is not the model or the loss.

    Args:
        epochs: passes over TRAIN that are planned, >= 1.
        batch_size: rows of a batch, >= 1.
        learning_rate: Adam's step size, > 0.
        learning_rate_schedule: `constant` as in the paper, or `linear` to 0 over the planned steps.
        average_last: share in [0, 1) of the planned steps, at their end, over which the weights are averaged; the mean
            is what VALID scores and the run keeps. 0 keeps the last weights. It takes the noise of the last rows out
            of the predicted rates, and goes with a constant learning rate.
        weight_decay: Adam's L2 term, >= 0.
        gradient_clip: the gradient is scaled down to this norm where it is larger, > 0.
        patience: epochs without a better VALID score before training stops early; 0 never stops.
        device: `auto`, `cpu` or `cuda`.
        precision: `fp32`, or `bf16` for products in bfloat16 with weights, losses, softmax and norms in float32: about
            twice the speed where products take the time (MMoE, PLE). Scoring stays in float32.
        checkpoint_steps: steps between two checkpoints, 0 for the end of each epoch alone.
        memory_gb: TRAIN is kept in memory when it needs no more than this, else streamed from disk. On a GPU it is kept
            there when it needs no more than half of the free memory.
        negatives: share in (0, 1] of the rows without the first step that an epoch of TRAIN keeps, drawn anew for each;
            every other row stays, one whose first label is unobserved too. The model's probabilities are corrected
            for it and stay those of all rows (see docs/negatives.md).
    """

    epochs: int = Key(default=2, ge=1)
    batch_size: int = Key(default=1024, ge=1)
    learning_rate: float = Key(default=1e-3, gt=0)
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    average_last: float = Key(default=0.0, ge=0, lt=1)
    weight_decay: float = Key(default=0.0, ge=0)
    gradient_clip: float = Key(default=5.0, gt=0)
    patience: int = Key(default=1, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_steps: int = Key(default=0, ge=0)
    memory_gb: float = Key(default=4.0, gt=0)
    negatives: float = Key(default=1.0, gt=0, le=1)


class OptimizerConfig(Strict, strict=True):
    """What updates the embedding tables; all other weights are always updated by Adam.

    Args:
        embedding: `adam` moves every row of the table in every step, as the paper's optimizer does; `deferred_adam`
            does the same, many times faster on large tables, by moving a row when it is needed next; `lazy_adam` moves
            the rows of the batch and forgets what the others would have done; `sparse_adam` is that by torch's own
            code; `rowwise_adagrad` keeps one number of state a row and wants a larger step size. `auto` is
            `deferred_adam` on the CPU where the tables have 262,144 ids or more and neither `weight_decay` nor
            `average_last` is on, else `adam`.
        embedding_learning_rate: step size of the tables > 0; without it that of `train`.
    """

    embedding: Literal["auto", EmbeddingOptimizer] = "auto"
    embedding_learning_rate: float | None = Key(default=None, gt=0)


class TuneConfig(Strict):
    """What `funnelcast tune` tries for one experiment, beside or instead of the model's own space.

    Args:
        space: parameter, such as `model.layers`, -> its values; in TOML they stand beside `others`. A parameter without
            values is not searched and stays as the experiment has it.
        others: whether the model's own space and the common one are searched too.

    Example:
        >>> TuneConfig.model_validate({"model.layers": [1, 2, 4], "others": False}).space
        {'model.layers': Choice(values=(1, 2, 4))}
    """

    space: dict[str, Parameter | None] = Key(default_factory=dict)
    others: bool = True

    @model_validator(mode="before")
    @classmethod
    def _gather_space(cls, data: Any) -> Any:
        if not isinstance(data, dict) or isinstance(data.get("space"), dict):
            return data
        space: dict[str, Parameter | None] = {}
        for name, value in data.items():
            if name != "others":
                try:
                    space[name] = read_parameter(value) if value != [] else None
                except ConfigError as error:
                    raise ValueError(f"'{name}': {error}") from error
        return {"space": space} | ({"others": data["others"]} if "others" in data else {})


class Experiment(Strict):
    """One experiment file.

    Args:
        name: how tables and the folders of runs call it; by default the file's stem.
        data: a prepared folder, relative to the working directory; the command line may give it instead.
        model: the model and its options.
        losses: the losses and their options; none means the model's own.
        train: how to train.
        optimizer: what updates the embedding tables.
        tune: what `funnelcast tune` tries; no part of what a run is, so runs do not record it.
    """

    name: str
    data: str | None = None
    model: Component
    losses: tuple[Component, ...] = ()
    train: TrainConfig = Key(default_factory=TrainConfig)
    optimizer: OptimizerConfig = Key(default_factory=OptimizerConfig)
    tune: TuneConfig = Key(default_factory=TuneConfig, exclude=True)

    @model_validator(mode="after")
    def _has_a_decay(self) -> Experiment:
        chosen = self.optimizer.embedding
        if chosen in ("sparse_adam", "deferred_adam") and self.train.weight_decay:
            other = "lazy_adam" if chosen == "sparse_adam" else "adam"
            raise ValueError(
                f"'train.weight_decay' should be 0 with optimizer.embedding = '{chosen}', which has none, received "
                f"{self.train.weight_decay}; '{other}' is the same optimizer with a decay"
            )
        return self

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not name.strip() or name.startswith(".") or any(c in "/\\" or not c.isprintable() for c in name):
            raise ValueError("should serve as a folder's name: not empty, no '/' or '\\', no '.' in front")
        return name


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: the file.

    Raises:
        ConfigError: the file is missing, cannot be read, or is not TOML; the message names the line.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: should be a TOML file, but does not exist") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: should be a TOML file, received a folder") from error
    except OSError as error:
        raise ConfigError(f"{path}: should be a TOML file, but cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: should be a TOML file, received: {error}") from error


def explain(source: object, error: ValidationError, model: type[BaseModel]) -> ConfigError:
    """Turn the first finding of a validation into one clear error that names file and key.

    Args:
        source: the file or place that was read.
        error: what pydantic found.
        model: the record that was read, for the valid keys.
    """
    # An unknown key is often the misspelt name of a missing one, so it is the more useful finding.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"]) or "(top level)"
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"{source}: unknown key '{key}'; {choices(_keys_at(model, first['loc'][:-1]), str(first['loc'][-1]))}"
        )
    if first["type"] == "missing":
        return ConfigError(f"{source}: key '{key}' is missing")
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # a check of the whole record names what it received itself
        return ConfigError(f"{source}: {message}")
    received = repr(first["input"])
    return ConfigError(f"{source}: key '{key}': {message}; received {received[:200]}")


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Follow a location through nested records and list the keys that are valid there."""
    for part in location:
        candidates = [model.model_fields[part].annotation] if part in model.model_fields else []
        nested = [arg for c in candidates for arg in (c, *getattr(c, "__args__", ()))]
        found = [c for c in nested if isinstance(c, type) and issubclass(c, BaseModel)]
        model = found[0] if found else model
    return list(model.model_fields)


def load_experiment(path: Path) -> Experiment:
    """Read an experiment file.

    Args:
        path: a TOML file with the tables `[model]`, `[[losses]]`, `[train]`, `[optimizer]`, `[tune]`.

    Raises:
        ConfigError: the file, a key or a value is wrong; the message names it and the valid choices.
    """
    data = read_toml(path)
    try:
        return Experiment.model_validate({"name": path.stem, **data})
    except ValidationError as error:
        raise explain(path, error, Experiment) from error
