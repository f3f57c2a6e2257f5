r"""The value of a linear model: solved, summed as a series, or expanded for h steps.

A model :math:`r\approx Zw_r`, :math:`Z'\approx ZW_d` assigns the value :math:`Zw` with
:math:`w=w_r+\gamma W_dw`. Rolling the model out sums :math:`w=\sum_t(\gamma W_d)^tw_r`, which is fitted
Q-iteration started at 0; it converges for every reward if and only if :math:`\rho(\gamma W_d)<1`, while the
algebraic solution needs only that 1 is no eigenvalue. All sums are taken with features of D-norm one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from theory.assembly import assemble
from theory.checks import EPS, Array, check_count
from theory.errors import InputError
from theory.problem import Problem
from theory.spectrum import rounding, sides_of_circle, spectral_norm
from theory.td import FixedPoint, Kind, LinearModel, checked_model, fit_linear_model, solve_any
from theory.whitening import orthonormal, reward_norm, whiten

Method = Literal["solve", "series", "doubling"]
LONGEST_SERIES = 100_000
LONGEST_DOUBLING = 2**16
HUGE = 1e70  # a sum that has grown this much has diverged; products of two such numbers are finite


@dataclass(frozen=True, eq=False)
class Rollout:
    r"""The weights that a linear model implies.

    Attributes:
        w: (d,); ``None`` if :math:`I-\gamma W_d` is singular and a solution was asked for.
        converged: whether the series converges for this reward, as far as the sum shows: ``True`` if its last
            terms are rounding, ``False`` if they are not and :math:`\rho(\gamma W_d)>1` beyond rounding,
            ``None`` if that is open or nothing was summed.
        spectral_radius: :math:`\rho(\gamma W_d)`.
        terms: how many terms were summed, 0 for "solve".
    """

    w: Array | None
    converged: bool | None
    spectral_radius: float
    terms: int


def model_based_solution(
    problem: Problem,
    *,
    method: Method = "solve",
    horizon: int | None = None,
    model: LinearModel | None = None,
) -> Rollout:
    r"""Return the weights :math:`w=w_r+\gamma W_dw` that a linear model implies.

    Args:
        problem: gives the discount, the features' scale, and the model if none is given.
        method: "solve" is linear algebra; "series" adds one term after another; "doubling" adds
            :math:`2^j` terms by :math:`S\leftarrow S+M^kS`, :math:`M^k\leftarrow(M^k)^2`.
        horizon: number of terms, for "doubling" rounded up to a power of two. Without it, "series" ends when
            its terms are rounding or at 100,000, "doubling" at 65,536. Any sum ends once it has
            grown 1e70 times.
        model: the model to roll out; the least-squares fit by default.

    Raises:
        InputError: an unknown method, or a horizon below 1.

    Note:
        An exact series can converge where its sum in floating point does not: rounding excites the growing
        modes that the reward leaves alone (:func:`theory.stability.stability` tells the two apart).

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> for method in ("solve", "series", "doubling"):
        ...     print(model_based_solution(problem, method=method).w.round(9))
        [1.5]
        [1.5]
        [1.5]
    """
    if method not in get_args(Method):
        raise InputError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}.")
    if horizon is not None:
        horizon = check_count("horizon", horizon)
    model = fit_linear_model(problem) if model is None else checked_model(problem, model)
    G, reward, scale = scaled_model(problem, model)
    values, sides = sides_of_circle(G)
    radius = float(np.abs(values).max())
    if method == "solve":
        w, converged, terms = solve_regular(G, reward), None, 0
    else:
        sum_up: Callable[[Array, Array, int | None], tuple[Array, bool, int]]
        sum_up = _series if method == "series" else _doubling
        unit = float(np.abs(reward).max()) or 1.0
        total, settled, terms = sum_up(G, reward / unit, horizon)
        grows = bool(np.any(sides < 0))
        w, converged = total * unit, True if settled else False if grows else None
    return Rollout(None if w is None else w / scale, converged, radius, terms)


def scaled_model(problem: Problem, model: LinearModel) -> tuple[Array, Array, Array]:
    r"""Return :math:`\gamma SW_dS^{-1}`, :math:`Sw_r` and the diagonal of S, the D-norms of the features.

    Example:
        >>> problem = Problem.from_chain([[0.5]], [3.0], [[2.0]], [1.0], 0.5)
        >>> [float(part.item()) for part in scaled_model(problem, fit_linear_model(problem))]
        [0.25, 3.0, 2.0]
    """
    scale = assemble(problem).scale
    return problem.gamma * scale[:, None] * model.W_d / scale, scale * model.w_r, scale


def solve_regular(G: Array, reward: Array, condition: float = 1.0) -> Array | None:
    """Solve ``x = reward + G x`` by elimination; None if that is singular up to the accuracy of ``G``.

    ``condition`` times the rounding of G's norm is what G may be off by.

    Example:
        >>> solve_regular(np.array([[0.5]]), np.ones(1)), solve_regular(np.ones((1, 1)), np.ones(1)) is None
        (array([2.]), True)
    """
    system = np.eye(len(G)) - G
    least = np.linalg.svd(system, compute_uv=False)[-1]
    if least <= rounding(len(G), condition * max(1.0, spectral_norm(G))):
        return None
    return np.asarray(np.linalg.solve(system, reward), dtype=np.float64)


def _series(G: Array, reward: Array, horizon: int | None) -> tuple[Array, bool, int]:
    """Add term after term; return the sum, whether the last term is rounding, and the number of terms."""
    total, term = reward.copy(), reward
    for t in range(1, horizon or LONGEST_SERIES):
        if horizon is None and _negligible(term, total):
            return total, True, t
        if np.abs(term).max() > HUGE:
            return total, False, t
        term = G @ term
        total = total + term
    return total, _negligible(term, total), horizon or LONGEST_SERIES


def _doubling(G: Array, reward: Array, horizon: int | None) -> tuple[Array, bool, int]:
    """Double the number of terms until the horizon; return the sum, whether it has settled, and the terms."""
    total, power, terms = reward.copy(), G, 1
    while terms < (horizon or LONGEST_DOUBLING) and max(np.abs(power).max(), np.abs(total).max()) < HUGE:
        total, power, terms = total + power @ total, power @ power, 2 * terms
    # What was added last may vanish by cancellation (eigenvalue -1); the next term does not.
    return total, _negligible(power @ reward, total), terms


def _negligible(term: Array, total: Array) -> bool:
    return bool(np.abs(term).max() <= EPS * np.abs(total).max())


def h_step_solution(problem: Problem, h: int) -> FixedPoint:
    r"""Return the fixed points of the h-step model-based value expansion.

    .. math:: w=\sum_{t<h}(\gamma W_d)^tw_r+(\gamma W_d)^hw

    They are those of h = 1 for every h, provided no other h-th root of unity is an eigenvalue of
    :math:`\gamma W_d`; where one is, the solution of h = 1 stays one of many. Each root is examined by
    itself, since :math:`(\gamma W_d)^h` hides it behind modes that grow.

    Raises:
        InputError: h is below 1, or so large that :math:`(\gamma W_d)^h` exceeds 1e70.

    Example:
        >>> chain, z, mu = [[0, 1], [1, 0]], [[1], [-3]], [63 / 80, 17 / 80]  # eigenvalue -1
        >>> problem = Problem.from_chain(chain, [1, 0], z, mu, 0.9)
        >>> [h_step_solution(problem, h).kind for h in (1, 2, 3)]
        ['unique', 'affine', 'unique']
    """
    h = check_count("h", h)
    white = whiten(problem)
    G, norm = problem.gamma * white.M, max(1.0, spectral_norm(problem.gamma * white.M))
    total, power = _expand(G, white.c, h)
    system = np.eye(white.rank) - power
    nullity = _nullity_at_roots(G, h, norm)
    size = float(np.linalg.norm(total)) or 1.0
    if nullity == 0:
        y = np.asarray(np.linalg.solve(system, total), dtype=np.float64)
        null = np.zeros((white.rank, 0))
    else:
        noise = max(size, reward_norm(problem))
        y, null, miss, solvable = solve_any(system, total, max(1.0, spectral_norm(power)) * h, noise)
        if not solvable:
            return FixedPoint("none", None, nullity, miss / size, orthonormal(white.weights(null)))
    null_space = orthonormal(white.weights(null))
    w = white.weights(y)
    w = w - null_space @ (null_space.T @ w)
    kind: Kind = "affine" if nullity else "unique"
    residual = float(np.linalg.norm(total - system @ y)) / max(size, float(np.linalg.norm(power @ y)))
    return FixedPoint(kind, w, nullity, residual, null_space)


def _expand(G: Array, c: Array, h: int) -> tuple[Array, Array]:
    """Return the sum of G^t c over t < h, and G^h."""
    total, power = np.zeros_like(c), np.eye(len(G))
    for _ in range(h):
        total, power = c + G @ total, G @ power
        if power.size and not np.abs(power).max() < HUGE:
            raise InputError(f"h = {h} is too large: the model grows, and its h-th power exceeds {HUGE:g}.")
    return total, power


def _nullity_at_roots(G: Array, h: int, norm: float) -> int:
    """Return the dimension of the null space of I - G^h, root of unity by root of unity."""
    # Only a root near an eigenvalue can count; the null spaces of different roots are independent.
    values = np.linalg.eigvals(G)
    near = np.round(np.angle(values) * h / (2.0 * math.pi)).astype(int) % h
    nullity = 0
    for j in np.unique(near):
        shifted = G - np.exp(2j * math.pi * j / h) * np.eye(len(G))
        nullity += int(np.sum(np.linalg.svd(shifted, compute_uv=False) <= rounding(len(G), norm)))
    return nullity
