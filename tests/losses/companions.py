"""Predictions with a companion, and rows by their labels, for the losses that debias."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.prediction import Prediction


def logits(*columns: list[float]) -> Tensor:
    """Turn probabilities, one list a step, into logits [B, S]."""
    p = torch.tensor(columns).T
    return torch.log(p) - torch.log1p(-p)


def predict(x: Tensor, u: Tensor) -> Prediction:
    """Make a prediction of transition logits and a companion."""
    return replace(Prediction.from_transitions(x), companion=u)


def rows(labels: list[list[int]]) -> Batch:
    """Make a batch of labels."""
    return Batch.of(torch.zeros(len(labels), 1, dtype=torch.int32), torch.tensor(labels))
