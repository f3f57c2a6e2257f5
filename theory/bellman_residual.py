r"""TD against the minimiser of the Bellman residual: what each of them makes small.

For any :math:`V=Zw` with :math:`TV=r+\gamma P^\pi V`, the residual splits at a right angle, in the norm
weighted by the data and with :math:`\Pi` the projection onto the features:

.. math:: \|TV-V\|_D^2 = \|\Pi(TV-V)\|_D^2 + \|TV-\Pi TV\|_D^2 .

The second part is the adequacy of the features for V, since V itself lies in their span. TD makes the first
part zero and pays no heed to the second; the minimiser of the residual makes the sum smallest (Lagoudakis and
Parr 2003; Scherrer 2010). Neither has always the smaller value error. All expectations are exact here; from
samples of a stochastic chain the residual cannot be estimated without two independent successors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from theory.checks import EPS, Array, as_array, check_shape
from theory.problem import Problem
from theory.regression import weighted_regression
from theory.rollout import h_step_solution
from theory.td import Kind
from theory.value_error import true_values


@dataclass(frozen=True, eq=False)
class ResidualSplit:
    r"""The Bellman residual of values Zw in its two parts, in the D-norm.

    Attributes:
        w: (d,).
        total: :math:`\|TV-V\|_D`.
        projected: :math:`\|\Pi(TV-V)\|_D`, zero at TD's fixed points.
        adequacy: :math:`\|TV-\Pi TV\|_D`, what the features cannot represent of the next values.
        identity_residual: :math:`|\text{total}^2-\text{projected}^2-\text{adequacy}^2|`.
        tolerance: what rounding can account for.
    """

    w: Array
    total: float
    projected: float
    adequacy: float
    identity_residual: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the two parts make up the whole, up to rounding."""
        return self.identity_residual <= self.tolerance


@dataclass(frozen=True, eq=False)
class ResidualStudy:
    r"""TD and the residual's minimiser on one problem.

    Attributes:
        td: the split at TD's fixed point in the row space; ``None`` unless it is unique.
        minimiser: the split at the weights of least :math:`\|TV-V\|_D`, of least norm if there are several.
        td_error: (n,), :math:`V-Q^\pi` of TD; ``None`` as ``td`` is.
        minimiser_error: (n,), the same of the minimiser.
        kind: of TD's fixed points in the row space.
        minimiser_rank: rank of :math:`D^{1/2}(Z-\gamma Z')`; below the rank of the features there are
            several minimisers with different values.
    """

    td: ResidualSplit | None
    minimiser: ResidualSplit
    td_error: Array | None
    minimiser_error: Array
    kind: Kind
    minimiser_rank: int


def bellman_residual(problem: Problem, w: Any) -> ResidualSplit:
    r"""Split the Bellman residual of the values Zw; returns need not be finite.

    Args:
        problem: n rows, d features.
        w: (d,), any weights.

    Raises:
        InputError: a wrong shape or NaN.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> split = bellman_residual(problem, [1.0])  # TV - V = (1, 0)
        >>> [round(part**2, 9) for part in (split.total, split.projected, split.adequacy)]
        [0.5, 0.1, 0.4]
    """
    weights = as_array("w", w)
    check_shape("w", weights, (problem.d,), "(features,)")
    values = problem.Z @ weights
    target = problem.r + problem.gamma * np.asarray(problem.P_pi @ values)
    both = np.column_stack([target - values, target])
    fit = weighted_regression(problem.Z, both, problem.mu)
    projections = problem.Z @ fit.coefficients
    total, projected = _norm(problem, both[:, 0]), _norm(problem, projections[:, 0])
    adequacy = _norm(problem, target - projections[:, 1])
    sizes = abs(problem.Z) @ abs(weights)
    size = _norm(problem, abs(problem.r) + problem.gamma * np.asarray(problem.P_pi @ sizes) + sizes)
    return ResidualSplit(
        w=weights,
        total=total,
        projected=projected,
        adequacy=adequacy,
        identity_residual=abs(total**2 - projected**2 - adequacy**2),
        tolerance=64.0 * (problem.d + 8) * EPS * fit.condition * size**2,
    )


def compare_with_residual_minimiser(problem: Problem) -> ResidualStudy:
    r"""Compare TD's fixed point with the weights that minimise the Bellman residual.

    .. math:: w_{BR}=\arg\min_w\|D^{1/2}((Z-\gamma Z')w-r)\|

    Raises:
        InputError: :math:`Q^\pi` is infinite.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> study = compare_with_residual_minimiser(problem)
        >>> study.td.w.round(9).tolist(), study.minimiser.w.round(9).tolist()
        ([1.5], [1.0])
    """
    q = true_values(problem).value
    ahead = problem.Z - problem.gamma * problem.Z_next
    fit = weighted_regression(ahead, problem.r[:, None], problem.mu)
    least = fit.coefficients[:, 0]
    point = h_step_solution(problem, 1)
    w = point.w if point.kind == "unique" else None
    return ResidualStudy(
        td=None if w is None else bellman_residual(problem, w),
        minimiser=bellman_residual(problem, least),
        td_error=None if w is None else problem.Z @ w - q,
        minimiser_error=problem.Z @ least - q,
        kind=point.kind,
        minimiser_rank=fit.rank,
    )


def _norm(problem: Problem, values: Array) -> float:
    return float(np.sqrt(problem.mu @ values**2))
