r"""What must not change, or change in a known way, when a problem is written down differently.

    change                       weights             values
    features Z -> Z T            w -> T^-1 w         unchanged; so is the rollout spectrum, not TD's step size
    rewards r -> c r             w -> c w            times c
    rewards r -> r + c           -                   true ones gain c G 1; predicted ones gain c / (1 - gamma)
                                                     if 1 is in the span and nothing terminates
    a row listed twice           as weighted twice   unchanged
    rows in another order        unchanged           permuted

The check applies every change to one problem and solves again, from assembly to values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from theory.checks import Array, Bools, Ints, row_sums
from theory.problem import Problem
from theory.report import Condition, Report
from theory.resolvent import LEAK
from theory.spectrum import spectral_norm
from theory.stability import stability
from theory.theorem1 import check_fixed_point_equivalence
from theory.truth import chain_value
from theory.whitening import EPS, Whitened, reward_norm, unit_columns, whiten

THEOREM = "equivariances of the linear fixed point"
FACTOR = -3.0  # rewards are multiplied with it: neither positive nor a power of two
SHIFT = 1.0


@dataclass(frozen=True)
class _Solution:
    """Predicted values of the fixed point, (n,), and what rounding may do to them in the weighted norm."""

    q: Array
    allowed: float


def check_equivariances(problem: Problem) -> Report:
    """Change a problem in ways that must not matter, solve again and compare.

    Values are compared on the rows with weight, in the norm of the weights. The verdict is
    "inconclusive" if there is not exactly one fixed point, or if it is too ill-conditioned to compare;
    a statement that does not apply has ``holds`` None, says so, and does not count.

    Returns:
        The report: one condition a change. ``data`` has the step-size limits and spectral radii before and
        after the change of basis, which moves the first and not the second.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> report = check_equivariances(problem)
        >>> report.verdict, report.data["step_size_limit"], report.data["step_size_limit_after"]
        ('pass', 2.0, 0.2222222222222222)
    """
    solution, why = _solve(problem)
    if solution is None:
        return Report(THEOREM, "inconclusive", None, None, (Condition("one fixed point", None, why=why),))
    rebased = _copy(problem, Z=problem.Z @ change_of_basis(problem.d))
    conditions = (
        *_rebased(problem, solution, rebased),
        _same_values("rewards scaled", problem, solution, _copy(problem, r=FACTOR * problem.r), FACTOR),
        _true_shift(problem),
        _predicted_shift(problem, solution),
        _duplicated_row(problem),
        _other_order(problem, solution),
    )
    before, after = stability(problem), stability(rebased)
    failed = any(condition.holds is False for condition in conditions)
    worst = max(conditions, key=_excess)
    return Report(
        THEOREM,
        "fail" if failed else "pass",
        worst.value,
        worst.threshold,
        conditions,
        {
            "step_size_limit": before.step_size_limit,
            "step_size_limit_after": after.step_size_limit,
            "spectral_radius": before.spectral_radius,
            "spectral_radius_after": after.spectral_radius,
        },
    )


def change_of_basis(d: int) -> Array:
    """Return the invertible (d, d) matrix that the check uses: columns of unequal size, slightly mixed.

    Example:
        >>> change_of_basis(2)
        array([[ 3. ,  0.5],
               [ 0. , -0.5]])
    """
    return np.diag(np.resize([3.0, -0.5, 2.0], d)) + 0.5 * np.eye(d, k=1)


def listed(problem: Problem, rows: Ints) -> Problem:
    """Return the problem with its rows listed in this order; a row listed twice is entered half as often.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> listed(problem, np.array([0, 1, 1])).P_pi
        array([[0. , 0.5, 0.5],
               [0. , 0.5, 0.5],
               [0. , 0.5, 0.5]])
    """
    share = 1.0 / np.bincount(rows, minlength=problem.n)[rows]
    chain = problem.P_pi[rows][:, rows] * share[None, :]
    weights = problem.mu[rows]
    return Problem.from_chain(chain, problem.r[rows], problem.Z[rows], weights / weights.sum(), problem.gamma)


def _solve(problem: Problem) -> tuple[_Solution | None, str]:
    """Return the fixed point's values, or why there are none to compare."""
    report = check_fixed_point_equivalence(problem)
    w = report.data.get("w_td")
    if report.verdict == "inconclusive" or w is None or report.tolerance is None:
        return None, "not exactly one fixed point, or one that rounding hides"
    size = max(float(np.linalg.norm(np.sqrt(problem.mu @ problem.Z**2) * w)), reward_norm(problem))
    return _Solution(problem.Z @ w, math.sqrt(problem.d) * report.tolerance * size), ""


def _same_values(
    name: str, problem: Problem, solution: _Solution, changed: Problem, factor: float
) -> Condition:
    """Check that the values of the changed problem are ``factor`` times those of the problem."""
    after, why = _solve(changed)
    if after is None:
        return Condition(name, None, why=why)
    miss = float(np.sqrt(problem.mu @ (after.q - factor * solution.q) ** 2))
    return _at_most(name, miss, after.allowed + abs(factor) * solution.allowed, "predicted values")


GUESSES = "does not apply: features dependent on the data, and rows outside the data are reached"


def _rebased(problem: Problem, solution: _Solution, rebased: Problem) -> tuple[Condition, Condition]:
    """Check values and spectrum after a change of basis, if the model does not depend on the basis."""
    names = ("change of basis", "rollout spectrum")
    if _guesses(problem):
        return Condition(names[0], None, why=GUESSES), Condition(names[1], None, why=GUESSES)
    return _same_values(names[0], problem, solution, rebased, 1.0), _same_spectrum(problem, rebased)


