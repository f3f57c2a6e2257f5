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
from dataclasses import dataclass, replace

import numpy as np

from theory.assembly import assemble
from theory.checks import EPS, Array, Ints
from theory.equivalence_conditions import finite_returns
from theory.problem import Problem
from theory.report import Condition, Report
from theory.spectrum import spectral_norm
from theory.stability import stability
from theory.theorem1 import check_fixed_point_equivalence
from theory.whitening import Whitened, reward_norm, unit_columns, whiten

THEOREM = "equivariances of the linear fixed point"
FACTOR = -3.0  # rewards are multiplied with it: neither positive nor a power of two
SHIFT = 1.0


@dataclass(frozen=True, eq=False)
class _Solution:
    r"""Predicted values of the fixed point.

    Attributes:
        q: (n,), the values.
        allowed: what rounding may do to them in the weighted norm.
        rank: of the weighted features.
        inverse: no less than :math:`\|(I-\gamma M)^{-1}\|`, what a change of the reward is multiplied with.
    """

    q: Array
    allowed: float
    rank: int
    inverse: float


def check_equivariances(problem: Problem) -> Report:
    """Change a problem in ways that must not matter, solve again and compare.

    Values are compared on the rows with weight, in the norm of the weights. The verdict is
    "inconclusive" if there is not exactly one fixed point, or if it is too ill-conditioned to compare;
    a statement that does not apply, or that rounding hides (a change may move the numerical rank of nearly
    dependent features), has ``holds`` None, says so, and does not count.

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
    rebased = _copy(problem, Z=_level(problem) @ change_of_basis(problem.d))
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


def _level(problem: Problem) -> Array:
    """Return the features with columns of D-norm 1 to 2, exactly, so that mixing them loses no digits."""
    return np.asarray(np.ldexp(problem.Z, 1 - np.frexp(assemble(problem).scale)[1]))


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
    size = max(float(np.linalg.norm(assemble(problem).scale * w)), reward_norm(problem))
    allowed = math.sqrt(problem.d) * report.tolerance * size
    inverse = report.data["condition_numbers"]["whitened"]
    return _Solution(problem.Z @ w, allowed, report.data["rank"], inverse), ""


RANK_MOVED = "the rank is within rounding of another"


def _same_values(
    name: str, problem: Problem, solution: _Solution, changed: Problem, factor: float
) -> Condition:
    """Check that the values of the changed problem are ``factor`` times those of the problem."""
    after, why = _solve(changed)
    if after is None or after.rank != solution.rank:
        return Condition(name, None, why=why or RANK_MOVED)
    miss = float(np.sqrt(problem.mu @ (after.q - factor * solution.q) ** 2))
    return Condition.at_most(name, miss, after.allowed + abs(factor) * solution.allowed, "predicted values")


GUESSES = "does not apply: features that vanish on the data do not where it leads, outside the data"


def _rebased(problem: Problem, solution: _Solution, rebased: Problem) -> tuple[Condition, Condition]:
    """Check values and spectrum after a change of basis, if the model does not depend on the basis."""
    names = ("change of basis", "rollout spectrum")
    if _guesses(problem):
        return Condition(names[0], None, why=GUESSES), Condition(names[1], None, why=GUESSES)
    return _same_values(names[0], problem, solution, rebased, 1.0), _same_spectrum(problem, rebased)


def _guesses(problem: Problem) -> bool:
    """Say whether combinations of features that vanish on the data do not vanish where it leads, on average.

    The least-squares model then picks the weights of least norm, and what these predict depends on the basis.
    """
    white, root = whiten(problem), np.sqrt(problem.mu)[:, None]
    ahead = np.linalg.norm(root * (problem.Z_next @ white.N), axis=0)
    size = np.linalg.norm(root * (abs(problem.Z_next) @ abs(white.N)), axis=0)
    return bool(np.any(ahead > 64 * max(problem.n, problem.d) * EPS * white.condition * size))


def _same_spectrum(problem: Problem, rebased: Problem) -> Condition:
    """Check that the model is the same operator on the span, whatever the basis."""
    before, after = whiten(problem), whiten(rebased)
    if before.rank != after.rank:
        return Condition("rollout spectrum", None, why=RANK_MOVED)
    turn = after.Q.T @ before.Q
    miss = spectral_norm(np.asarray(after.M - turn @ before.M @ turn.T, dtype=np.float64))
    allowed = 64 * problem.d * EPS * (before.condition + after.condition) * max(1.0, _size(problem, before))
    why = "the model as an operator on the span of the features"
    return Condition.at_most("rollout spectrum", miss, allowed, why)


def _size(problem: Problem, white: Whitened) -> float:
    """Return the size of what the whitened model was computed from, rows without weight included."""
    rows = problem.feature_rows.slices()
    ahead = problem.chain @ np.concatenate([white.columns.read(block) for block in rows])
    return max(spectral_norm(white.M), float(np.sqrt(problem.mu @ (ahead**2).sum(axis=1))))


def _true_shift(problem: Problem) -> Condition:
    name = "rewards shifted, true values"
    if not finite_returns(problem).holds:
        return Condition(name, None, why="does not apply: true values are infinite")
    before, after, steps = (
        problem.resolvent.solve(r) for r in (problem.r, problem.r + SHIFT, np.ones(problem.n))
    )
    allowed = before.error_bound + after.error_bound + SHIFT * steps.error_bound
    gain = SHIFT * steps.x
    if not problem.chain.leaves.any():
        # G 1 = 1 / (1 - gamma) as far as rows sum to one.
        gain = np.full(problem.n, SHIFT / (1.0 - problem.gamma))
        allowed += float(gain[0]) * problem.gamma * problem.resolvent.H * float(abs(_missing(problem)).max())
    miss = float(abs(after.x - before.x - gain).max())
    allowed += 4 * EPS * float(gain.max())
    return Condition.at_most(name, miss, allowed, "c G 1, c / (1 - gamma) without ends")


def _missing(problem: Problem) -> Array:
    """Return what each row of the chain misses to one, (n,); rounding where nothing ends."""
    return np.asarray(1.0 - problem.chain @ np.ones(problem.n))


def _predicted_shift(problem: Problem, solution: _Solution) -> Condition:
    name = "rewards shifted, predicted values"
    if _guesses(problem):
        return Condition(name, None, why=GUESSES)
    outside = _constant_outside(problem)
    if outside > 64 * problem.n * EPS * whiten(problem).condition:
        return Condition(name, None, why=f"does not apply: constants are {outside:.3g} outside the span")
    data = problem.mu > 0.0
    if problem.gamma == 1.0 or problem.chain.leaves[data].any():
        return Condition(name, None, why="does not apply: something terminates, or gamma is 1")
    after, why = _solve(_copy(problem, r=problem.r + SHIFT))
    if after is None:
        return Condition(name, None, why=why)
    gain = SHIFT / (1.0 - problem.gamma)
    miss = float(np.sqrt(problem.mu @ (after.q - solution.q - gain) ** 2))
    # A u = (1 - gamma) Z'D1 as far as rows sum to one.
    rough = gain * problem.gamma * solution.inverse * float(abs(_missing(problem)[data]).max())
    return Condition.at_most(name, miss, after.allowed + solution.allowed + rough, "c / (1 - gamma)")


def _constant_outside(problem: Problem) -> float:
    """Return how far 1 is from the span of the features, on rows with weight and rows that follow."""
    reached = (problem.mu > 0.0) | (problem.chain.T @ problem.mu > 0.0)
    seen = unit_columns(problem.Z[reached])[0]
    ones = np.ones(len(seen))
    return float(abs(seen @ np.linalg.lstsq(seen, ones)[0] - ones).max())


def _duplicated_row(problem: Problem) -> Condition:
    """Check that listing the heaviest row twice is the same as doubling its weight."""
    row = int(problem.mu.argmax())
    weights = np.where(np.arange(problem.n) == row, 2.0, 1.0) * problem.mu
    doubled = _copy(problem, mu=weights / weights.sum())
    solution, why = _solve(doubled)
    if solution is None:
        return Condition("row listed twice", None, why=why)
    twice = listed(problem, np.append(np.arange(problem.n), row))
    both = replace(solution, q=np.append(solution.q, solution.q[row]))
    return _same_values("row listed twice", twice, both, twice, 1.0)


def _other_order(problem: Problem, solution: _Solution) -> Condition:
    backwards = listed(problem, np.arange(problem.n)[::-1])
    turned = replace(solution, q=solution.q[::-1])
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
