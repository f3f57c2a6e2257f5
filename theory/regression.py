r"""Weighted least squares, by singular values, for any features and targets.

.. math:: K=\arg\min_K\|D^{1/2}(ZK-Y)\|_F=(D^{1/2}Z)^+D^{1/2}Y, \qquad \Pi Y = ZK

The fit of reward and next features to a problem's own features is in ``td``; this one is for what else is
fitted: state features, values, residuals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from theory.checks import EPS, Array
from theory.whitening import unit_columns


@dataclass(frozen=True, eq=False)
class Regression:
    """A weighted least-squares fit.

    Attributes:
        coefficients: (d, m), of least norm if several fit equally well.
        rank: of the weighted features.
        condition: largest over smallest singular value kept of the weighted features with columns of norm
            one.
    """

    coefficients: Array
    rank: int
    condition: float


def weighted_regression(features: Array, targets: Array, weights: Array) -> Regression:
    """Fit (n, m) targets to (n, d) features under (n,) non-negative weights.

    Singular values of the weighted, column-scaled features below ``max(n, d) * eps`` times the largest count
    as zero, as everywhere in this package. Weights need not sum to one; if all are zero so is the fit.

    Example:
        >>> fit = weighted_regression(np.ones((2, 1)), np.array([[0.0], [4.0]]), np.array([3.0, 1.0]))
        >>> fit.coefficients.round(12).tolist(), fit.rank
        ([[1.0]], 1)
    """
    root = np.sqrt(weights)[:, None]
    F, scale = unit_columns(root * features)
    Q, R = np.linalg.qr(F)
    U, values, Vt = np.linalg.svd(R)
    rank = int(np.sum(values > max(F.shape) * EPS * values[0])) if values[0] > 0.0 else 0
    kept = Vt[:rank].T / values[:rank]
    coefficients = (kept @ (U[:, :rank].T @ (Q.T @ (root * targets)))) / scale[:, None]
    if rank < F.shape[1]:
        null = np.linalg.qr(Vt[rank:].T / scale[:, None])[0]
        coefficients = coefficients - null @ (null.T @ coefficients)
    condition = float(values[0] / values[rank - 1]) if rank else 1.0
    return Regression(np.asarray(coefficients, dtype=np.float64), rank, condition)
