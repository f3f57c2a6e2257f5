r"""The relaxation that predicts the next state's embedding, and the action's only afterwards.

An agent that learns its model in state space does not regress the next pair's features
:math:`Z'=P\Pi Z` on Z. It fits :math:`ZW_s\approx PZ_s`, which knows no policy, and turns a state's
features into the pair's, :math:`Z_sM_\pi\approx\Pi Z`. The product :math:`W_sM_\pi` takes the place of
:math:`W_d`, and its residual splits exactly:

.. math:: \epsilon_d = ZW_sM_\pi-Z' = \epsilon_sM_\pi + P\,\epsilon_M,\qquad
          \epsilon_s=ZW_s-PZ_s,\quad \epsilon_M=Z_sM_\pi-\Pi Z.

The first part is a model's error as in theorem 2; the second is the price of the relaxation. It is zero
if :math:`\Pi Z` lies in the span of :math:`Z_s`: for instance :math:`z_{sa}=z_s\otimes e_a` and a policy that
does not look at the state. Theorem 1 no longer applies (the two-stage fit is not TD), theorem 2 does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from theory.checks import EPS, Array, Ints, Matrix, as_array, check_shape
from theory.errors import InputError
from theory.mdp import TabularMDP
from theory.policy import Policy
from theory.problem import Problem
from theory.regression import weighted_regression
from theory.report import Condition, Report, Verdict
from theory.resolvent import Resolvent
from theory.td import LinearModel, fit_linear_model
from theory.value_error import ValueErrorSplit, model_solution, value_error


@dataclass(frozen=True, eq=False)
class Relaxation:
    r"""The relaxed model of a problem with n rows, m live states, d features and k state features.

    Attributes:
        W_s: (d, k), :math:`Z\to PZ_s`; the same for every policy.
        M_pi: (k, d), :math:`Z_s\to\Pi Z`.
        eps_s: (n, k), :math:`ZW_s-PZ_s`.
        eps_M: (m, d), :math:`Z_sM_\pi-\Pi Z`, one row a live state.
        W_d: (d, d), the product :math:`W_sM_\pi`.
        w: (d,), :math:`(I-\gamma W_sM_\pi)^{-1}w_r`; the least-squares solution if that is singular, and then
            the planning part of ``value`` is not zero.
        value: the value error :math:`Zw-Q^\pi` and its reward, dynamics and planning parts.
        state_part: (n,), :math:`\gamma G\epsilon_sM_\pi w`, what the state model adds to the value error.
        policy_part: (n,), :math:`\gamma GP\epsilon_Mw`, what the relaxation adds; the two sum to
            ``value.dynamics``.
        spectral_radius: :math:`\rho(\gamma W_sM_\pi)`; the relaxed rollout converges below 1.
        report: passes if both equalities hold up to rounding, that of the residuals and that of the value
            error. Its residual is the largest absolute entry of
            :math:`\epsilon_d-\epsilon_sM_\pi-P\epsilon_M`, with :math:`\epsilon_d` from the chain over pairs;
            its conditions say whether the relaxation is free, and why.
    """

    W_s: Array
    M_pi: Array
    eps_s: Array
    eps_M: Array
    W_d: Array
    w: Array
    value: ValueErrorSplit
    state_part: Array
    policy_part: Array
    spectral_radius: float
    report: Report


def relax_to_state(problem: Problem, state_features: Any, *, state_weights: Any = None) -> Relaxation:
    r"""Fit the relaxed model and split its value error; no n by n matrix is formed.

    Args:
        problem: must come from an MDP and a policy, since transitions and policy are fitted apart.
        state_features: (S, k) over all states of the MDP; rows of terminal states are not used.
        state_weights: (S,), non-negative, the weights of the fit of :math:`M_\pi`; by default those of the
            next state, :math:`\mu^\top P`, where :math:`M_\pi` is used.

    Raises:
        InputError: a bare chain, a wrong shape, NaN, negative weights, or infinite values.

    Example:
        >>> from theory import Features, Policy, TabularMDP, Weights
        >>> mdp = TabularMDP.from_dense([[[0, 1], [1, 0]], [[1, 0], [0, 1]]], [[0, 1], [2, 0]], 0.5)
        >>> problem = Problem(mdp, Policy.uniform(mdp), Features.one_hot(mdp), Weights.uniform(mdp))
        >>> exact = relax_to_state(problem, [[1, 0], [0, 1]])
        >>> bool(abs(exact.value.error).max() < 1e-12), exact.report.verdict
        (True, 'pass')
        >>> merged = relax_to_state(problem, [[1], [1]])  # every state looks alike
        >>> merged.M_pi.round(9).tolist(), bool(abs(merged.policy_part).max() > 0.1), merged.report.verdict
        ([[0.25, 0.25, 0.25, 0.25]], True, 'pass')
    """
    parts = _Parts(problem, state_features)
    nu = _state_weights(problem, parts, state_weights)
    ahead = np.asarray(parts.P @ parts.Z_s)
    to_state = weighted_regression(problem.Z, ahead, problem.mu)
    W_s = to_state.coefficients
    M_pi = weighted_regression(parts.Z_s, parts.pair_mean, nu).coefficients
    eps_s, eps_M = problem.Z @ W_s - ahead, parts.Z_s @ M_pi - parts.pair_mean
    W_d = W_s @ M_pi
    model = LinearModel(fit_linear_model(problem).w_r, W_d, to_state.rank, to_state.condition)
    w = model_solution(model, problem)
    value = value_error(problem, w=w, model=model)
    G = Resolvent(problem.P_pi, problem.gamma)
    one_step = np.asarray(parts.P @ eps_M)
    split = problem.Z @ W_d - problem.Z_next - eps_s @ M_pi - one_step
    tolerance = _rounding(problem, parts, W_s, M_pi)
    radius = problem.gamma * float(abs(np.linalg.eigvals(W_d)).max())
    conditions = (
        _free(float(abs(one_step).max()), tolerance),
        _open_loop(parts),
        _weighted(parts, nu),
        _solvable(value),
        _converges(radius),
    )
    return Relaxation(
        W_s=W_s,
        M_pi=M_pi,
        eps_s=eps_s,
        eps_M=eps_M,
        W_d=W_d,
        w=w,
        value=value,
        state_part=problem.gamma * G.solve(eps_s @ (M_pi @ w)).x,
        policy_part=problem.gamma * G.solve(one_step @ w).x,
        spectral_radius=radius,
        report=_report(float(abs(split).max()), tolerance, value, conditions),
    )


class _Parts:
    """Transitions and policy of a problem apart, over its live states."""

    def __init__(self, problem: Problem, state_features: Any) -> None:
        mdp, policy, rows = _origin(problem)
        A = mdp.num_actions
        given = as_array("state_features", state_features, lambda index: f"state {index[0]}")
        if given.ndim != 2 or given.shape[1] == 0:
            raise InputError(f"state_features must have shape (S, k) with k > 0, got {given.shape}.")
        check_shape("state_features", given, (mdp.num_states, given.shape[1]), "(states, k)")
        self.states: Ints = rows[::A] // A
        self.num_states = mdp.num_states
        self.P: Matrix = mdp.rows[rows][:, self.states]
        self.Z_s: Array = given[self.states]
        pairs = problem.Z.reshape(len(self.states), A, problem.d)
        probs = policy.probs[self.states]
        self.probs: Array = probs
        self.pair_mean: Array = np.einsum("sa,sad->sd", probs, pairs)
        self.pair_size: Array = np.einsum("sa,sad->sd", probs, abs(pairs))
        self.A: int = A


def _origin(problem: Problem) -> tuple[TabularMDP, Policy, Ints]:
    if problem.mdp is None or problem.policy is None or problem.rows is None:
        raise InputError(
            "The relaxation needs transitions and policy apart; this problem is a bare chain. "
            "Build it with Problem(mdp, policy, features, weights)."
        )
    return problem.mdp, problem.policy, problem.rows


def _state_weights(problem: Problem, parts: _Parts, given: Any) -> Array:
    """Return the weights of the live states: as given, or those of the next state."""
    if given is None:
        return np.asarray(problem.mu @ parts.P)
    weights = as_array("state_weights", given, lambda index: f"state {index[0]}")
    check_shape("state_weights", weights, (parts.num_states,), "(states,)")
    if weights.min() < 0.0:
        state = int(np.argmin(weights))
        raise InputError(f"state_weights must not be negative, got {weights[state]:.6g} at state {state}.")
    return np.asarray(weights[parts.states])


def _rounding(problem: Problem, parts: _Parts, W_s: Array, M_pi: Array) -> float:
    """Bound the rounding in the two sides of the split of the dynamics residual."""
    model = abs(W_s) @ abs(M_pi)
    lifted = abs(parts.Z_s) @ abs(M_pi) + parts.pair_size
    size = abs(problem.Z) @ model + 2.0 * np.asarray(parts.P @ lifted)
    operations = problem.d + len(M_pi) + parts.A + _longest_row(parts.P) + 8
    return 2.0 * operations * EPS * float(size.max())


def _report(
    residual: float, tolerance: float, value: ValueErrorSplit, conditions: tuple[Condition, ...]
) -> Report:
    """Return the verdict on both equalities."""
    data = {"value error residual": value.identity_residual, "value error tolerance": value.tolerance}
    verdict: Verdict = "pass" if residual <= tolerance and value.holds else "fail"
    return Report("relaxation to state embeddings", verdict, residual, tolerance, conditions, data)


def _longest_row(P: Matrix) -> int:
    """Return the largest number of successors of a row."""
    return int(np.bincount(sparse.coo_array(P).row, minlength=1).max())


def _free(price: float, tolerance: float) -> Condition:
    why = "P eps_M: unless the next pair's mean features are linear in the state's, relaxing has a price"
    return Condition("relaxation is free", price <= tolerance, price, tolerance, tolerance - price, why)


def _open_loop(parts: _Parts) -> Condition:
    spread = float(np.ptp(parts.probs, axis=0).max())
    why = "with features z_s (x) e_a this makes the relaxation free; other features or policies may do so too"
    return Condition("policy does not look at the state", spread <= 4 * EPS, spread, 4 * EPS, -spread, why)


def _weighted(parts: _Parts, nu: Array) -> Condition:
    reached = np.asarray(np.ones(parts.P.shape[0]) @ parts.P) > 0.0
    missed = float(np.sum(reached & (nu == 0.0)))
    why = "a state that is reached but has no weight in the fit of M_pi is extrapolated to"
    return Condition("every next state has weight", missed == 0.0, missed, 0.0, -missed, why)


def _solvable(value: ValueErrorSplit) -> Condition:
    left = float(abs(value.planning).max())
    why = "else (I - gamma W_s M_pi) w = w_r has no solution, and w is its least-squares solution"
    return Condition(
        "the model has a value", left <= value.tolerance, left, value.tolerance, value.tolerance - left, why
    )


def _converges(radius: float) -> Condition:
    why = "rolling the relaxed model out converges for every reward only then"
    return Condition("relaxed rollout converges", radius < 1.0, radius, 1.0, 1.0 - radius, why)
