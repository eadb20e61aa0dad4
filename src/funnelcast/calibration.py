"""Calibration of a trained run: log-odds of every step in, log-probabilities out; NumPy alone.

`funnelcast.calibration_fit` fits it. Shape legend: N rows, S steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from funnelcast.errors import ArtifactError, choices
from funnelcast.files import json_sha256, read_json
from funnelcast.scores import Scores

__all__ = ["METHODS", "Calibration", "LogProbabilities", "Method", "StepMap"]

Array = NDArray[Any]
Method = Literal["joint", "platt", "temperature", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)
FORMAT = 1
# As `Prediction.from_reach` reports a reach that rises along the funnel.
_LARGEST_LOG_RATIO = -1e-4
_LARGEST_LOG_ODDS = 1e4  # keeps products finite
_NUMBERS = ("slope", "intercept", "former", "temperature")


class LogProbabilities(NamedTuple):
    """Log-probabilities [N, S] <= 0, as in `Prediction`."""

    log_reach: Array
    log_not_reach: Array
    log_transition: Array
    log_not_transition: Array


def log_sigmoid(z: Array) -> Array:
    """Compute log sigmoid(z) of any shape without overflow."""
    value: Array = -np.logaddexp(0.0, -z)
    return value


@dataclass(frozen=True)
class StepMap:
    """What a calibration does to the log-odds of one step; the identity by default.

    z' = slope z + intercept + former l, with l the calibrated log-odds of the former step's reach; or, with thresholds,
    the straight lines between the points (log_odds, probability), and level beyond the first and the last one.

    Args:
        slope: > 0.
        intercept: any number.
        former: any number; 0 but in a joint calibration.
        log_odds: [P] rising; empty without thresholds.
        probability: [P] in (0, 1), not falling.
        reason: why the map is not what the method asks for, or None.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> StepMap(slope=2.0, intercept=1.0)(np.array([0.5]), np.array([0.0])).tolist()
        [2.0]
    """

    slope: float = 1.0
    intercept: float = 0.0
    former: float = 0.0
    log_odds: tuple[float, ...] = ()
    probability: tuple[float, ...] = ()
    reason: str | None = None

    def __post_init__(self) -> None:
        linear = np.array([self.slope, self.intercept, self.former])
        if not (np.isfinite(linear).all() and self.slope > 0):
            raise ValueError(f"slope should be > 0 and all numbers finite, received {linear.tolist()}")
        x, p = np.array(self.log_odds), np.array(self.probability)
        if len(x) != len(p) or not np.isfinite(x).all() or (np.diff(x) <= 0).any():
            raise ValueError("thresholds should rise and have one probability each")
        if not ((p > 0) & (p < 1)).all() or (np.diff(p) < 0).any():
            raise ValueError("probabilities of thresholds should be in (0, 1) and not fall")

    def __call__(self, z: Array, former: Array) -> Array:
        """Map log-odds z [N], beside calibrated log-odds of the former step's reach [N]."""
        if self.log_odds:
            p = np.interp(z, self.log_odds, self.probability)
            return np.asarray(np.log(p) - np.log1p(-p))
        mapped: Array = self.slope * z + self.intercept + self.former * former
        return mapped


