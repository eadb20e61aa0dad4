"""The three parts of a dataset."""

from __future__ import annotations

from enum import Enum

__all__ = ["Split"]


class Split(Enum):
    """TRAIN fits weights and encoders, VALID picks the epoch, TEST is opened by `evaluate` and `compare` only."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"
