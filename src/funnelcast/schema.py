"""What a model sees of a prepared dataset: encoded fields and the ordered steps of the funnel, as data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic import Field as Key

from funnelcast.errors import ArtifactError
from funnelcast.graph import FunnelGraph

__all__ = ["NULL_ID", "UNKNOWN_ID", "Field", "Schema", "Step", "StepValue"]

NULL_ID = 0  # missing value; in a multi-valued field also the padding
UNKNOWN_ID = 1  # a value that TRAIN has not shown, or too rarely; real values start at 2


class Frozen(BaseModel):
    """A strict, immutable record."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Field(Frozen):
    """One input column after encoding.

    Args:
        name: the field's name, unique in the schema.
        size: number of ids; valid ids are 0..size-1, 0 is null and 1 unknown.
        max_length: columns the field takes in a batch; 1 for single-valued, the padded length for multi-valued.
        ordered: whether the ids from 2 on are buckets of a number, from low to high; only of a single-valued field.
    """

    name: str
    size: int = Key(ge=2)
    max_length: int = Key(default=1, ge=1)
    ordered: bool = False

    @model_validator(mode="after")
    def _only_single_values_are_ordered(self) -> Self:
        if self.ordered and self.max_length > 1:
            raise ValueError(f"field '{self.name}' should be single-valued to be ordered, received max_length > 1")
        return self


class StepValue(Frozen):
    """What the positive values of a value step look like on TRAIN.

    Args:
        mean: their mean, > 0.
        log_mean: mean of their logarithms.
        log_std: standard deviation of their logarithms, >= 0 (divided by their number).
    """

    mean: float = Key(gt=0.0, allow_inf_nan=False)
    log_mean: float = Key(allow_inf_nan=False)
    log_std: float = Key(ge=0.0, allow_inf_nan=False)


class Step(Frozen):
    """One event of the funnel, with its rates on TRAIN.

    Args:
        name: the step's name, unique in the schema.
        reach_rate: share of all TRAIN rows that reached the step, in (0, 1).
        transition_rate: share among TRAIN rows that reached the former step (in a graph: in its scope), in (0, 1].
        value: None for an event; of a value step, which is reached where its value is above 0, the values on TRAIN.
        parents: steps of which one must have happened, `not:a` where a did not; None is the former step, () no step.
        group: name of a set of steps with the same parents that exclude each other, or None.
    """

    name: str
    reach_rate: float = Key(gt=0.0, lt=1.0)
    transition_rate: float = Key(gt=0.0, le=1.0)
    value: StepValue | None = None
    parents: tuple[str, ...] | None = None
    group: str | None = None

    @property
    def kind(self) -> Literal["event", "value"]:
        """Whether the step only happens (`event`) or also has a value."""
        return "event" if self.value is None else "value"


