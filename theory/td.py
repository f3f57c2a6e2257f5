r"""Temporal-difference learning and the linear model, as linear algebra in expectation.

With :math:`D=\mathrm{diag}\,\mu` and expected next features :math:`Z'=P^\pi Z`, expected semi-gradient TD is
:math:`w \leftarrow w+\alpha(b-Aw)`, :math:`A=Z^\top D(Z-\gamma Z')`, :math:`b=Z^\top Dr`; the linear model is
the weighted least-squares fit of :math:`r` and :math:`Z'` on :math:`Z`. Here are the matrices, the solutions
of :math:`Aw=b`, and the fit. Rolling the model out is in ``rollout``, comparing the two in ``theorem1``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.linalg import lstsq

from theory.assembly import assemble
from theory.checks import EPS, Array, as_array, check_shape, frozen
from theory.problem import Problem
from theory.spectrum import rounding
from theory.streaming import remembered
from theory.whitening import Whitened, orthonormal, reward_norm, whiten

Kind = Literal["unique", "affine", "none"]


@dataclass(frozen=True, eq=False)
class TDSystem:
    r"""The matrices of expected TD, :math:`w\leftarrow w+\alpha(b-Aw)`.

    Attributes:
        A: (d, d), :math:`C-\gamma X`.
        b: (d,), :math:`Z^\top Dr`.
        C: (d, d), :math:`Z^\top DZ`.
        X: (d, d), :math:`Z^\top DZ'`.
    """

    A: Array
    b: Array
    C: Array
    X: Array


@dataclass(frozen=True, eq=False)
class FixedPoint:
    r"""The solutions of a linear fixed-point equation.

    Attributes:
        kind: "unique", "affine" (infinitely many) or "none".
        w: (d,), the solution; of an affine set the one of least Euclidean norm; ``None`` if there is none.
        nullity: dimension of the null space of the equation's matrix, 0 if and only if it is invertible.
        residual: :math:`\|\Pi(\text{right side} - \text{left side})\|_D` over :math:`\|r\|_D`; of "none" the
            least that any w attains.
        null_space: (d, nullity), orthonormal columns; adding them to ``w`` gives every solution.
    """

    kind: Kind
    w: Array | None
    nullity: int
    residual: float
    null_space: Array


@dataclass(frozen=True, eq=False)
class LinearModel:
    r"""A linear model of reward and next features: :math:`r\approx Zw_r`, :math:`Z'\approx ZW_d`.

    Attributes:
        w_r: (d,).
        W_d: (d, d); a row vector of features z is taken to :math:`zW_d`.
        rank: the rank of the weighted features.
        condition: the condition number of the weighted features with columns of norm one.
    """

    w_r: Array
    W_d: Array
    rank: int
    condition: float


def td_system(problem: Problem) -> TDSystem:
    r"""Return the matrices of expected semi-gradient TD, :math:`w\leftarrow w+\alpha(b-Aw)`.

    Example:
        >>> system = td_system(Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5))
        >>> float(system.A[0, 0]), float(system.b[0])
        (1.0, 1.5)
    """
    sums = assemble(problem)
    return TDSystem(sums.C - problem.gamma * sums.X, sums.b, sums.C, sums.X)


@remembered
def fit_linear_model(problem: Problem) -> LinearModel:
    r"""Fit reward and expected next features to the features, by least squares under the data weights.

    .. math:: w_r = (D^{1/2}Z)^+D^{1/2}r, \qquad W_d = (D^{1/2}Z)^+D^{1/2}Z'

    by reflections, block of rows by block of rows, and then singular values of the triangle with columns of
    norm one (LAPACK's ``gelsd``); the normal equations would square the condition number. With dependent
    features it is the fit of least norm.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> model = fit_linear_model(problem)
        >>> float(model.w_r[0].round(12)), float(model.W_d[0, 0].round(12)), model.rank
        (0.6, 1.2, 1)
    """
    white, reduced = whiten(problem), assemble(problem)
    if white.rank == 0:
        zeros = np.zeros((problem.d, problem.d + 1))
        return LinearModel(frozen(zeros[:, 0]), frozen(zeros[:, 1:]), 0, 1.0)
    inside = reduced.R @ white.V if white.N.size else reduced.R
    # The rank is decided already: nothing of what is left may be cut off.
    cut = 0.5 * max(problem.n, problem.d) * EPS
    fit = lstsq(inside / white.scale, reduced.targets, cond=cut, lapack_driver="gelsd")[0]
    coefficients = white.V @ (fit / white.scale[:, None])
    w_r, W_d = frozen(coefficients[:, 0]), frozen(coefficients[:, 1:])
    return LinearModel(w_r, W_d, white.rank, white.condition)


def checked_model(problem: Problem, model: LinearModel) -> LinearModel:
    """Return a linear model as arrays that fit the features of a problem.

    Raises:
        InputError: a wrong shape, or numbers that are not finite.

    Example:
        >>> problem = Problem.from_chain([[0.5]], [1.0], [[1.0]], [1.0], 0.9)
        >>> checked_model(problem, LinearModel([1], [[2]], 1, 1.0)).W_d
        array([[2.]])
    """
    w_r, W_d = as_array("model.w_r", model.w_r), as_array("model.W_d", model.W_d)
    check_shape("model.w_r", w_r, (problem.d,), "(features,)")
    check_shape("model.W_d", W_d, (problem.d, problem.d), "(features, features)")
    return LinearModel(w_r, W_d, model.rank, model.condition)


def td_fixed_point(problem: Problem) -> FixedPoint:
    r"""Return all w at which expected TD stands still: :math:`Aw=b`.

    Solved in whitened coordinates (:func:`theory.whitening.whiten`): with :math:`w = Ty + Nv`, where the
    columns of ``N`` span the complement of the row space, :math:`Aw=b` is
    :math:`(I-\gamma M)y - \gamma Q^\top D^{1/2}Z'N\,v = c`. ``v`` matters only if some row without weight is
    reached. Whether a singular value is zero is judged against 1, the scale of ``I``, never against the
    matrix itself: a 1 by 1 matrix of 1e-17 would have full rank relative to itself.

    Example:
        >>> chain = [[0, 1], [0, 1]]  # w -> 2w
        >>> td_fixed_point(Problem.from_chain(chain, [1, 1], [[1], [2]], [0.5, 0.5], 0.5)).w
        array([1.5])
        >>> td_fixed_point(Problem.from_chain(chain, [1, 1], [[1], [2]], [0.5, 0.5], 5 / 6)).kind
        'none'
    """
    white = whiten(problem)
    off_support, unit = _reach_off_support(problem, white)
    system = np.hstack([np.eye(white.rank) - problem.gamma * white.M, off_support])
    scale = max(1.0, problem.gamma * white.next_norm)
    solution, null, miss, solvable = solve_any(system, white.c, scale, reward_norm(problem))
    weights = np.hstack([white.weights(np.eye(white.rank)), white.N / unit])
    null_space = orthonormal(weights @ null)
    relative = miss / reward_norm(problem)
    if not solvable:
        return FixedPoint("none", None, null.shape[1], relative, null_space)
    w = weights @ solution
    w = w - null_space @ (null_space.T @ w)
    kind: Kind = "unique" if null.shape[1] == 0 else "affine"
    return FixedPoint(kind, w, null.shape[1], _projected_error(problem, white, w), null_space)


def solve_any(system: Array, c: Array, scale: float, noise: float) -> tuple[Array, Array, float, bool]:
    """Solve ``system @ x = c`` of any shape and rank.

    Args:
        system: (k, m); singular values below rounding at ``scale`` count as zero.
        c: (k,), known to rounding at the size ``noise``.
        scale: size of the numbers the system was computed from.
        noise: size of the numbers ``c`` was computed from.

    Returns:
        The solution of least norm (m,), an orthonormal basis of the null space (m, nullity), the norm of the
        part of ``c`` that no x reaches, and whether that part is rounding.

    Example:
        >>> solve_any(np.array([[2.0, 0.0]]), np.array([1.0]), 1.0, 1.0)[0]
        array([0.5, 0. ])
    """
    U, values, Vt = np.linalg.svd(system)
    rank = int(np.sum(values > rounding(max(system.shape), scale)))
    if rank == len(c) == len(Vt):
        # Elimination keeps what is small: rows of little weight would drown in singular vectors.
        return np.asarray(np.linalg.solve(system, c), dtype=np.float64), Vt[:0].T, 0.0, True
    inside = U[:, :rank].T @ c
    miss = float(np.linalg.norm(U[:, rank:].T @ c))
    least = float(values[rank - 1]) if rank else scale
    allowed = rounding(max(system.shape), noise) * (1.0 + scale / least)
    return Vt[:rank].T @ (inside / values[:rank]), Vt[rank:].T, miss, miss <= allowed


def _reach_off_support(problem: Problem, white: Whitened) -> tuple[Array, float]:
    """Return how weights outside the row space enter the equation, (k, d - k), and their unit."""
    unit = assemble(problem).next_norm or 1.0
    if not white.N.size:
        return np.zeros((white.rank, 0)), unit
    reached = problem.chain @ problem.feature_rows.times(white.N / unit)
    reach = -problem.gamma * white.columns.project(reached)
    # Dependent columns cancel to rounding only, at the accuracy to which the rank was decided.
    reach[np.abs(reach) <= rounding(max(problem.n, problem.d), 1.0)] = 0.0
    return reach, unit


def _projected_error(problem: Problem, white: Whitened, w: Array) -> float:
    values = problem.feature_rows.times(w)
    error = problem.r + problem.gamma * (problem.chain @ values) - values
    return float(np.linalg.norm(white.columns.project(error))) / reward_norm(problem)
