r"""Theorem 2 row by row: only what can be reached from a row enters its bound.

The supremum bounds take the largest one-step residual of all rows, and the longest horizon. But a run from
row i only meets the rows :math:`R(i)` that it can reach under the policy, i itself among them. So with
:math:`h=G\mathbf 1` and any :math:`x\ge|e|` of the ladder's one-step terms,

.. math:: |VE_i| \le (Gx)_i \le h_i\max_{j\in R(i)}x_j \le H\max_jx_j,\qquad
          \max_{j\in R(i)}|VE_j| \ge \max_{j\in R(i)}|e_j|/(1+\gamma).

Rows that are never reached, for instance behind a one-way door, may have any residual. The bounds G x and
H max x themselves are in ``bounds``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from theory.checks import Array, Matrix
from theory.problem import Problem
from theory.resolvent import Resolvent
from theory.td import fit_linear_model
from theory.value_error import Residuals, model_solution, residuals, value_error


@dataclass(frozen=True, eq=False)
class LocalisedBounds:
    r"""Bounds on the value error of each row from the rows it can reach, all (n,).

    Attributes:
        lower: :math:`\max_{R(i)}|e|/(1+\gamma)`, never above the largest error over :math:`R(i)`.
        L1, L2, L25, L3: :math:`h_i` times the largest entry over :math:`R(i)` of what G is applied to in the
            bounds B1, B2, B25 and B3 of :func:`theory.bounds`.
        published: L3 without the discount in front of the dynamics term.
        horizon: :math:`h=G\mathbf 1`, the expected discounted length of a run from the row.
        error: :math:`VE=Zw-Q^\pi`.
        reached_error: :math:`\max_{R(i)}|VE|`.
        rounding: every inequality holds up to this much.
        reason: why all bounds are ``None``; empty if they are not.
    """

    lower: Array | None
    L1: Array | None
    L2: Array | None
    L25: Array | None
    L3: Array | None
    published: Array | None
    horizon: Array
    error: Array
    reached_error: Array
    rounding: float
    reason: str


def localised_bounds(problem: Problem) -> LocalisedBounds:
    r"""Bound the value error of every row by the residuals of the rows it can reach.

    Raises:
        InputError: :math:`Q^\pi` is infinite.

    Example:
        >>> chain = [[0.0, 1.0], [0.0, 1.0]]  # the second row is never left
        >>> problem = Problem.from_chain(chain, [1, 0], [[0], [1]], [0.5, 0.5], 0.5)
        >>> found = localised_bounds(problem)  # the feature sees the second row only: no error there
        >>> found.L1.round(9).tolist(), found.error.round(9).tolist()
        ([2.0, 0.0], [-1.0, 0.0])
    """
    model = fit_linear_model(problem)
    w = model_solution(model, problem)
    split = value_error(problem, w=w, model=model)
    parts = residuals(problem, model.w_r, model.W_d, w, problem.Z_next)
    horizon = Resolvent(problem.P_pi, problem.gamma).solve(np.ones(problem.n)).x
    solved = abs(parts.planning).max() * split.horizon <= split.tolerance
    graph = problem.gamma * problem.P_pi  # nothing is reached at gamma = 0
    terms = _one_step(problem.gamma, parts, w) if solved else {}
    ahead = {name: reached_maximum(graph, term) for name, term in terms.items()}
    bounds = {name: horizon * term for name, term in ahead.items()}
    return LocalisedBounds(
        lower=ahead["L1"] / (1.0 + problem.gamma) if solved else None,
        L1=bounds.get("L1"),
        L2=bounds.get("L2"),
        L25=bounds.get("L25"),
        L3=bounds.get("L3"),
        published=bounds.get("published"),
        horizon=horizon,
        error=split.error,
        reached_error=reached_maximum(graph, abs(split.error)),
        rounding=split.tolerance,
        reason="" if solved else "(I - gamma W_d) w = w_r has no solution",
    )


def reached_maximum(P: Matrix, values: Array) -> Array:
    """Return, for each row, the largest value over the rows it can reach along positive entries, itself too.

    One sweep over the entries for each step of the longest way that matters.

    Example:
        >>> chain = np.array([[0.0, 0.5, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
        >>> reached_maximum(chain, np.array([1.0, 3.0, 2.0])).tolist()
        [3.0, 3.0, 2.0]
    """
    graph = sparse.csr_array(P, copy=True)
    graph.eliminate_zeros()
    leads = np.flatnonzero(np.diff(graph.indptr))
    starts = graph.indptr[leads]
    found = np.array(values, dtype=np.float64)
    while len(leads):
        better = np.maximum(found[leads], np.maximum.reduceat(found[graph.indices], starts))
        if np.array_equal(better, found[leads]):
            break
        found[leads] = better
    return found


def _one_step(gamma: float, parts: Residuals, w: Array) -> dict[str, Array]:
    """Return what the bounds take the maximum of, (n,) each."""
    reward, dynamics = abs(parts.reward), abs(parts.dynamics)
    hoelder = abs(w).max() * dynamics.sum(axis=1)
    return {
        "L1": abs(parts.reward + gamma * (parts.dynamics @ w)),
        "L2": reward + gamma * abs(parts.dynamics @ w),
        "L25": reward + gamma * (dynamics @ abs(w)),
        "L3": reward + gamma * hoelder,
        "published": reward + hoelder,
    }