@dataclass(frozen=True)
class Calibration:
    """A map a step, fitted on VALID, and how the maps make reach and transition.

    `joint` maps the log-odds of every transition and multiplies, p_i = c_1 ... c_i, so reach cannot rise along the
    funnel. The other methods map the log-odds of every reach by itself; a transition is then the ratio c_i = p_i /
    p_{i-1}, and 1 - 1e-4 where reach rises.

    Args:
        method: a word of `METHODS`.
        steps: names of the steps in funnel order.
        maps: one a step.
        fitted_on: what it was fitted on, JSON values.

    Example:
        >>> calibration = Calibration("joint", ("click", "buy"), (StepMap(intercept=1.0), StepMap()), {})
        >>> found = calibration.apply(np.array([[-1.0, -2.0]]), np.array([[-1.0, 0.0]]))
        >>> np.exp(found.log_reach).tolist()
        [[0.5, 0.25]]
    """

    method: Method
    steps: tuple[str, ...]
    maps: tuple[StepMap, ...]
    fitted_on: Mapping[str, Any]

    def apply(self, reach: Array, transition: Array) -> LogProbabilities:
        """Calibrate log-odds.

        Args:
            reach: [N, S] log-odds of p_i.
            transition: [N, S] log-odds of c_i.

        Returns:
            Log-probabilities of the type that came in.

        Raises:
            ValueError: the shape is not [N, S], or a number is NaN.
        """
        for name, value in (("reach", reach), ("transition", transition)):
            if value.shape != (len(reach), len(self.steps)) or np.isnan(value).any():
                raise ValueError(f"{name} should be numbers [N, {len(self.steps)}], received {list(value.shape)}")
        of = transition if self.method == "joint" else reach
        z = np.clip(of.astype(np.float64), -_LARGEST_LOG_ODDS, _LARGEST_LOG_ODDS)
        columns = self._product(z) if self.method == "joint" else self._ratio(z)
        return LogProbabilities(*(np.minimum(column, 0.0).astype(of.dtype) for column in columns))

    def _product(self, z: Array) -> list[Array]:
        """Multiply calibrated transitions."""
        log_p, log_not_p = np.zeros(len(z)), np.full(len(z), -np.inf)  # step 0 happened on every row
        rows = []
        for i, mapping in enumerate(self.maps):
            mapped = mapping(z[:, i], log_p - log_not_p if i else np.zeros(len(z)))
            log_c, log_not_c = log_sigmoid(mapped), log_sigmoid(-mapped)
            log_not_p = np.minimum(np.logaddexp(log_not_p, log_p + log_not_c), 0.0)
            log_p = log_p + log_c
            rows.append((log_p, log_not_p, log_c, log_not_c))
        return [np.stack(column, axis=1) for column in zip(*rows, strict=True)]

    def _ratio(self, z: Array) -> list[Array]:
        """Divide neighbouring calibrated reaches."""
        mapped = np.stack([mapping(z[:, i], np.zeros(len(z))) for i, mapping in enumerate(self.maps)], axis=1)
        log_p, log_not_p = log_sigmoid(mapped), log_sigmoid(-mapped)
        ratio = np.minimum(log_p[:, 1:] - log_p[:, :-1], _LARGEST_LOG_RATIO)
        log_c = np.concatenate([log_p[:, :1], ratio], axis=1)
        log_not_c = np.concatenate([log_not_p[:, :1], np.log(-np.expm1(ratio))], axis=1)
        return [log_p, log_not_p, log_c, log_not_c]

    def scores(self, scores: Scores) -> Scores:
        """Calibrate the predictions beside labels; a value given the last step stays.

        Args:
            scores: of the same steps.

        Raises:
            ValueError: the steps are others.
        """
        if scores.steps != self.steps:
            raise ValueError(f"steps should be {list(self.steps)}, received {list(scores.steps)}")
        found = self.apply(
            scores.log_reach - scores.log_not_reach, scores.log_transition - scores.log_not_transition
        )._asdict()
        if scores.log_mean_value is not None:
            found["expected_value"] = np.exp(found["log_reach"][:, -1] + scores.log_mean_value)
        return replace(scores, **found)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values with a checksum over all of them; the same fit gives the same text."""
        steps = [
            {"name": name, "parameters": self._parameters(mapping), "reason": mapping.reason}
            for name, mapping in zip(self.steps, self.maps, strict=True)
        ]
        record = {"method": self.method, "fitted_on": dict(self.fitted_on), "steps": steps}
        return {"format": FORMAT, **record, "sha256": json_sha256(record)}

    def _parameters(self, mapping: StepMap) -> dict[str, Any]:
        if mapping.log_odds:
            return {"log_odds": list(mapping.log_odds), "probability": list(mapping.probability)}
        if self.method == "temperature":
            return {"temperature": 1.0 / mapping.slope}
        linear = {"slope": mapping.slope, "intercept": mapping.intercept}
        return {**linear, "former": mapping.former} if self.method == "joint" else linear

    @classmethod
    def load(cls, path: Path, steps: Sequence[str], weights_sha256: str) -> Calibration:
        """Read a calibration that was fitted for given weights.

        Args:
            path: a `calibration.json`.
            steps: names of the steps it should have.
            weights_sha256: checksum of the weights whose predictions it should calibrate.

        Raises:
            ArtifactError: the file is missing, damaged, or was fitted for another run.
        """
        kind = "a calibration"
        record = read_json(path, kind, "method", "fitted_on", "steps", "sha256", version=FORMAT)
        try:
            parts = [{key: step[key] for key in ("name", "parameters", "reason")} for step in record["steps"]]
            signed = {"method": record["method"], "fitted_on": record["fitted_on"], "steps": parts}
            if (found := json_sha256(signed)) != record["sha256"]:
                raise ArtifactError(
                    f"{path}: has changed or is damaged: sha256 should be {record['sha256']}, received {found}"
                )
            if record["method"] not in METHODS:
                raise ArtifactError(f"{path}: method {record['method']!r} is unknown; {choices(METHODS)}")
            maps = tuple(_read_map(part["parameters"], part["reason"]) for part in parts)
            calibration = cls(record["method"], tuple(part["name"] for part in parts), maps, record["fitted_on"])
            fitted_for = calibration.fitted_on.get("weights_sha256")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ArtifactError(f"{path}: should be {kind}, received damaged parameters: {error!r}") from error
        if calibration.steps != tuple(steps):
            raise ArtifactError(f"{path}: steps should be {list(steps)}, received {list(calibration.steps)}")
        if fitted_for != weights_sha256:
            raise ArtifactError(f"{path}: was fitted for other weights; fit it again by 'funnelcast calibrate'")
        return calibration


def _read_map(parameters: Mapping[str, Any], reason: str | None) -> StepMap:
    """Undo `Calibration._parameters`."""
    if "log_odds" in parameters:
        points = {name: tuple(float(v) for v in parameters[name]) for name in ("log_odds", "probability")}
        return StepMap(log_odds=points["log_odds"], probability=points["probability"], reason=reason)
    numbers = {name: float(parameters[name]) for name in _NUMBERS if name in parameters}
    if temperature := numbers.pop("temperature", None):
        return StepMap(slope=1.0 / temperature, reason=reason)
    return StepMap(numbers["slope"], numbers["intercept"], numbers.get("former", 0.0), reason=reason)
