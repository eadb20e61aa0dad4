"""Two numbers a row that can be drawn: principal components, and t-SNE.

Shape legend: N rows, D numbers a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

__all__ = ["FEWEST_ROWS", "principal_components", "tsne"]

Array = NDArray[Any]
FEWEST_ROWS = 10  # t-SNE needs more rows than its perplexity
_PERPLEXITY = 30.0
_START = 1e-4  # spread of t-SNE's first positions, as in scikit-learn


def principal_components(rows: Array) -> tuple[Array, list[float]]:
    """Project rows onto their first two principal components.

    Args:
        rows: [N, D] finite numbers, N >= 1.

    Returns:
        [N, 2] float64, with 0 where there is no second component, and the shares of the variance that the two hold.

    Example:
        >>> points, shares = principal_components(np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]))
        >>> np.abs(points[:, 0]).round(6).tolist(), shares[0]
        ([5.0, 0.0, 5.0], 1.0)
    """
    rows = np.asarray(rows, dtype=np.float64)
    points, shares = np.zeros((len(rows), 2)), [0.0, 0.0]
    if len(rows) > 1 and rows.std(axis=0).any():
        pca = PCA(n_components=min(2, *rows.shape), svd_solver="full").fit(rows)
        found = pca.transform(rows)
        points[:, : found.shape[1]] = found
        shares[: found.shape[1]] = pca.explained_variance_ratio_.tolist()
    return points, shares


def tsne(rows: Array, first: Array, seed: int = 0) -> Array:
    """Place rows by t-SNE so that neighbours stay neighbours; distances between far groups mean nothing.

    Args:
        rows: [N, D] finite numbers, N >= 10.
        first: [N, 2] positions to start from, such as principal components, which keep the coarse order.
        seed: >= 0.

    Returns:
        [N, 2] float64.

    Raises:
        ValueError: there are fewer than 10 rows.

    Source: van der Maaten and Hinton 2008, "Visualizing data using t-SNE"; scikit-learn's Barnes-Hut form.
    """
    if len(rows) < FEWEST_ROWS:
        raise ValueError(f"t-SNE should get at least {FEWEST_ROWS} rows, received {len(rows)}")
    spread = float(first[:, 0].std())
    start = (first / spread if spread > 0.0 else first) * _START
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    model = TSNE(perplexity=perplexity, init=start.astype(np.float32), random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(np.asarray(rows, dtype=np.float32)), dtype=np.float64)
