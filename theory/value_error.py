r"""Theorem 2 as an equality: the value error split into reward, dynamics and planning parts.

With :math:`G=(I-\gamma P^\pi)^{-1}`, for any :math:`w_r, W_d, w` whatever,

.. math:: Zw - Q^\pi = G\,[\,\epsilon_r + \gamma\,\epsilon_d w + Z(w - w_r - \gamma W_d w)\,],
          \quad \epsilon_r = Zw_r - r,\; \epsilon_d = ZW_d - Z'.

Needed is only that :math:`Q^\pi` is finite; no least squares, no data distribution, no convergence
of a series. So it is checked as an equality: a residual above rounding is a mistake in P, r, Z',
the policy or the treatment of terminal states. The inequalities that follow are in ``bounds``.
Features are read block by block; what is kept is (n,).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from theory.chains import longest_row
from theory.checks import EPS, Array, as_array, check_shape, frozen
from theory.problem import Problem
from theory.rollout import scaled_model, solve_regular
from theory.spectrum import spectral_norm
from theory.streaming import remembered
from theory.td import LinearModel, checked_model, fit_linear_model, solve_any
from theory.truth import Certified, certified_q
from theory.whitening import whiten


@dataclass(frozen=True, eq=False)
class ValueErrorSplit:
    r"""The value error of every row and the three parts it is the sum of, all (n,).

    Attributes:
        error: :math:`\hat Q-Q^\pi`.
        reward: :math:`G\epsilon_r`, what the reward model adds.
        dynamics: :math:`\gamma G\epsilon_d w`, what the dynamics model adds.
        planning: what is left because ``w`` does not solve :math:`(I-\gamma W_d)w=w_r`; zero up to
            rounding at the solution.
        identity_residual: largest absolute entry of error - (reward + dynamics + planning).
        tolerance: what rounding and the solvers' certified errors can account for.
        w: (d,), the weights in question; None for values that come from functions.
        q_true: (n,), :math:`Q^\pi`.
        horizon: :math:`H=\|G\|_\infty`, :math:`1/(1-\gamma)` exactly if some row never ends.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> split = value_error(problem)
        >>> split.error.round(9).tolist(), split.holds
        ([-0.5, 1.0], True)
    """

    error: Array
    reward: Array
    dynamics: Array
    planning: Array
    identity_residual: float
    tolerance: float
    w: Array | None
    q_true: Array
    horizon: float

    @property
    def holds(self) -> bool:
        """Whether the identity holds up to rounding."""
        return self.identity_residual <= self.tolerance


@dataclass(frozen=True, eq=False)
class Residuals:
    r"""One-step residuals of a linear model, before :math:`G` carries them on.

    Attributes:
        reward: (n,), :math:`\epsilon_r=Zw_r-r`.
        dynamics: (n, d), :math:`\epsilon_d=ZW_d-Z'`.
        planning: (n,), :math:`Z(w-w_r-\gamma W_dw)`.
        magnitude: (n,), sum of the absolute values that were added up, for tolerances.
    """

    reward: Array
    dynamics: Array
    planning: Array
    magnitude: Array


@dataclass(frozen=True, eq=False)
class OneStep:
    r"""One-step residuals of a linear model at ``w``, before :math:`G` carries them on; all (n,).

    The residual of the dynamics, :math:`\epsilon_d=ZW_d-Z'`, is (n, d) and only ever met in blocks; kept is
    what the theorems use of it.

    Attributes:
        reward: :math:`\epsilon_r=Zw_r-r`.
        dynamics: :math:`\epsilon_dw`.
        weighted: :math:`|\epsilon_d||w|`.
        sums: :math:`\|\epsilon_d\|_1` of every row.
        squares: :math:`\|\epsilon_d\|_2^2` of every row.
        planning: :math:`Z(w-w_r-\gamma W_dw)`.
        magnitude: sum of the absolute values that were added up, for tolerances.
    """

    reward: Array
    dynamics: Array
    weighted: Array
    sums: Array
    squares: Array
    planning: Array
    magnitude: Array


def value_error(
    problem: Problem,
    *,
    w: Any = None,
    model: LinearModel | None = None,
    Z_next: Any = None,
    q_true: Any = None,
) -> ValueErrorSplit:
    r"""Split :math:`Zw-Q^\pi` into its reward, dynamics and planning parts, and check the identity.

    Args:
        problem: n rows, d features.
        w: (d,), any value weights; default: the solution of :math:`(I-\gamma W_d)w=w_r`, in the
            least-squares sense if there is none (the planning part then says so).
        model: any linear model; default: the least-squares fit.
        Z_next: (n, d), expected next features from elsewhere, to be audited; default: P Z.
        q_true: (n,), values from elsewhere, to be audited; default: solved from the MDP if the
            problem has one, which also audits ``P_pi``, else from the chain.

    Raises:
        InputError: a wrong shape, or :math:`Q^\pi` is infinite (gamma = 1 and a row that may never end).

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> value_error(problem, w=[7.0]).holds
        True
        >>> value_error(problem, Z_next=[[2.0], [1.0]]).holds
        False
    """
    if w is None and model is None and Z_next is None and q_true is None:
        return at_solution(problem)[1]
    model = fit_linear_model(problem) if model is None else checked_model(problem, model)
    weights = model_solution(model, problem) if w is None else _given("w", w, (problem.d,), "(features,)")
    if Z_next is not None:
        Z_next = _given("Z_next", Z_next, (problem.n, problem.d), "(rows, features)")
    return _split(problem, one_step(problem, model.w_r, model.W_d, weights, Z_next), weights, q_true)


@remembered
def at_solution(problem: Problem) -> tuple[OneStep, ValueErrorSplit]:
    """Return the one-step residuals and the split of the value error at the theorem-1 solution.

    Example:
        >>> one = at_solution(Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5))[0]
        >>> one.sums.round(9)
        array([0.8, 0.4])
    """
    model = fit_linear_model(problem)
    w = model_solution(model, problem)
    parts = one_step(problem, model.w_r, model.W_d, w)
    return parts, _split(problem, parts, w, None)


def _split(problem: Problem, parts: OneStep, w: Array, q_true: Any) -> ValueErrorSplit:
    one_step_parts = (parts.reward, problem.gamma * parts.dynamics, parts.planning)
    values = problem.feature_rows.times(w)
    return _assemble(problem, values, one_step_parts, parts.magnitude, q_true, w)


def value_error_of_functions(
    problem: Problem, q: Any, r_hat: Any, next_value: Any, *, q_true: Any = None
) -> ValueErrorSplit:
    r"""Make the same split for any functions, such as a trained network with a non-linear head.

    .. math:: Q - Q^\pi = G[(\hat r-r) + \gamma(\hat V - P^\pi Q) + (Q-\hat r-\gamma\hat V)]

    Args:
        problem: the chain; its features and weights play no part.
        q: (n,), the values Q.
        r_hat: (n,), the predicted rewards.
        next_value: (n,), :math:`\hat V`, the value of the predicted next embedding of each row.
        q_true: (n,), as in :func:`value_error`.

    Raises:
        InputError: a wrong shape, or :math:`Q^\pi` is infinite.

    Example:
        >>> problem = Problem.from_chain([[0.0]], [1.0], [[1.0]], [1.0], 0.9)
        >>> split = value_error_of_functions(problem, q=[3.0], r_hat=[1.5], next_value=[0.0])
        >>> split.reward.tolist(), split.planning.tolist(), split.error.tolist()
        ([0.5], [1.5], [2.0])
    """
    shape, gamma = (problem.n,), problem.gamma
    values = _given("q", q, shape, "(rows,)")
    rewards = _given("r_hat", r_hat, shape, "(rows,)")
    predicted = _given("next_value", next_value, shape, "(rows,)")
    parts = (
        rewards - problem.r,
        gamma * (predicted - problem.chain @ values),
        values - rewards - gamma * predicted,
    )
    size = abs(problem.r) + 2 * abs(rewards) + 2 * gamma * abs(predicted) + 2 * abs(values).max()
    return _assemble(problem, values, parts, size, q_true, None)


def residuals(problem: Problem, w_r: Array, W_d: Array, w: Array, Z_next: Array) -> Residuals:
    """Return the one-step residuals of a linear model at ``w``, those of the dynamics in full, (n, d).

    :func:`one_step` is for problems whose features fill the memory.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> one = np.ones(1)
        >>> residuals(problem, one, one[:, None], one, problem.Z_next).dynamics.tolist()
        [[-1.0], [0.0]]
    """
    Z, gamma = problem.Z, problem.gamma
    planned = w - w_r - gamma * (W_d @ w)
    inside = abs(w) + 2 * abs(w_r) + 2 * gamma * (abs(W_d) @ abs(w))
    outside = problem.chain @ _absolute_values(problem, w)
    return Residuals(
        reward=Z @ w_r - problem.r,
        dynamics=Z @ W_d - Z_next,
        planning=Z @ planned,
        magnitude=abs(problem.r) + abs(Z) @ inside + gamma * outside,
    )


def one_step(problem: Problem, w_r: Array, W_d: Array, w: Array, Z_next: Array | None = None) -> OneStep:
    """Return the one-step residuals of a linear model at ``w``; ``Z_next``, (n, d), replaces the problem's.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> one = np.ones(1)
        >>> one_step(problem, one, one[:, None], one).dynamics
        array([-1.,  0.])
    """
    planned = w - w_r - problem.gamma * (W_d @ w)
    inside = abs(w) + 2 * abs(w_r) + 2 * problem.gamma * (abs(W_d) @ abs(w))
    columns = np.empty((7, problem.n))
    for block in problem.blocks():
        ahead = block.Z_next if Z_next is None else Z_next[block.rows]
        off, size = block.Z @ W_d - ahead, abs(block.Z)
        columns[0, block.rows] = block.Z @ w_r
        columns[1, block.rows] = off @ w
        columns[4, block.rows] = np.einsum("ij,ij->i", off, off)
        columns[5, block.rows] = block.Z @ planned
        columns[6, block.rows] = size @ inside
        np.abs(off, out=off)
        columns[2, block.rows] = off @ abs(w)
        columns[3, block.rows] = off.sum(axis=1)
    outside = problem.chain @ _absolute_values(problem, w)
    reward, dynamics, weighted, sums, squares, planning, magnitude = columns
    magnitude = abs(problem.r) + magnitude + problem.gamma * outside
    return OneStep(reward - problem.r, dynamics, weighted, sums, squares, planning, magnitude)


def _absolute_values(problem: Problem, w: Array) -> Array:
    """Return ``abs(Z) @ abs(w)``, (n,)."""
    source = problem.feature_rows
    return np.concatenate([abs(source.read(rows)) @ abs(w) for rows in source.slices()])


def model_solution(model: LinearModel, problem: Problem) -> Array:
    r"""Return the least-norm least-squares solution of :math:`(I-\gamma W_d)w=w_r`, (d,).

    With features of D-norm one it is solved as :func:`theory.model_based_solution` does, if that is regular
    beyond the accuracy of ``W_d``; otherwise in coordinates where the features are orthonormal under the
    weights. What is singular in both counts as singular, so the answer never is the inverse of a rounding
    error.

    Example:
        >>> singular = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 5 / 6)
        >>> model_solution(fit_linear_model(singular), singular).tolist()
        [0.0]
    """
    model = checked_model(problem, model)
    G, reward, unit = scaled_model(problem, model)
    regular = solve_regular(G, reward, model.condition)
    if regular is not None:
        return regular / unit
    white = whiten(problem)
    to_w = np.hstack([white.weights(np.eye(white.rank)), white.N])
    moved = np.linalg.solve(to_w, np.column_stack([model.w_r, model.W_d @ to_w])).astype(np.float64)
    rewards, dynamics = moved[:, 0], problem.gamma * moved[:, 1:]
    scale = white.condition * max(1.0, spectral_norm(dynamics))
    return np.asarray(
        to_w @ solve_any(np.eye(problem.d) - dynamics, rewards, scale, 1.0)[0], dtype=np.float64
    )


def true_values(problem: Problem) -> Certified:
    r"""Return :math:`Q^\pi` on the rows of the problem: from its MDP if it has one, else from the chain.

    Raises:
        InputError: :math:`Q^\pi` is infinite.

    Example:
        >>> problem = Problem.from_chain([[1.0]], [1.0], [[1.0]], [1.0], 0.5)
        >>> true_values(problem).value.tolist()
        [2.0]
    """
    if problem.mdp is None or problem.policy is None or problem.rows is None:
        solved = problem.resolvent.solve(problem.r)
        return Certified(
            frozen(solved.x), solved.error_bound, solved.solver, solved.iterations, problem.resolvent.H
        )
    found = certified_q(problem.mdp, problem.policy)
    return replace(found, value=found.value.reshape(-1)[problem.rows])


def _assemble(
    problem: Problem,
    values: Array,
    parts: tuple[Array, Array, Array],
    magnitude: Array,
    q_true: Any,
    w: Array | None,
) -> ValueErrorSplit:
    """Carry the one-step parts on with G and compare their sum with the error."""
    resolvent = problem.resolvent
    carried = [resolvent.solve(part) for part in parts]
    truth = true_values(problem) if q_true is None else None
    true = truth.value if truth is not None else _given("q_true", q_true, (problem.n,), "(rows,)")
    error = values - true
    reward, dynamics, planning = (part.x for part in carried)
    largest = float(magnitude.max()) + float(abs(true).max()) + sum(float(abs(p.x).max()) for p in carried)
    certified = sum(part.error_bound for part in carried) + (truth.error_bound if truth is not None else 0.0)
    operations = problem.d + longest_row(problem.chain.P) + problem.chain.probs.shape[1] + 8
    return ValueErrorSplit(
        error=frozen(error),
        reward=frozen(reward),
        dynamics=frozen(dynamics),
        planning=frozen(planning),
        identity_residual=float(abs(error - (reward + dynamics + planning)).max()),
        tolerance=certified + 2 * operations * EPS * resolvent.H * largest,
        w=w,
        q_true=true,
        horizon=resolvent.H,
    )


def _given(name: str, value: Any, shape: tuple[int, ...], meaning: str) -> Array:
    """Return a user's array as float64 of this shape."""
    array = as_array(name, value)
    check_shape(name, array, shape, meaning)
    return array