def _guesses(problem: Problem) -> bool:
    """Say whether values rest on what weights of least norm predict outside the data.

    Among features that are dependent on the data, the least-squares model picks the weights of least
    norm, and what these predict on other rows depends on the basis.
    """
    return whiten(problem).rank < problem.d and bool(_reached(problem)[problem.mu == 0.0].any())


def _reached(problem: Problem) -> Bools:
    """Return the rows that have weight or follow on one that has, (n,)."""
    return np.asarray((problem.mu > 0.0) | (problem.mu @ problem.P_pi > 0.0))


def _same_spectrum(problem: Problem, rebased: Problem) -> Condition:
    """Check that the model is the same operator on the span, whatever the basis."""
    before, after = whiten(problem), whiten(rebased)
    if before.rank != after.rank:
        return Condition("rollout spectrum", None, why="the rank is within rounding of another")
    turn = after.Q.T @ before.Q
    miss = spectral_norm(np.asarray(after.M - turn @ before.M @ turn.T, dtype=np.float64))
    allowed = 64 * problem.d * EPS * (before.condition + after.condition) * max(1.0, _size(problem, before))
    return _at_most("rollout spectrum", miss, allowed, "the model as an operator on the span of the features")


def _size(problem: Problem, white: Whitened) -> float:
    """Return the size of what the whitened model was computed from."""
    ahead = problem.P_pi @ (white.Q / np.where(problem.mu > 0.0, np.sqrt(problem.mu), 1.0)[:, None])
    return max(spectral_norm(white.M), float(np.sqrt(problem.mu @ (ahead**2).sum(axis=1))))


def _true_shift(problem: Problem) -> Condition:
    name = "rewards shifted, true values"
    ends = row_sums(problem.P_pi) < 1.0 - LEAK
    if problem.gamma == 1.0 and not ends.any():
        return Condition(name, None, why="does not apply: true values are infinite")
    before = chain_value(problem.P_pi, problem.r, problem.gamma)
    after = chain_value(problem.P_pi, problem.r + SHIFT, problem.gamma)
    steps = chain_value(problem.P_pi, np.ones(problem.n), problem.gamma)
    gain = SHIFT * steps.value if ends.any() else np.full(problem.n, SHIFT / (1.0 - problem.gamma))
    miss = float(abs(after.value - before.value - gain).max())
    allowed = before.error_bound + after.error_bound + steps.error_bound
    return _at_most(name, miss, allowed + 4 * EPS * float(gain.max()), "c G 1, c / (1 - gamma) without ends")


def _predicted_shift(problem: Problem, solution: _Solution) -> Condition:
    name, seen = "rewards shifted, predicted values", unit_columns(problem.Z[_reached(problem)])[0]
    if _guesses(problem):
        return Condition(name, None, why=GUESSES)
    ones = np.ones(len(seen))
    outside = float(abs(seen @ np.linalg.lstsq(seen, ones)[0] - ones).max())
    if outside > 64 * problem.n * EPS * whiten(problem).condition:
        return Condition(name, None, why=f"does not apply: constants are {outside:.3g} outside the span")
    if problem.gamma == 1.0 or row_sums(problem.P_pi)[problem.mu > 0.0].min() < 1.0 - LEAK:
        return Condition(name, None, why="does not apply: something terminates, or gamma is 1")
    after, why = _solve(_copy(problem, r=problem.r + SHIFT))
    if after is None:
        return Condition(name, None, why=why)
    gain = SHIFT / (1.0 - problem.gamma)
    miss = float(np.sqrt(problem.mu @ (after.q - solution.q - gain) ** 2))
    return _at_most(name, miss, after.allowed + solution.allowed, "c / (1 - gamma)")


def _duplicated_row(problem: Problem) -> Condition:
    """Check that listing the heaviest row twice is the same as doubling its weight."""
    row = int(problem.mu.argmax())
    weights = np.where(np.arange(problem.n) == row, 2.0, 1.0) * problem.mu
    doubled = _copy(problem, mu=weights / weights.sum())
    solution, why = _solve(doubled)
    if solution is None:
        return Condition("row listed twice", None, why=why)
    twice = listed(problem, np.append(np.arange(problem.n), row))
    both = _Solution(np.append(solution.q, solution.q[row]), solution.allowed)
    return _same_values("row listed twice", twice, both, twice, 1.0)


def _other_order(problem: Problem, solution: _Solution) -> Condition:
    backwards = listed(problem, np.arange(problem.n)[::-1])
    turned = _Solution(solution.q[::-1], solution.allowed)
    return _same_values("rows in another order", backwards, turned, backwards, 1.0)


def _copy(
    problem: Problem, *, r: Array | None = None, Z: Array | None = None, mu: Array | None = None
) -> Problem:
    """Return the bare chain of a problem with other rewards, features or weights."""
    return Problem.from_chain(
        problem.P_pi,
        problem.r if r is None else r,
        problem.Z if Z is None else Z,
        problem.mu if mu is None else mu,
        problem.gamma,
    )


def _excess(condition: Condition) -> float:
    """Return the share of its threshold that a condition used up; -1 if it does not apply."""
    if condition.value is None or condition.threshold is None:
        return -1.0
    return (
        condition.value / condition.threshold if condition.threshold > 0.0 else float(condition.value > 0.0)
    )


def _at_most(name: str, value: float, threshold: float, why: str) -> Condition:
    return Condition(name, bool(value <= threshold), value, threshold, threshold - value, why)
