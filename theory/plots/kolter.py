r"""Kolter's example: the error of TD against the share of data at one of two states.

Two states that lead to either with equal chance, values (1, 1.05), one feature (1, 1.051) that can
represent them almost exactly. With the stationary share 1/2 TD is as good; at one other share its error
is unbounded (Kolter 2011, The fixed points of off-policy TD).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from theory.catalogue.entries import load
from theory.checks import Array
from theory.errors import InputError
from theory.plots.style import PALETTE, describe, new_figure
from theory.problem import Problem
from theory.td import td_fixed_point, td_system
from theory.truth import chain_value


@dataclass(frozen=True, eq=False)
class KolterCurve:
    r"""The error of the TD fixed point for several weightings of the data.

    Attributes:
        p: (m,), share of the data at the first state.
        error: (m,), Euclidean norm of :math:`Zw-V`; NaN where TD has no unique fixed point.
        best: (m,), the same of the projection of V under the weights.
        singular: the share at which A = 0.
    """

    p: Array
    error: Array
    best: Array
    singular: float


def kolter_curve(shares: Iterable[float]) -> KolterCurve:
    """Compute the error of TD in Kolter's example for several shares of the data at the first state.

    Raises:
        InputError: no share, or one outside 0 to 1.

    Example:
        >>> curve = kolter_curve([0.5, 0.71, 0.9])
        >>> curve.error.round(5).tolist(), round(curve.singular, 7)
        ([0.00174, 3.88283, 0.05642], 0.7113974)
    """
    p = np.array(list(shares), dtype=np.float64)
    if not len(p) or not (np.all(p >= 0.0) and np.all(p <= 1.0)):
        raise InputError(f"shares must be numbers from 0 to 1, at least one, got {p.tolist()}.")
    problem = load("kolter_p50").problem
    truth = chain_value(problem.P_pi, problem.r, problem.gamma).value
    measured = [_errors(_weighted(problem, share), truth) for share in p.tolist()]
    # A is linear in the share.
    first, last = (float(td_system(_weighted(problem, share)).A[0, 0]) for share in (0.0, 1.0))
    error, best = np.array(measured).T
    return KolterCurve(p, error, best, first / (first - last))


def plot_kolter(curve: KolterCurve) -> Figure:
    """Draw the error of TD against the share of the data, with the share at which it is unbounded.

    Args:
        curve: (m,) shares.

    Example:
        >>> plot_kolter(kolter_curve([0.3, 0.5, 0.7, 0.9])).axes[0].get_yscale()
        'log'
    """
    figure, (axes,) = new_figure()
    order = np.argsort(curve.p, kind="stable")
    p = curve.p[order]
    axes.plot(p, curve.error[order], color=PALETTE["vermillion"], label="TD fixed point")
    axes.plot(
        p, curve.best[order], color=PALETTE["blue"], linestyle="--", label="projection onto the features"
    )
    label = f"A = 0 at p = {curve.singular:.6f}"
    axes.axvline(curve.singular, color=PALETTE["black"], linestyle=":", label=label)
    axes.axvline(0.5, color=PALETTE["grey"], linewidth=1, label="stationary, p = 0.5")
    axes.set_yscale("log")
    x, y = "share p of the data at the first state", r"$\|Zw-V\|$ [reward]"
    describe(axes, x, y, "Off-policy data: an unbounded error with near-perfect features")
    axes.legend(fontsize=9, loc="upper left")
    return figure


def _weighted(problem: Problem, share: float) -> Problem:
    return Problem.from_chain(problem.P_pi, problem.r, problem.Z, [share, 1.0 - share], problem.gamma)


def _errors(problem: Problem, truth: Array) -> tuple[float, float]:
    """Return the error of TD and of the projection."""
    fixed = td_fixed_point(problem)
    error = np.nan
    if fixed.kind == "unique" and fixed.w is not None:
        error = float(np.linalg.norm(problem.Z @ fixed.w - truth))
    z = problem.Z[:, 0]
    best = z * float((problem.mu * z) @ truth) / float((problem.mu * z) @ z)
    return error, float(np.linalg.norm(best - truth))
