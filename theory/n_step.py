r"""n-step temporal differences: where their fixed points lie, and what uncorrected off-policy returns cost.

An n-step target follows the data for n steps and then bootstraps. If the actions on the way are the policy's,
its operator is :math:`T_\pi^n` and the fixed point moves with n towards the projection of :math:`Q^\pi`. If
they are those of a behaviour policy b and nothing corrects for it, the operator is :math:`T_b^{n-1}T_\pi`,
whose fixed point is not :math:`Q^\pi` even with one feature for every row.

n-step TD is one-step TD on the n-step chain (:func:`n_step_problem`), so everything else in this package can
be asked about it. The chain fills up: this is for problems of a few thousand rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from theory.chains import pair_chain
from theory.checks import EPS, Array, Matrix, as_array, check_gamma, check_shape, frozen, to_dense
from theory.equivalence_conditions import finite_returns
from theory.errors import InputError
from theory.policy import Policy
from theory.problem import Problem, check_chain
from theory.report import Condition
from theory.td import FixedPoint, Kind, td_fixed_point
from theory.truth import Certified, chain_value

MOST_ROWS = 4000  # the n-step chain is dense: 128 MB


@dataclass(frozen=True, eq=False)
class NStepFixedPoint:
    r"""The fixed point of n-step TD, and how far it is from :math:`Q^\pi` for which reason.

    Attributes:
        n: steps before the bootstrap.
        kind: "unique", "affine" or "none", as in :class:`theory.FixedPoint`.
        w: (d,), ``None`` if there is no fixed point.
        nullity: dimension of the null space of the n-step system.
        q: (rows,), :math:`Zw`; ``None`` likewise.
        conditions: that the fixed point is unique, that returns are finite, that there is no bias (absent,
            and the numbers below ``None``, where returns are infinite).
        target: (rows,), the fixed point of the operator without features: :math:`Q^\pi` if the actions are
            the policy's.
        bias: largest difference between ``target`` and :math:`Q^\pi`: what the behaviour's actions cost.
        limit_bias: the same as n grows without end: between :math:`Q^b` and :math:`Q^\pi`.
        error: (rows,), :math:`Zw-Q^\pi`.
        distance: D-norm of the difference between :math:`Zw` and its limit, the D-projection of :math:`Q^\pi`
            or, with a behaviour, of :math:`Q^b`.
    """

    n: int
    kind: Kind
    w: Array | None
    nullity: int
    q: Array | None
    conditions: tuple[Condition, ...]
    target: Array | None = None
    bias: float | None = None
    limit_bias: float | None = None
    error: Array | None = None
    distance: float | None = None


def n_step_fixed_point(problem: Problem, n: int, *, behaviour: Any = None) -> NStepFixedPoint:
    r"""Return the fixed point of n-step TD: :math:`Zw=\Pi\,T_b^{n-1}T_\pi Zw`.

    .. math:: T_b^{n-1}T_\pi\,q=\sum_{t<n}(\gamma P^b)^tr+\gamma^n(P^b)^{n-1}P^\pi q

    The first action is the row's, the next n - 1 are the behaviour's, the bootstrap takes the policy's.

    Args:
        problem: rows, rewards, features, weights, discount, and the policy's chain.
        n: steps before the bootstrap, at least 1; with 1 no action of the behaviour enters.
        behaviour: a :class:`theory.Policy` if the problem comes from an MDP, or the behaviour's (rows, rows)
            chain, transitions into terminals removed. ``None``: the policy's own actions.

    Raises:
        InputError: n below 1; a behaviour of another shape, or a policy with a bare chain; more than
            4000 rows.

    Example:
        >>> from theory import Features, Policy, TabularMDP, Weights
        >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[1.0, 0.0]], 0.5)  # one state, two actions
        >>> problem = Problem(mdp, Policy([[1, 0]]), Features.one_hot(mdp), Weights.uniform(mdp))
        >>> [n_step_fixed_point(problem, n, behaviour=Policy([[0, 1]])).bias for n in (1, 2, 3)]
        [0.0, 0.6..., 0.8...]
        >>> n_step_fixed_point(problem, 3).q.round(9)
        array([2., 1.])
    """
    stepped = n_step_problem(problem, n, behaviour=behaviour)
    fixed = td_fixed_point(stepped)
    q = None if fixed.w is None else frozen(problem.Z @ fixed.w)
    P_b = _behaviour_chain(problem, behaviour)
    finite = _finite(problem, P_b, stepped)
    found = NStepFixedPoint(n, fixed.kind, fixed.w, fixed.nullity, q, (_unique(fixed), finite))
    if not finite.holds:
        return found
    truth = chain_value(problem.P_pi, problem.r, problem.gamma)
    target = chain_value(stepped.P_pi, stepped.r, stepped.gamma)
    limit = chain_value(P_b, problem.r, problem.gamma)
    unbiased = _unbiased(problem, n, truth, target)
    return replace(
        found,
        conditions=(*found.conditions, unbiased),
        target=target.value,
        bias=unbiased.value,
        limit_bias=float(np.abs(limit.value - truth.value).max()),
        error=None if q is None else frozen(q - truth.value),
        distance=None if q is None else _weighted_norm(problem, q - _projection(problem, limit.value)),
    )


def n_step_problem(problem: Problem, n: int, *, behaviour: Any = None) -> Problem:
    r"""Return the problem whose one-step TD is n-step TD on this one.

    Its chain is :math:`(P^b)^{n-1}P^\pi`, its reward :math:`\sum_{t<n}(\gamma P^b)^tr`, its discount
    :math:`\gamma^n`. A run that ends on the way leaves the chain at that step with the reward of that step:
    :math:`(P^b)^tr` counts a reward exactly if the run was alive before it.

    Raises:
        InputError: see :func:`n_step_fixed_point`.

    Example:
        >>> chain = [[0, 1, 0], [0, 0, 1], [0, 0, 0]]  # the third step ends the run and pays 1
        >>> problem = Problem.from_chain(chain, [0, 0, 1], [[1], [1], [1]], [1, 0, 0], 0.5)
        >>> n_step_problem(problem, 3).r
        array([0.25, 0.5 , 1.  ])
    """
    _check_steps(n)
    if problem.n > MOST_ROWS:
        raise InputError(
            f"The n-step chain is dense and takes at most {MOST_ROWS} rows; the problem has {problem.n}."
        )
    P_b = _behaviour_chain(problem, behaviour)
    reward = problem.r
    for _ in range(n - 1):
        reward = problem.r + problem.gamma * np.asarray(P_b @ reward)
    chain = problem.P_pi if n == 1 else np.linalg.matrix_power(to_dense(P_b), n - 1) @ problem.dense_P
    return Problem.from_chain(chain, reward, problem.Z, problem.mu, problem.gamma**n)


def n_step_operator(problem: Problem, n: int, q: Any, *, behaviour: Any = None) -> Array:
    r"""Return :math:`T_b^{n-1}T_\pi q`, (rows,): one step of the policy, then n - 1 of the behaviour.

    Args:
        problem: rewards, chain and discount.
        n: steps before the bootstrap, at least 1.
        q: (rows,) values.
        behaviour: as in :func:`n_step_fixed_point`.

    Raises:
        InputError: n below 1, another shape of q, or a behaviour that does not fit.

    Example:
        >>> chain = [[0, 1], [0, 0]]
        >>> n_step_operator(Problem.from_chain(chain, [0, 1], [[1], [1]], [1, 0], 0.5), 2, [8.0, 8.0])
        array([0.5, 1. ])
    """
    _check_steps(n)
    values = as_array("q", q)
    check_shape("q", values, (problem.n,), "(rows,)")
    P_b = _behaviour_chain(problem, behaviour)
    for step in range(n):
        ahead = (problem.P_pi if step == 0 else P_b) @ values
        values = problem.r + problem.gamma * np.asarray(ahead)
    return values


def n_step_return(rewards: Any, done: Any, gamma: float) -> tuple[Array, Array]:
    r"""Return n-step returns of sampled steps, and the factor of the value bootstrapped from behind them.

    .. math:: R=\sum_{t<n}\gamma^t r_t\prod_{j<t}(1-d_j),\qquad \gamma^n\prod_{j<n}(1-d_j)

    The product over flags is shifted by one: a step that ends the run still pays. Multiplying each reward by
    its own flag instead loses exactly the terminal rewards.

    Args:
        rewards: (..., n), in order of time; what follows an end is ignored.
        done: (..., n) booleans, True where the step ended the run by termination, not by a time limit.
        gamma: discount in [0, 1].

    Returns:
        Two arrays (...).

    Raises:
        InputError: shapes that differ or have no step, flags that are not booleans, NaN, a wrong discount.

    Example:
        >>> done = [[False, False, True], [True, False, False]]
        >>> returns, bootstrap = n_step_return([[0, 0, 1], [1, 0, 5]], done, 0.99)
        >>> returns.round(4), bootstrap
        (array([0.9801, 1.    ]), array([0., 0.]))
    """
    values, flags, discount = as_array("rewards", rewards), np.array(done), check_gamma(gamma)
    if values.ndim == 0 or values.shape[-1] == 0:
        raise InputError(f"rewards must have shape (..., n) with n > 0, got {values.shape}.")
    check_shape("done", flags, values.shape, "that of the rewards")
    if flags.dtype != np.bool_:
        raise InputError(f"done must hold True or False for each step, got {flags.dtype}.")
    alive = np.cumprod(~flags, axis=-1, dtype=np.float64)
    before = np.concatenate([np.ones_like(alive[..., :1]), alive[..., :-1]], axis=-1)
    steps = values.shape[-1]
    returns = (discount ** np.arange(steps) * before * values).sum(axis=-1)
    return np.asarray(returns), np.asarray(discount**steps * alive[..., -1])


def _check_steps(n: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise InputError(f"n must be a whole number from 1, got {n!r}.")


def _behaviour_chain(problem: Problem, behaviour: Any) -> Matrix:
    """Return the (rows, rows) chain of the behaviour's actions over the rows of the problem."""
    if behaviour is None:
        return problem.P_pi
    if not isinstance(behaviour, Policy):
        try:
            return check_chain(behaviour, problem.n)
        except InputError as error:  # it calls every chain P_pi
            raise InputError(str(error).replace("P_pi", "behaviour")) from error
    if problem.mdp is None or problem.rows is None:
        raise InputError(
            "behaviour is a Policy, but the problem is a bare chain without actions; give the behaviour's "
            f"({problem.n}, {problem.n}) chain instead."
        )
    states = problem.rows[:: problem.mdp.num_actions] // problem.mdp.num_actions
    return pair_chain(problem.mdp, behaviour, states)[0]


