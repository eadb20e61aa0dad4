"""The public names are a list that changes on purpose only."""

from __future__ import annotations

import pytest

import funnelcast

PUBLIC = [
    "AucHistogram", "Batch", "Description", "Experiment", "Feature", "Field", "Funnel", "FunnelcastError", "Prediction",
    "PreparedData", "Run", "Schema", "Split", "Step", "StepColumn", "TrainConfig", "__version__",
]  # fmt: skip


def test_public_names() -> None:
    assert funnelcast.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_imported(name: str) -> None:
    value = getattr(funnelcast, name)
    assert isinstance(value, str) or value.__name__ == name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Funel'"):
        funnelcast.Funel  # noqa: B018
