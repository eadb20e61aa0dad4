"""Funnel: prepare, train and predict on a data frame in three calls."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from funnelcast.config import Component, Experiment, TrainConfig, explain
from funnelcast.data.description import ColumnSplit, Description, Feature, Source, StepColumn
from funnelcast.data.prepare import prepare
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ArtifactError, ConfigError, DataError, choices
from funnelcast.evaluate import evaluate
from funnelcast.files import read_json, temporary_beside
from funnelcast.predict import Predictor
from funnelcast.run import Run
from funnelcast.train import fit

__all__ = ["Funnel"]

Frame = TypeVar("Frame")
_SPLIT = "funnelcast_split"
_SHARES = (0.8, 0.9)  # TRAIN ends, VALID ends


class Funnel:
    """A funnel model with the ways of scikit-learn: fit, predict, save, load.

    Args:
        model: a registered model.
        options: the model's options.
        train: training options, see `TrainConfig`.
        seed: fixes the split, the first weights and the order of rows.

    Example:
        >>> import pyarrow as pa, numpy as np
        >>> draw = np.random.default_rng(0)
        >>> item, click = draw.integers(0, 5, 400), draw.random(400) < 0.5
        >>> frame = pa.table({"item": item, "click": click, "buy": click & (draw.random(400) < 0.5)})
        >>> funnel = Funnel("esmm", options={"hidden": [8]}, train={"epochs": 1}).fit(frame, steps=["click", "buy"])
        >>> funnel.predict(frame).column_names
        ['reach_click', 'transition_click', 'reach_buy', 'transition_buy']
    """

    def __init__(
        self,
        model: str = "apem",
        *,
        options: Mapping[str, Any] | None = None,
        train: Mapping[str, Any] | TrainConfig | None = None,
        seed: int = 0,
    ) -> None:
        if seed < 0:
            raise ConfigError(f"seed should be >= 0, received {seed}")
        try:
            config = train if isinstance(train, TrainConfig) else TrainConfig.model_validate(dict(train or {}))
        except ValidationError as error:
            raise explain("Funnel(train=...)", error, TrainConfig) from error
        self.experiment = Experiment(name=model, model=Component(name=model, options=dict(options or {})), train=config)
        self.seed = seed
        self.report: dict[str, Any] | None = None
        self._run: Run | None = None

    def fit(
        self,
        frame: Any,
        *,
        steps: Sequence[str | StepColumn],
        features: Sequence[str | Feature] | None = None,
        user: str | None = None,
        time: str | None = None,
        weight: str | None = None,
    ) -> Funnel:
        """Train on a frame; 80 % is TRAIN, 10 % VALID, and 10 % TEST for `report`.

        The split follows time when there is a time column, else users when there is a user column, else rows.

        Args:
            frame: pandas, polars or Arrow; one row an opportunity. The index of a pandas frame is not a column.
            steps: label columns in funnel order, or `StepColumn` objects, such as a last one of kind `value`.
            features: columns that the model may use, or `Feature` objects; by default all but the labels, time and
                weight. Text, whole numbers and booleans become categorical, floats numeric, lists multi-valued.
            user: column with the user id.
            time: column with the time of a row.
            weight: column with sample weights >= 0.

        Raises:
            ConfigError: an option is wrong.
            DataError: the frame does not fit.
        """
        if isinstance(steps, str):
            raise ConfigError(f"steps should be a list of label columns, received the text '{steps}'")
        table = _to_arrow(frame)
        if _SPLIT in table.column_names:
            raise DataError(f"frame should have no column '{_SPLIT}', the parts are written under that name")
        work = Path(tempfile.mkdtemp(prefix="funnelcast-"))
        weakref.finalize(self, shutil.rmtree, work, ignore_errors=True)
        pq.write_table(table.append_column(_SPLIT, _split(table, user, time, self.seed)), work / "rows.parquet")
        columns = tuple(s if isinstance(s, StepColumn) else StepColumn(name=s, column=s) for s in steps)
        others = {time, weight, *(c for s in columns for c in (s.column, s.true_reach, s.true_transition))}
        chosen = features if features is not None else [c for c in table.column_names if c not in others]
        try:
            description = Description(
                name="frame",
                source=Source(files=(str(work / "rows.parquet"),)),
                features=tuple(f if isinstance(f, Feature) else _feature(table, f) for f in chosen),
                steps=columns,
                split=ColumnSplit(kind="column", column=_SPLIT),
                user=user,
                time=time,
                weight=weight,
            )
        except ValidationError as error:
            raise explain("Funnel.fit", error, Description) from error
        prepare(description, work / "data")
        data = PreparedData(work / "data")
        self._run = fit(work / "run", data, self.experiment, seed=self.seed)
        self.report = evaluate(self._run, data, Split.TEST)
        return self

    def predict(self, frame: Frame, *, calibrated: bool = True) -> Frame:
        """Predict reach and transition of every step.

        Args:
            frame: pandas, polars or Arrow, with the columns of `fit` (labels are not needed).
            calibrated: use the run's calibration, where it has one.

        Returns:
            A frame of the same library with the columns `reach_<step>` and `transition_<step>`, and `value_<step>`
            where the last step has a value, row by row; a pandas frame keeps its index.

        Raises:
            ArtifactError: the model is not trained.
            DataError: a column is missing or does not fit.
        """
        table = Predictor(self._trained(), calibrated=calibrated).scores(_to_arrow(frame))
        if isinstance(frame, pa.Table):
            return table  # type: ignore[no-any-return]
        backend = nw.get_native_namespace(cast(Any, frame))
        native: Frame = nw.from_dict(
            {name: table[name].to_numpy() for name in table.column_names}, backend=backend
        ).to_native()
        index = nw.maybe_get_index(nw.from_native(cast(Any, frame), eager_only=True))
        if index is not None:
            cast(Any, native).index = index
        return native

    def save(self, path: str | Path) -> None:
        """Write the trained model as a run folder.

        Args:
            path: a new folder.

        Raises:
            ConfigError: the folder exists.
        """
        run = self._trained()
        if Path(path).exists():
            raise ConfigError(f"{path}: should be a new folder, but exists")
        temporary = temporary_beside(Path(path))
        try:
            shutil.copytree(run.folder, temporary, ignore=shutil.ignore_patterns(".*"))
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def load(cls, path: str | Path) -> Funnel:
        """Read a run folder, one that `save` or the command line wrote.

        Args:
            path: the folder.

        Raises:
            ArtifactError: the folder is not a complete run, or a file is damaged.
        """
        run = Run(Path(path))
        run.load_model()
        experiment = run.experiment
        funnel = cls(experiment.model.name, options=experiment.model.options, train=experiment.train, seed=run.seed)
        funnel.experiment, funnel._run = experiment, run
        if run.evaluated:
            funnel.report = read_json(run.folder / "report.json", "a report")
        return funnel

    def _trained(self) -> Run:
        if self._run is None:
            raise ArtifactError("the model should be trained before it predicts; call fit or load first")
        return self._run


def _to_arrow(frame: Any) -> pa.Table:
    """Turn a frame of any library into an Arrow table."""
    if isinstance(frame, pa.Table):
        return frame
    try:
        eager = nw.from_native(frame, eager_only=True)
    except TypeError as error:
        raise DataError(f"frame should be a pandas, polars or Arrow table, received {type(frame).__name__}") from error
    # The index of a pandas frame names its rows and is no column; as one it would become a feature.
    eager = nw.maybe_reset_index(eager)
    try:
        return eager.to_arrow()
    except pa.ArrowException as error:
        raise DataError(f"every column of the frame should hold values of one type, received: {error}") from error


def _feature(table: pa.Table, name: str) -> Feature:
    """Tell a column's kind from its type."""
    if name not in table.column_names:
        raise DataError(f"feature '{name}' should be a column of the frame; {choices(table.column_names, name)}")
    kind = table.schema.field(name).type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return Feature(name=name, kind="multi")
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return Feature(name=name, kind="numeric")
    return Feature(name=name, kind="categorical")


def _split(table: pa.Table, user: str | None, time: str | None, seed: int) -> pa.Array:
    """Name the part of each row: by time, else by user, else by row."""
    for column in (user, time):
        if column is not None and column not in table.column_names:
            raise DataError(f"'{column}' should be a column of the frame; {choices(table.column_names, column)}")
    draw = np.random.default_rng(seed)
    if time is not None:
        if table[time].null_count:
            raise DataError(f"time column '{time}' should have no nulls, received {table[time].null_count}")
        _, inverse, counts = np.unique(table[time].to_numpy(), return_inverse=True, return_counts=True)
        place = np.cumsum(counts)[inverse] / table.num_rows  # rows of one time stay together
    elif user is not None:
        users = table[user].combine_chunks().dictionary_encode(null_encoding="encode")
        place = draw.random(len(users.dictionary))[users.indices.to_numpy()]
    else:
        place = draw.random(table.num_rows)
    parts = np.array([Split.TRAIN.value, Split.VALID.value, Split.TEST.value])
    return pa.array(parts[np.searchsorted(_SHARES, place, side="left")])