def _unique(fixed: FixedPoint) -> Condition:
    why = "else n-step TD has no fixed point, or many"
    return Condition(
        "exactly one fixed point", fixed.kind == "unique", fixed.nullity, 0.0, -fixed.nullity, why
    )


def _finite(problem: Problem, P_b: Matrix, stepped: Problem) -> Condition:
    """Return whether the values of the policy, of the behaviour and of their mixture are all finite."""
    follows_b = Problem.from_chain(P_b, problem.r, problem.Z, problem.mu, problem.gamma)
    found = [finite_returns(each) for each in (problem, follows_b, stepped)]
    return next((condition for condition in found if not condition.holds), found[0])


def _projection(problem: Problem, q: Array) -> Array:
    """Return the D-projection of ``q`` on the span of the features, (rows,)."""
    root = np.sqrt(problem.mu)
    return np.asarray(problem.Z @ np.linalg.lstsq(root[:, None] * problem.Z, root * q)[0])


def _weighted_norm(problem: Problem, values: Array) -> float:
    return float(np.sqrt(problem.mu @ values**2))


def _unbiased(problem: Problem, n: int, truth: Certified, target: Certified) -> Condition:
    """Return whether the operator's fixed point is the policy's value, as far as rounding lets one tell."""
    bias = float(np.abs(target.value - truth.value).max())
    # Powers and sums of n products of non-negative matrices: each entry is right to n * rows roundings.
    size = n * float(np.abs(problem.r).max()) + float(np.abs(target.value).max())
    formed = 4.0 * n * (problem.n + 4) * EPS * size * target.H
    allowed = truth.error_bound + target.error_bound + formed
    why = (
        "else actions of the behaviour on the way, which nothing corrects for, move the fixed point away from"
        " the policy's value, with one feature a row too"
    )
    return Condition("returns follow the policy", bias <= allowed, bias, allowed, allowed - bias, why)
