"""Statistics of the probes, on NumPy arrays: ridge regression judged by left-out rows, ranks, calibration.

All are in float64 and closed form; networks, windows and keys are in ``probes``. A number that is not defined
(nothing varies, say) is None, never nan.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from uld_torchrl.errors import InputError

Array = NDArray[np.float64]
STRENGTHS = np.logspace(-8, 2, 21)
"""Ridge strengths that are tried, relative to the largest eigenvalue of X'X: the weakest is still above what
float32 features round to, the strongest leaves next to nothing but the mean."""
# What float32 leaves of a constant after a few operations, relative to its size.
_ROUNDING = 1e-6


class Ranks(NamedTuple):
    """How many directions a matrix uses, by three measures; all 0 for a matrix of zeros."""

    effective: float
    """exp of the entropy of the singular values over their sum (Roy and Vetterli, EUSIPCO 2007)."""
    stable: float
    """Squared Frobenius norm over squared spectral norm (Rudelson and Vershynin, J. ACM 2007)."""
    srank: int
    """Smallest k whose k largest singular values make 99 % of the sum (Kumar et al., arXiv 2010.14498)."""


class Calibration(NamedTuple):
    """How real numbers lie against their predictions; right ones give slope 1, intercept 0, error 0."""

    slope: float | None
    """Of the least-squares line of the real on the predicted; None if either does not vary."""
    intercept: float | None
    """Of the same line, in the units of the real numbers."""
    error: float
    """Mean over all rows of abs(mean predicted - mean real) of the row's quantile bin, in the same units."""


def varies(x: Array) -> NDArray[np.bool_]:
    """Return for each column whether its rows differ by more than rounding of float32.

    Example:
        >>> varies(np.array([[1.0, 5.0], [2.0, 5.0]]))
        array([ True, False])
    """
    return np.ptp(x, axis=0) > _ROUNDING * np.abs(x).max(0)


def centred(x: Array) -> Array:
    """Return the columns (n, d') that vary, less their means.

    Example:
        >>> centred(np.array([[1.0, 5.0], [3.0, 5.0]]))
        array([[-1.],
               [ 1.]])
    """
    x = x[:, varies(x)]
    return x - x.mean(0)


def standardised(x: Array) -> Array:
    """Return the columns (n, d') that vary with mean 0 and variance 1/d', so that any block weighs the same.

    Example:
        >>> standardised(np.array([[1.0, 5.0], [3.0, 5.0]]))
        array([[-1.],
               [ 1.]])
    """
    x = centred(x)
    return x / (x.std(0) * np.sqrt(max(x.shape[1], 1)))


def left_out_errors(x: Array, y: Array, groups: NDArray[np.intp], strengths: Array) -> Array:
    r"""Return y less its prediction by ridge regressions that never saw the row's group.

    With an unpenalised intercept, in closed form (PRESS; Allen, Technometrics 1974). With the residuals e and
    leverages h of the fit to all rows, and the m rows of a group, which share one row of features:
    :math:`e_i + h_i \sum_{j \in group} e_j / (1 - m h_i)`, for single rows :math:`e_i / (1 - h_i)`.

    Args:
        x: (n, d) features, n < d too; rows of a group are equal.
        y: (n,) target.
        groups: (n,) number of each row's group; at least two groups.
        strengths: (k,) penalties on the squared weights, relative to the largest eigenvalue of X'X; positive
            if the features could fit every row.

    Returns:
        (k, n) errors.

    Example:
        >>> x, y = np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 1.0, 5.0])
        >>> left_out_errors(x, y, np.arange(3), np.zeros(1)).round(9).tolist()
        [[3.0, -1.5, 3.0]]
    """
    n = len(y)
    x, y = x - x.mean(0), y - y.mean()
    if x.shape[1] > n:
        # n columns with the same inner products of rows.
        x = np.asarray(np.linalg.qr(x.T, mode="r"), dtype=np.float64).T
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    power = s**2
    penalty = strengths[:, None] * power.max(initial=0.0)
    # A direction in which nothing varies is not fitted, even without penalty.
    kept = np.where(s > s.max(initial=0.0) * n * np.finfo(float).eps, power, 0.0)
    shrunk = kept / np.where(kept + penalty > 0, kept + penalty, 1.0)
    residual = y - (shrunk * (u.T @ y)) @ u.T
    leverage = 1 / n + shrunk @ (u**2).T
    size = np.bincount(groups)[groups]
    together = np.stack([np.bincount(groups, row)[groups] for row in residual])
    return residual + leverage * together / (1 - size * leverage)