class Schema(Frozen):
    """The fields and the ordered funnel of a prepared dataset.

    Args:
        dataset: the dataset's name.
        fields: F fields in the order of a batch's columns.
        steps: S steps in funnel order.
        has_user: whether shards carry a hashed user id (for GAUC).
        has_weight: whether rows carry a sample weight.
        has_truth: whether shards carry the true probabilities (simulated data only).
        has_potential: whether shards carry the potential rates as well (simulated data only).
        protocol: name of the published protocol by which the data were prepared, or None.

    Example:
        >>> schema = Schema(
        ...     dataset="shop",
        ...     fields=(Field(name="item", size=10), Field(name="tags", size=5, max_length=3)),
        ...     steps=(Step(name="click", reach_rate=0.1, transition_rate=0.1),),
        ... )
        >>> schema.width, schema.columns
        (4, (0, 1, 4))
    """

    dataset: str
    fields: tuple[Field, ...] = Key(min_length=1)
    steps: tuple[Step, ...] = Key(min_length=1)
    has_user: bool = False
    has_weight: bool = False
    has_truth: bool = False
    has_potential: bool = False
    protocol: str | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for kind, names in (("field", [f.name for f in self.fields]), ("step", self.step_names)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} names should be unique, received twice: {', '.join(twice)}")
        _ = self.graph  # refuses what is no funnel
        return self

    @model_validator(mode="after")
    def _only_the_last_step_has_a_value(self) -> Self:
        check_kinds([(step.name, step.kind) for step in self.steps])
        return self

    @property
    def graph(self) -> FunnelGraph:
        """The funnel's shape: a chain unless steps name parents or groups."""
        steps = self.steps
        return funnel_graph(tuple(self.step_names), tuple(s.parents for s in steps), tuple(s.group for s in steps))

    @property
    def n_fields(self) -> int:
        """Number of fields, F."""
        return len(self.fields)

    @property
    def n_steps(self) -> int:
        """Number of steps, S."""
        return len(self.steps)

    @property
    def step_names(self) -> list[str]:
        """Names of the steps in funnel order."""
        return [step.name for step in self.steps]

    @property
    def value_step(self) -> Step | None:
        """The last step where it is one of kind `value`, else None."""
        return self.steps[-1] if self.steps[-1].kind == "value" else None

    @property
    def columns(self) -> tuple[int, ...]:
        """First column of each field in a batch's ids, and the total width at the end."""
        starts = [0]
        for field in self.fields:
            starts.append(starts[-1] + field.max_length)
        return tuple(starts)

    @property
    def width(self) -> int:
        """Columns of a batch's ids: the sum of the fields' maximum lengths, W."""
        return self.columns[-1]

    @property
    def n_ids(self) -> int:
        """Total number of ids over all fields."""
        return sum(field.size for field in self.fields)

    def save(self, path: Path) -> None:
        """Write the schema as JSON.

        Args:
            path: the file to write.
        """
        path.write_text(self.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Schema:
        """Read a schema that `save` wrote.

        Args:
            path: the JSON file.

        Raises:
            ArtifactError: the file is missing or not a schema.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ArtifactError(f"{path}: should be a schema file, but does not exist") from error
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{path}: should be a schema file, received damaged text: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "(top level)"
            raise ArtifactError(f"{path}: should be a schema, but key '{key}': {first['msg']}") from error


@lru_cache(maxsize=256)
def funnel_graph(
    names: tuple[str, ...], parents: tuple[tuple[str, ...] | None, ...], groups: tuple[str | None, ...]
) -> FunnelGraph:
    """Return the checked graph of steps; the same steps give the same object.

    Args:
        names: the steps.
        parents: of each step, None for the former one.
        groups: of each step, or None.

    Raises:
        ValueError: what they say is no funnel.
    """
    return FunnelGraph(names, parents, groups)


def check_kinds(steps: Sequence[tuple[str, str]]) -> None:
    """Refuse a value step before the last one: what follows a step depends on whether it happened, not on how much.

    Args:
        steps: name and kind of every step, in funnel order.

    Raises:
        ValueError: a step of kind `value` is not the last one.
    """
    early = [name for name, kind in steps[:-1] if kind == "value"]
    if early:
        raise ValueError(f"step '{early[0]}': only the last step ('{steps[-1][0]}') may have the kind 'value'")


def field_column(field: str) -> str:
    """Name of the shard column that holds a field's ids (int32, or list<int32> for a multi-valued field)."""
    return f"field.{field}"


def label_column(step: str) -> str:
    """Name of the shard column that holds a step's label (int8 0/1; null is unobserved)."""
    return f"label.{step}"


def value_column(step: str) -> str:
    """Name of the shard column that holds a value step's value (float32 >= 0; null is unobserved)."""
    return f"value.{step}"


def score_columns(schema: Schema) -> list[str]:
    """Name the columns of scores: `reach_<step>`, `transition_<step>`, and `value_<step>` of a value.

    Args:
        schema: the funnel.
    """
    names = [f"{word}_{step}" for step in schema.step_names for word in ("reach", "transition")]
    step = schema.value_step
    return names if step is None else [*names, f"value_{step.name}"]


def true_reach_column(step: str) -> str:
    """Name of the shard column that holds the true reach of simulated data."""
    return f"truth.reach.{step}"


def true_transition_column(step: str) -> str:
    """Name of the shard column that holds the true transition of simulated data."""
    return f"truth.transition.{step}"


def true_potential_column(step: str) -> str:
    """Name of the shard column that holds the potential rate of simulated data."""
    return f"truth.potential.{step}"


USER_COLUMN = "user"  # int64 hash of the user id
TIME_COLUMN = "time"  # timestamp in microseconds, UTC
WEIGHT_COLUMN = "weight"  # float32 sample weight
