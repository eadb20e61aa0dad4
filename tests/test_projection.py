"""Principal components against the eigenvectors of the covariance; t-SNE keeps neighbours together."""

from __future__ import annotations

import numpy as np
import pytest

from funnelcast.projection import principal_components, tsne


def test_components_are_those_of_the_covariance() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(60, 5)) * np.array([5.0, 3.0, 1.0, 0.5, 0.1]) + 7.0
    points, shares = principal_components(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    for axis in (0, 1):
        expected = (rows - rows.mean(axis=0)) @ vectors[:, -1 - axis]
        assert np.abs(points[:, axis]) == pytest.approx(np.abs(expected))
        assert shares[axis] == pytest.approx(values[-1 - axis] / values.sum())


@pytest.mark.parametrize("rows", [np.full((12, 3), 2.5), np.zeros((12, 0)), np.ones((1, 4))])
def test_rows_that_do_not_differ_lie_on_one_point(rows: np.ndarray) -> None:
    points, shares = principal_components(rows)
    assert points.tolist() == [[0.0, 0.0]] * len(rows)
    assert shares == [0.0, 0.0]


def test_one_number_a_row_has_one_component() -> None:
    points, shares = principal_components(np.array([[1.0], [2.0], [6.0]]))
    assert np.abs(points[:, 0]).tolist() == pytest.approx([2.0, 1.0, 3.0])
    assert points[:, 1].tolist() == [0.0] * 3
    assert shares == [1.0, 0.0]


def test_tsne_keeps_clusters_apart_and_repeats_itself() -> None:
    draw = np.random.default_rng(0)
    rows = np.concatenate([draw.normal(size=(20, 4)), draw.normal(size=(15, 4)) + 30.0])
    first, _ = principal_components(rows)
    points = tsne(rows, first, seed=3)
    assert points.shape == (35, 2) and bool(np.isfinite(points).all())
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    assert ((nearest < 20) == (np.arange(35) < 20)).all()
    assert np.array_equal(points, tsne(rows, first, seed=3))


def test_tsne_of_equal_rows_is_finite_and_of_few_rows_refused() -> None:
    assert np.isfinite(tsne(np.ones((12, 3)), np.zeros((12, 2)))).all()
    with pytest.raises(ValueError, match="t-SNE should get at least 10 rows, received 9"):
        tsne(np.ones((9, 3)), np.zeros((9, 2)))
