"""LightGBM: one booster a step."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from funnelcast.data.encode import Encoders
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ArtifactError, ConfigError
from funnelcast.files import read_json, write_bytes, write_json
from funnelcast.layers import FunnelModel, check_at_least, check_choice, reach_log_odds, transition_log_odds
from funnelcast.prediction import Prediction
from funnelcast.progress import RowProgress
from funnelcast.registry import TREES
from funnelcast.schema import Schema
from funnelcast.space import Choice, LogUniform, SearchSpace, Uniform
from funnelcast.trees._columns import Columns
from funnelcast.trees._history import StepFit, history
from funnelcast.trees._rows import Rows

__all__ = ["LightGbm"]

FORMAT = 1
Space = Literal["entire", "local"]
_METRIC = "binary_logloss"
_INDEX = "trees.json"
_LEAVES = re.compile(r"^leaf_value=(.*)$", re.MULTILINE)
_ALWAYS = {
    "objective": "binary",
    "metric": _METRIC,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,  # or else the faster way of the moment, with another order of sums
    "bagging_freq": 1,
}


@TREES.register
class LightGbm(FunnelModel):
    """Gradient boosted trees. Ke et al., NeurIPS 2017, "LightGBM: A Highly Efficient Gradient Boosting Decision Tree".

    logit p_i = sum_r eta tree_{i,r}(x), x the ids as numbers (`funnelcast.trees._columns`)

    One booster a step, which sees nothing of the other steps. After each round the step's log-loss on VALID is
    measured; the trees up to the lowest one are kept. The parameters are the values of the leaves; before `fit` there
    is one leaf a step, the rate on TRAIN.

    Args:
        schema: the fields and the funnel.
        num_leaves: leaves of a tree, >= 2.
        max_depth: depth of a tree, 0 for any.
        learning_rate: eta in (0, 1], by which every tree is shrunk.
        rounds: trees of a step at the most, >= 1.
        patience: rounds without a lower log-loss on VALID before a step ends early; 0 never ends early.
        min_data_in_leaf: rows of a leaf, >= 1.
        feature_fraction: share of the columns that a tree may use, in (0, 1].
        bagging_fraction: share of the rows that a tree sees, in (0, 1].
        lambda_l2: L2 term on the leaves, >= 0.
        max_bin: bins of a column with an order, >= 2.
        cat_smooth: rows by which a class's gradient is pulled to 0 before classes are put in order, >= 0.
        cat_l2: L2 term of a split by classes, >= 0.
        largest_category: a category of up to so many ids is taken as classes without an order, of which a split picks
            a subset; one of more ids as ordered numbers, the most frequent value first; >= 0.
        indicators: values of a multi-valued field that get a column of 0 and 1, the most frequent ones; 0 for one
            column for each place in the cell instead.
        space: `entire` fits p_i on all rows; `local` fits c_i on the rows with the former step and multiplies.

    Raises:
        ConfigError: an option is out of its range, LightGBM is not installed, the funnel is a graph, or it ends in a
            value.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = (Step(name="click", reach_rate=0.25, transition_rate=0.25),)
        >>> trees = LightGbm(Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps))
        >>> round(float(trees(torch.tensor([[2]])).reach), 4), sum(leaf.numel() for leaf in trees.parameters())
        (0.25, 1)
    """

    variants: ClassVar[dict[str, dict[str, Any]]] = {"lightgbm_local": {"space": "local"}}
    search_space: ClassVar[SearchSpace] = {
        "num_leaves": Choice(15, 31, 63),
        "learning_rate": LogUniform(0.02, 0.2, grid=(0.02, 0.05, 0.1, 0.2)),
        "min_data_in_leaf": Choice(50, 100, 300),
        "feature_fraction": Uniform(0.2, 1.0, grid=(0.2, 0.5, 1.0)),
        "lambda_l2": LogUniform(0.1, 30.0, grid=(0.1, 1.0, 10.0, 30.0)),
        "largest_category": Choice(0, 100, 100_000),
    }

    def __init__(
        self,
        schema: Schema,
        *,
        num_leaves: int = 31,
        max_depth: int = 0,
        learning_rate: float = 0.05,
        rounds: int = 2000,
        patience: int = 50,
        min_data_in_leaf: int = 100,
        feature_fraction: float = 0.5,
        bagging_fraction: float = 1.0,
        lambda_l2: float = 1.0,
        max_bin: int = 255,
        cat_smooth: float = 10.0,
        cat_l2: float = 10.0,
        largest_category: int = 0,
        indicators: int = 64,
        space: Space = "entire",
    ) -> None:
        super().__init__(schema)
        _library()
        if schema.value_step is not None:
            raise ConfigError(
                f"model 'lightgbm' should get steps of kind 'event', received '{schema.value_step.name}' of kind "
                "'value'; prepare it as an event, or take another model"
            )
        check_at_least(2, num_leaves=num_leaves, max_bin=max_bin)
        check_at_least(1, rounds=rounds, min_data_in_leaf=min_data_in_leaf)
        check_at_least(0, patience=patience, max_depth=max_depth)
        check_at_least(0, largest_category=largest_category, indicators=indicators)
        shares = {"feature_fraction": feature_fraction, "bagging_fraction": bagging_fraction}
        terms = {"lambda_l2": lambda_l2, "cat_smooth": cat_smooth, "cat_l2": cat_l2}
        _check_shares(learning_rate=learning_rate, **shares)
        _check_terms(**terms)
        check_choice("space", space, Space)
        self.rounds, self.patience, self.space = rounds, patience, space
        self._kinds = (largest_category, indicators)
        counts = {"num_leaves": num_leaves, "max_depth": max_depth or -1, "min_data_in_leaf": min_data_in_leaf}
        self._options: dict[str, Any] = {
            **_ALWAYS,
            **counts,
            "max_bin": max_bin,
            "learning_rate": learning_rate,
            **shares,
            **terms,
        }
        starts = reach_log_odds(schema) if space == "entire" else transition_log_odds(schema)
        self.leaves = nn.Parameter(torch.tensor(starts), requires_grad=False)
        self._columns = Columns(())
        self._boosters: list[Any] = []
        self._texts: list[str] = []

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        if self._boosters:
            matrix, threads = self._columns.matrix(ids.cpu().numpy()), torch.get_num_threads()
            raw = [booster.predict(matrix, raw_score=True, num_threads=threads) for booster in self._boosters]
            logits = torch.from_numpy(np.stack(raw, axis=1)).to(ids.device)  # [B, S]
        else:
            logits = self.leaves.expand(len(ids), -1)
        return Prediction.from_reach(logits) if self.space == "entire" else Prediction.from_transitions(logits)

    def fit(self, data: PreparedData, *, seed: int, title: str) -> dict[str, Any]:
        """Grow the trees of every step on TRAIN and choose their number on VALID.

        Args:
            data: a prepared folder with the model's schema.
            seed: >= 0; fixes which columns and rows a tree sees. The number of threads changes nothing.
            title: what the progress bar says.

        Returns:
            The content of `history.json`.

        Raises:
            DataError: a step has no row that its trees could learn from or be measured on.
            ArtifactError: a shard or the encoders are damaged.
        """
        started = time.perf_counter()
        self._columns = Columns.of(data.schema, Encoders.load(data.folder / "encoders.json"), *self._kinds)
        train, valid = (Rows.read(data, split, self._columns) for split in (Split.TRAIN, Split.VALID))
        options = {**self._options, "seed": seed, "num_threads": torch.get_num_threads()}
        grown, seen = [], None
        with RowProgress(title, len(train.matrix) * self.schema.n_steps) as progress:
            for step in range(self.schema.n_steps):
                seen = self._bins(step, train, options, seen)
                grown.append(self._grow(step, seen.bins, valid, options, progress))
        self._take([text for text, _ in grown])
        return history([fit for _, fit in grown], len(train.matrix), time.perf_counter() - started)

    def _bins(self, step: int, train: Rows, options: dict[str, Any], former: _Seen | None) -> _Seen:
        """Sort the rows of a step into bins, or take the former step's bins where the rows are the same."""
        rows = train.chosen(step, self.schema.step_names, local=self.space == "local")
        if former is not None and np.array_equal(rows, former.rows):
            former.bins.set_label(train.labels[rows, step])
            return former
        labels, weight = train.labels[rows, step], train.weight[rows]
        matrix = train.matrix if len(rows) == len(train.matrix) else train.matrix[rows]  # which copies
        bins = _library().Dataset(
            matrix,
            label=labels,
            weight=weight,
            categorical_feature=self._columns.categorical,
            params=options,
        )
        return _Seen(rows, bins.construct())

    def _grow(
        self, step: int, bins: Any, valid: Rows, options: dict[str, Any], progress: RowProgress
    ) -> tuple[str, StepFit]:
        """Grow the trees of one step; return those that are kept, as text, and how it went."""
        started, library, name = time.perf_counter(), _library(), self.schema.step_names[step]
        rows = valid.chosen(step, self.schema.step_names, local=self.space == "local")
        labels, weight = valid.labels[rows, step], valid.weight[rows]
        held_out = library.Dataset(valid.matrix[rows], label=labels, weight=weight, reference=bins, params=options)
        record: dict[str, Any] = {}
        share = bins.num_data() // self.rounds

        def tell(state: Any) -> None:
            progress.advance(share, f"{name} round {state.iteration + 1}")

        calls = [library.record_evaluation(record), tell]
        if self.patience:
            calls.append(library.early_stopping(self.patience, verbose=False))
        booster = library.train(
            options, bins, self.rounds, valid_sets=[held_out], valid_names=["valid"], callbacks=calls
        )
        fit = StepFit(
            name, tuple(map(float, record["valid"][_METRIC])), valid.entropy(step, rows), time.perf_counter() - started
        )
        progress.advance(bins.num_data() - share * len(fit.losses))
        return booster.model_to_string(num_iteration=fit.best_round), fit

    def _take(self, texts: list[str]) -> None:
        """Take boosters in LightGBM's text format, one a step."""
        self._boosters = [_library().Booster(model_str=text) for text in texts]
        self._texts = texts
        leaves = [float(value) for text in texts for line in _LEAVES.findall(text) for value in line.split()]
        self.leaves = nn.Parameter(torch.tensor(leaves, dtype=torch.float64), requires_grad=False)

    def save(self, folder: Path) -> tuple[str, ...]:
        """Write the boosters and what they read into a run's folder.

        Args:
            folder: gets `trees.json` and `booster-<number of the step>.txt`.

        Returns:
            The names of the files.
        """
        names = tuple(f"booster-{step}.txt" for step in range(len(self._texts)))
        for name, text in zip(names, self._texts, strict=True):
            write_bytes(folder / name, text.encode())
        columns = self._columns.to_json()
        write_json(folder / _INDEX, {"format": FORMAT, "lightgbm": version("lightgbm"), "columns": columns})
        return (_INDEX, *names)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; no code in the files is run, they hold numbers alone.

        Args:
            folder: of the run.

        Raises:
            ArtifactError: a file is missing or damaged.
        """
        index = read_json(folder / _INDEX, "the columns of trees", "columns", version=FORMAT)
        paths = [folder / f"booster-{step}.txt" for step in range(self.schema.n_steps)]
        try:
            self._columns = Columns.from_json(index["columns"], self.schema.width)
            self._take([path.read_text(encoding="utf-8") for path in paths])
        except (OSError, ValueError, TypeError, _library().basic.LightGBMError) as error:
            raise ArtifactError(f"{folder}: should hold {_INDEX} and a booster a step, received: {error}") from error
        if any(booster.num_feature() != len(self._columns.members) for booster in self._boosters):
            raise ArtifactError(f"{folder}: its boosters should read {len(self._columns.members)} columns")


@dataclass(frozen=True)
class _Seen:
    """The rows of TRAIN that trees have seen.

    Args:
        rows: [n] their numbers.
        bins: LightGBM's dataset.
    """

    rows: npt.NDArray[np.int64]
    bins: Any


def _library() -> Any:
    """Import LightGBM."""
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: one of the system's libraries is missing
        raise ConfigError(
            f"model 'lightgbm' needs LightGBM, which cannot be imported here ({error}); "
            "install it with: pip install 'funnelcast[trees]'"
        ) from error
    return lightgbm


def _check_shares(**options: float) -> None:
    """Refuse numbers outside (0, 1]."""
    for option, value in options.items():
        if not 0 < value <= 1:
            raise ConfigError(f"option '{option}' should be in (0, 1], received {value!r}")


def _check_terms(**options: float) -> None:
    """Refuse negative numbers."""
    for option, value in options.items():
        if value < 0:
            raise ConfigError(f"option '{option}' should be >= 0, received {value!r}")
