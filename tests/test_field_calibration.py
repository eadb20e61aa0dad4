"""Calibration errors within a field's values, worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelcast.field_calibration import field_calibration
from funnelcast.metrics import Undefined, pcoc

P = np.array([0.5, 0.5, 0.2, 0.1, 0.9])
Y = np.array([1, 0, 1, 0, 0])
Z = np.array([3, 3, 8, 8, 1])


def test_by_hand() -> None:
    """Gaps: value 3: 0; value 8: 1 - 0.3 = 0.7; value 1: 0.9, without positives."""
    found = field_calibration(P, Y, Z)
    assert found["field_ece"] == pytest.approx((0 + 0.7 + 0.9) / 5)
    assert found["field_rce"] == pytest.approx((2 * 0 + 2 * 0.7) / 4)
    assert found["field_rce_covered"] == pytest.approx(0.8)


def test_weights_are_rows_and_rows_of_weight_zero_do_not_count() -> None:
    weight = np.array([2.0, 1.0, 3.0, 1.0, 0.0])
    repeated = np.repeat(np.arange(5), weight.astype(int))
    assert field_calibration(P, Y, Z, weight) == pytest.approx(field_calibration(P[repeated], Y[repeated], Z[repeated]))


def test_without_rows_or_positives_it_is_undefined() -> None:
    empty = field_calibration(P[:0], Y[:0], Z[:0])
    assert set(empty.values()) == {Undefined("no rows")}
    found = field_calibration(P, np.zeros(5), Z)
    assert found["field_rce"] == Undefined("no positives in 5 rows") and found["field_rce_covered"] == 0.0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30))
def test_finer_values_never_have_a_smaller_error(rows: list[tuple[float, bool, int]]) -> None:
    p, y, z = (np.array(column) for column in zip(*rows, strict=True))
    fine, coarse, one = (field_calibration(p, y, v)["field_ece"] for v in (z, z // 2, z * 0))
    assert isinstance(fine, float) and isinstance(coarse, float) and isinstance(one, float)
    assert fine >= coarse - 1e-12 and coarse >= one - 1e-12
    ratio: Any = pcoc(p, y)
    if not isinstance(ratio, Undefined):
        assert one == pytest.approx(abs(ratio - 1) * y.mean(), abs=1e-9)
