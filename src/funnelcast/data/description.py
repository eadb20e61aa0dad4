"""The dataset file: where raw rows lie, what their columns mean, and how they are split."""

from __future__ import annotations

import datetime
import glob
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic import Field as Key

from funnelcast.config import explain, read_toml
from funnelcast.errors import ConfigError, choices
from funnelcast.graph import FunnelGraph
from funnelcast.schema import check_kinds, funnel_graph

__all__ = [
    "ColumnSplit",
    "Description",
    "Feature",
    "HashSplit",
    "Labels",
    "Source",
    "StepColumn",
    "TargetStatistics",
    "TimeSplit",
    "load_description",
]


class Strict(BaseModel):
    """A record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Strict):
    """The raw files.

    Args:
        files: paths or globs, relative to the dataset file; all of one format and with the same columns.
        format: `csv` or `parquet`; by default told from the first file's ending.
        delimiter: column separator of CSV; found out by default.
        null: text that means a missing value in CSV, besides the empty one.
    """

    files: tuple[str, ...] = Key(min_length=1)
    format: Literal["csv", "parquet"] | None = None
    delimiter: str | None = None
    null: str | None = None


_ENCODERS = {
    "categorical": {"vocabulary": {"min_count"}, "hash": {"buckets"}},
    "numeric": {"log_round": {"scale"}, "quantile": {"buckets"}},
    "multi": {
        "vocabulary": {"min_count", "separator", "max_length"},
        "hash": {"buckets", "separator", "max_length"},
    },
}


class Feature(Strict):
    """One raw column that a model may use.

    Args:
        name: the field's name; also the column's unless `column` says otherwise.
        column: the raw column.
        kind: `categorical`, `numeric`, or `multi` (several categorical values in one cell).
        encoder: `vocabulary` (default) or `hash` for categories; `log_round` (default) or `quantile` for numbers.
        min_count: vocabulary: a value seen less often on TRAIN becomes unknown.
        buckets: hash: number of buckets; quantile: number of equal-mass buckets.
        scale: log_round: buckets per unit of log(1 + |x|), the s of sign(x) * round(log1p(|x|) * s).
        separator: multi: text between values; without it the column must hold lists.
        max_length: multi: values kept from the front.
    """

    name: str
    column: str = ""
    kind: Literal["categorical", "numeric", "multi"] = "categorical"
    encoder: Literal["vocabulary", "hash", "log_round", "quantile"] = "vocabulary"
    min_count: int = Key(default=1, ge=1)
    buckets: int = Key(default=32, ge=2)
    scale: float = Key(default=4.0, gt=0)
    separator: str | None = Key(default=None, min_length=1)
    max_length: int = Key(default=8, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: Any) -> Any:
        if isinstance(data, dict):
            encoder = "log_round" if data.get("kind") == "numeric" else "vocabulary"
            return {"column": data.get("name"), "encoder": encoder, **data}
        return data

    @model_validator(mode="after")
    def _options_fit_the_kind(self) -> Self:
        encoders = _ENCODERS[self.kind]
        if self.encoder not in encoders:
            raise ValueError(
                f"feature '{self.name}': encoder should suit kind '{self.kind}'; {choices(encoders, self.encoder)}"
            )
        given = self.model_fields_set - {"name", "column", "kind", "encoder"}
        wrong = sorted(given - encoders[self.encoder])
        if wrong:
            raise ValueError(
                f"feature '{self.name}': option '{wrong[0]}' does not belong to a {self.kind} feature "
                f"with encoder '{self.encoder}'; {choices(encoders[self.encoder])}"
            )
        return self


class StepColumn(Strict):
    """One step of the funnel.

    Args:
        name: the step's name; also its label column's unless `column` says otherwise.
        column: the raw label column: 0/1 or boolean, null where the label is unknown; of a value step its value, a
            number >= 0.
        parents: steps of which one must have happened before, `not:a` where step a must not; none for the former step
            in the list, an empty list for no step at all.
        group: name that steps with the same parents share if at most one of them can happen.
        kind: `event`, or `value` for a last step that has a value; it is reached where the value is above 0.
        true_reach: raw column with the true reach (simulated data only).
        true_transition: raw column with the true transition (simulated data only).
        true_potential: raw column with the potential rate, the transition if every row had the former step (simulated
            data only); it differs from the true transition where something hidden drives both steps.
    """

    name: str
    column: str = ""
    kind: Literal["event", "value"] = "event"
    parents: tuple[str, ...] | None = None
    group: str | None = None
    true_reach: str | None = None
    true_transition: str | None = None
    true_potential: str | None = None

    @property
    def truths(self) -> dict[str, str]:
        """Kind of truth -> raw column, for those that are there."""
        columns = {"reach": self.true_reach, "transition": self.true_transition, "potential": self.true_potential}
        return {kind: column for kind, column in columns.items() if column}

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"name": data}
        return {"column": data.get("name"), **data} if isinstance(data, dict) else data


Border = datetime.datetime | datetime.date | int | float | str


class TimeSplit(Strict):
    """Split by borders on an ordered column: TRAIN < valid_from <= VALID < test_from <= TEST.

    Args:
        kind: `time`.
        column: a date, timestamp, number or sortable text.
        valid_from: first value of VALID.
        test_from: first value of TEST.
    """

    kind: Literal["time"]
    column: str
    valid_from: Border
    test_from: Border


class HashSplit(Strict):
    """Split by a stable hash of a column, such as the user id.

    Args:
        kind: `hash`.
        column: rows with equal values fall into the same part.
        valid: share of VALID, in (0, 1).
        test: share of TEST, in (0, 1); valid + test < 1.
        salt: text mixed into the hash, for another draw.
    """

    kind: Literal["hash"]
    column: str
    valid: float = Key(default=0.1, gt=0, lt=1)
    test: float = Key(default=0.1, gt=0, lt=1)
    salt: str = ""

    @model_validator(mode="after")
    def _train_is_left(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test should be below 1, received {self.valid} + {self.test}")
        return self


class ColumnSplit(Strict):
    """Split by the values of a column; rows with any other value are left out and counted.

    Args:
        kind: `column`.
        column: the column that names the part.
        train: values of TRAIN.
        valid: values of VALID.
        test: values of TEST.
    """

    kind: Literal["column"]
    column: str
    train: tuple[str | int, ...] = ("train",)
    valid: tuple[str | int, ...] = ("valid",)
    test: tuple[str | int, ...] = ("test",)


class Labels(Strict):
    """What to do with rows that have a later step but not the former one.

    Args:
        violations: `drop` the row, `repair` it (the later step is set to 0), or `refuse` the dataset.
        sample: offending rows kept aside in `violations.parquet`.
    """

    violations: Literal["drop", "repair", "refuse"] = "refuse"
    sample: int = Key(default=100, ge=0)


class TargetStatistics(Strict):
    """Smoothed mean of every step's label, and the row count, by a column or a pair of columns.

    mean_i(key) = (sum_i + smoothing * rate_i) / (n + smoothing), bucketed by quantiles. Out of fold on TRAIN, from all
    of TRAIN elsewhere.

    Args:
        columns: one or two raw columns that form the key.
        smoothing: weight of the overall rate, in rows.
        folds: folds of TRAIN; a row's own fold does not count towards its statistics.
        earlier_only: on TRAIN count only rows with an earlier time instead of the other folds.
        buckets: quantile buckets of each mean.
    """

    columns: tuple[str, ...] = Key(min_length=1, max_length=2)
    smoothing: float = Key(default=20.0, gt=0)
    folds: int = Key(default=5, ge=2)
    earlier_only: bool = False
    buckets: int = Key(default=32, ge=2)


class Description(Strict):
    """A whole dataset file.

    Args:
        name: the dataset's name.
        source: the raw files.
        features: columns that models may use.
        steps: the funnel in order; step 0 is every row.
        split: how rows become TRAIN, VALID and TEST.
        user: column with the user id, for GAUC.
        time: column with the time of a row.
        weight: column with a sample weight >= 0.
        labels: what to do with broken funnels.
        target_statistics: statistics to add, none by default.
        options: options of the dataset that made this description and can make its rows again; none in a dataset file.
        protocol: name of the published protocol that all this follows, for results that may stand beside published
            ones; none by default.
    """

    name: str
    source: Source
    features: tuple[Feature, ...] = Key(min_length=1)
    steps: tuple[StepColumn, ...] = Key(min_length=1)
    split: TimeSplit | HashSplit | ColumnSplit = Key(discriminator="kind")
    user: str | None = None
    time: str | None = None
    weight: str | None = None
    labels: Labels = Key(default_factory=Labels)
    target_statistics: tuple[TargetStatistics, ...] = ()
    options: dict[str, Any] = Key(default_factory=dict)
    protocol: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _expand_names(cls, data: Any) -> Any:
        """`names = [...]` in a feature stands for one feature each with the same options."""
        if not isinstance(data, dict) or not isinstance(data.get("features"), list | tuple):
            return data
        features: list[Any] = []
        for feature in data["features"]:
            if isinstance(feature, dict) and isinstance(feature.get("names"), list | tuple):
                options = {k: v for k, v in feature.items() if k != "names"}
                features.extend({"name": name, **options} for name in feature["names"])
            else:
                features.append(feature)
        return {**data, "features": features}

    @property
    def graph(self) -> FunnelGraph:
        """The funnel's shape: a chain unless steps name parents or groups."""
        steps = self.steps
        return funnel_graph(
            tuple(s.name for s in steps), tuple(s.parents for s in steps), tuple(s.group for s in steps)
        )

    @model_validator(mode="after")
    def _features_are_no_outcomes(self) -> Self:
        for kind, names in (("feature", [f.name for f in self.features]), ("step", [s.name for s in self.steps])):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} names should be unique, received twice: {', '.join(twice)}")
        check_kinds([(step.name, step.kind) for step in self.steps])
        if not self.graph.is_chain and self.labels.violations == "repair":
            raise ValueError(
                "labels.violations = 'repair' knows which step to undo in a chain alone; use 'drop' or 'refuse'"
            )
        outcomes = {c: s.name for s in self.steps for c in (s.column, *s.truths.values())}
        keys = [(f"feature '{f.name}'", f.column) for f in self.features]
        keys += [("target_statistics", c) for t in self.target_statistics for c in t.columns]
        for place, column in keys:
            if column in outcomes:
                raise ValueError(
                    f"{place} should not use column '{column}': it is a label or truth of step '{outcomes[column]}'"
                )
        if any(t.earlier_only for t in self.target_statistics) and self.time is None:
            raise ValueError("target_statistics with earlier_only need the key 'time'")
        return self


def _beside(path: Path, file: str) -> str:
    """A path or pattern relative to the folder of the dataset file, whose own name is no pattern."""
    plain = path.parent / file
    return str(plain if plain.is_file() or not glob.has_magic(file) else Path(glob.escape(str(path.parent))) / file)


def load_description(path: Path) -> Description:
    """Read a dataset file; its paths become relative to the file's own folder.

    Args:
        path: a TOML file.

    Raises:
        ConfigError: the file, a key or a value is wrong; the message names it and the valid choices.
    """
    data = read_toml(path)
    try:
        description = Description.model_validate({"name": path.stem, **data})
    except ValidationError as error:
        raise explain(path, error, Description) from error
    if description.options:
        raise ConfigError(f"{path}: unknown key 'options'; it belongs to registered datasets")
    files = tuple(_beside(path, file) for file in description.source.files)
    return description.model_copy(update={"source": description.source.model_copy(update={"files": files})})