def ridge_r2(x: Array, y: Array, groups: NDArray[np.intp] | None = None) -> float | None:
    """Return R^2 of a ridge regression on rows left out of the fit, at the best of :data:`STRENGTHS`.

    1 is a perfect prediction and 0 that of the mean of the other rows. Wide features cannot win by fitting:
    each row is predicted without the rows of its group. Choosing the strength by the same rows lifts it a
    little; as the strongest penalty leaves the mean, it is hardly ever below 0.

    Args:
        x: (n, d) features.
        y: (n,) target.
        groups: (n,) rows with equal features that leave together; default: each row alone.

    Returns:
        R^2, or None if y does not vary or there is one group only.

    Example:
        >>> x = np.arange(6.0)[:, None]
        >>> round(ridge_r2(x, 3 * x[:, 0] + 1), 9)
        1.0
    """
    groups = np.arange(len(y)) if groups is None else groups
    if len(np.unique(groups)) < 2 or not varies(y[:, None])[0]:
        return None
    press = (left_out_errors(x, y, groups, STRENGTHS) ** 2).sum(1).min()
    mean = (left_out_errors(x[:, :0], y, groups, STRENGTHS[:1]) ** 2).sum()
    return float(1 - press / mean)


def ranks(x: Array) -> Ranks:
    """Return three ranks of a matrix (n, d).

    Example:
        >>> ranks(np.diag([2.0, 2.0, 0.0]))
        Ranks(effective=2.0, stable=2.0, srank=2)
    """
    s = np.linalg.svd(x, compute_uv=False)
    total = s.sum()
    if total == 0:
        return Ranks(0.0, 0.0, 0)
    entropy = entr(s / total).sum()
    srank = np.searchsorted(s.cumsum(), 0.99 * total) + 1
    return Ranks(float(np.exp(entropy)), float(((s / s[0]) ** 2).sum()), int(srank))


def calibration(predicted: Array, real: Array, num_bins: int = 10) -> Calibration:
    """Compare predictions with what came true; equal predictions share a bin.

    Args:
        predicted: (n,) numbers.
        real: (n,) numbers in the same units.
        num_bins: quantile bins of the predictions; fewer if predictions are equal.

    Raises:
        InputError: there are no rows, or no bin.

    Example:
        >>> calibration(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 2.0, 3.0]), num_bins=2)
        Calibration(slope=2.0, intercept=0.5, error=1.0)
    """
    if num_bins < 1 or not len(predicted):
        raise InputError(
            f"calibration needs at least one row and one bin, got {len(predicted)} rows and {num_bins} bins."
        )
    inner = np.linspace(0, 1, num_bins + 1)[1:-1]
    bins = np.searchsorted(np.quantile(predicted, inner), predicted, side="right")
    error = float(np.abs(np.bincount(bins, predicted - real)).sum() / len(real))
    if not varies(np.stack([predicted, real], axis=1)).all():
        return Calibration(None, None, error)
    around = predicted - predicted.mean()
    slope = float(around @ real / (around @ around))
    return Calibration(slope, float(real.mean() - slope * predicted.mean()), error)


def relative_error(predicted: Array, target: Array) -> float | None:
    """Return the squared error of predicted vectors (n, d) over that of the target's mean.

    0 is a perfect prediction, 1 as bad as the mean. None if the targets do not vary.

    Example:
        >>> relative_error(np.array([[0.0], [0.0]]), np.array([[1.0], [-1.0]]))
        1.0
    """
    if not len(target) or not varies(target).any():
        return None
    return float(((predicted - target) ** 2).sum() / ((target - target.mean(0)) ** 2).sum())
