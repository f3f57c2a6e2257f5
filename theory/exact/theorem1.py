r"""Theorem 1 proved on a problem of fractions: two sets of solutions, compared for equality.

The statement is in ``theory.theorem1``. Its two sides come from different systems: the TD fixed points in the
row space from A and b, the solutions of :math:`(I-\gamma W_d)w=w_r` from the fitted model. They are equal as
sets of fractions or they are not; there is no tolerance. Where there is no solution, or more than one, the
two sets are compared all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from theory.exact.backend import current
from theory.exact.linear import apply, determinant, solve
from theory.exact.problem import ExactProblem, check_size
from theory.exact.rationals import ExactMatrix, as_text, nearest_float
from theory.exact.solutions import Solutions, same
from theory.exact.stability import (
    ExactStability,
    certified,
    compare_least_real_part,
    compare_spectral_radius,
    exact_stability,
)
from theory.exact.system import (
    ExactModel,
    ExactSystem,
    check_model,
    exact_model,
    exact_system,
    model_solutions,
    td_solutions,
    td_solutions_in_row_space,
)
from theory.report import Condition, Report

if TYPE_CHECKING:
    from theory.problem import Problem
    from theory.td import LinearModel

THEOREM = "Theorem 1 in exact arithmetic (TD fixed point = linear model's value)"
POWER = Fraction(1, 10**30)
_SIDES = {
    "unique": "one solution",
    "affine": "the same infinitely many",
    "none": "no solution on either side",
}


def prove_fixed_point_equivalence(
    problem: Problem | ExactProblem, *, model: ExactModel | LinearModel | None = None
) -> Report:
    r"""Prove or refute, on this problem, that TD's fixed point is the value of the linear model.

    Args:
        problem: a problem of fractions; one of floats is made exact first (``data["rationalised"]``).
        model: the model to be checked; the least-squares fit by default, which the theorem speaks of.

    Returns:
        A report whose tolerance is 0. The verdict is "pass" if the TD fixed points in the row space and the
        solutions of the model's equation are the same set, be it one point, many or none (``data["kind"]``
        and the condition "exactly one solution" say which), and there is exactly one if and only if
        :math:`BAB^\top` is invertible on the row space; "fail" otherwise. The conditions are those of
        :func:`theory.theorem1.check_fixed_point_equivalence` without "decidable in float64", decided
        exactly; on the boundary TD is not stable and the rollout does not converge (``data`` has the verdicts
        in words). Their values are floats proved to be within 1e-6, or None. ``data`` has fractions as text.

    Raises:
        InputError: more rows or features than exact arithmetic can take, or a model of floats, which are not
            equal to anything, or of another number of features.

    Example:
        >>> chain = [[0, 1], [0, 1]]  # w to 2w; at gamma = 5/6 the fixed point does not exist
        >>> for gamma in ("9/10", "5/6"):
        ...     report = prove_fixed_point_equivalence(
        ...         ExactProblem.from_chain(chain, [1, 1], [1, 2], ["1/2", "1/2"], gamma)
        ...     )
        ...     print(report.verdict, report.residual, report.data["kind"], report.data["w_td"])
        pass 0.0 unique ['-15/2']
        pass 0.0 none None
    """
    check_size(problem)
    exact = problem if isinstance(problem, ExactProblem) else ExactProblem.from_problem(problem)
    system = exact_system(exact)
    fit = exact_model(system)
    chosen = fit if model is None else check_model(model, exact.d)
    td = td_solutions_in_row_space(system)
    rolled = model_solutions(chosen, exact.gamma, td.w)
    invertible = determinant(system.within(system.A)) != 0
    proved = same(td, rolled) and (td.kind == "unique") == invertible
    stable = exact_stability(exact)
    conditions = [_one_solution(td, system), *_conditions(exact, system, fit, stable)]
    if td.kind == "unique":
        conditions.append(_powerful(td, fit, exact.gamma))
    return Report(
        theorem=f"{THEOREM}, {_SIDES[td.kind]}" if proved else THEOREM,
        verdict="pass" if proved else "fail",
        residual=0.0 if proved else distance(td, rolled),
        tolerance=0.0,
        conditions=tuple(conditions),
        data={
            "kind": td_solutions(system).kind,
            "kind in the row space": td.kind,
            "rank": system.rank,
            "w_td": _texts(td.w),
            "w_model": _texts(rolled.w),
            "td": stable.td,
            "rollout": stable.rollout,
            "rollout for this reward": stable.rollout_for_reward,
            "stable for every choice of features": stable.certificate,
            "rationalised": [str(change) for change in exact.changes if change.entries] or "nothing",
            "arithmetic": current().name,
        },
    )


def distance(first: Solutions, second: Solutions) -> float:
    """Return the largest difference of two solutions, infinite if one has none or their kinds differ.

    Example:
        >>> one, other = (Solutions("unique", (Fraction(1) + off,), ()) for off in (0, POWER))
        >>> distance(one, other)
        1e-30
    """
    if first.w is None or second.w is None or first.nullity != second.nullity:
        return np.inf
    return nearest_float(max(abs(x - y) for x, y in zip(first.w, second.w, strict=True)))


def finite_returns(problem: ExactProblem) -> Condition:
    r"""Return whether :math:`Q^\pi` is finite: gamma below 1, or some end can be reached from every row.

    Example:
        >>> finite_returns(ExactProblem.from_chain([["1/2"]], [1], [1], [1], 1)).holds
        True
    """
    why = "else the algebraic solution, if any, approximates nothing (a continuing chain at gamma = 1)"
    if problem.gamma < 1:
        gamma = nearest_float(problem.gamma)
        return Condition("returns are finite", True, gamma, 1.0, nearest_float(1 - problem.gamma), why)
    ending = {i for i, row in enumerate(problem.P) if sum(row.values()) < 1}
    grown = 0
    while grown != len(ending):
        grown = len(ending)
        ending |= {i for i, row in enumerate(problem.P) if not ending.isdisjoint(row)}
    stuck = float(problem.n - len(ending))
    return Condition("returns are finite", stuck == 0.0, stuck, 0.0, 0.0 - stuck, why)


def _conditions(
    problem: ExactProblem, system: ExactSystem, fit: ExactModel, stable: ExactStability
) -> tuple[Condition, ...]:
    """Return what else may hold, by the names that the check in floats uses."""
    k, d, least = system.rank, problem.d, min(problem.mu)
    independent = (
        "else TD has many fixed points, one of them in the row space; which one it reaches depends on"
        " its start (Baird's star: 8 features of rank 7)"
    )
    supported = (
        "else, with dependent features, the model's solution need not be the fixed point of least norm:"
        " one row z = (1, 0) leading to (0, 1), gamma = 1, reward 2 has (1, -1) and the model (2, 0)"
    )
    return (
        Condition("features are independent", k == d, k, d, k - d, independent),
        Condition(
            "every row has weight", least > 0, nearest_float(least), 0.0, nearest_float(least), supported
        ),
        finite_returns(problem),
        _td_stable(system, stable),
        _rollout_converges(problem, fit, stable),
    )


def _one_solution(td: Solutions, system: ExactSystem) -> Condition:
    why = "else there is no solution or more than one (Tsitsiklis and Van Roy's w to 2w at gamma = 5/6)"
    nullity = float(td.nullity)
    return Condition("exactly one solution", td.kind == "unique", nullity, 0.0, 0.0 - nullity, why)


def _td_stable(system: ExactSystem, stable: ExactStability) -> Condition:
    why = (
        "else TD does not reach the solution for any step size (Baird's star, where the rollout does;"
        " rescaling a feature can decide it)"
    )
    matrix = solve(system.gram, system.within(system.A)) or []
    guess = float(_eigenvalues(matrix).real.min(initial=np.inf))
    value = certified(compare_least_real_part(stable.td_polynomial), guess, Fraction(0))
    return Condition("TD is stable", stable.td == "stable", value, 0.0, value, why)


def _rollout_converges(problem: ExactProblem, fit: ExactModel, stable: ExactStability) -> Condition:
    why = (
        "else summing the model's predictions does not reach the solution, though solving does"
        " (features (1, -3) on a 2-cycle with weights (.9, .1), where TD is stable)"
    )
    guess = float(np.abs(_eigenvalues(fit.W_d)).max(initial=0.0)) * float(problem.gamma)
    value = certified(compare_spectral_radius(stable.model_polynomial), guess, Fraction(1))
    margin = None if value is None else 1.0 - value
    return Condition("rollout converges", stable.rollout == "converges", value, 1.0, margin, why)


def _eigenvalues(matrix: ExactMatrix) -> np.ndarray:
    """Return eigenvalues in floats, a guess; NaN if an entry is too large for a float."""
    floats = np.array([[nearest_float(x) for x in row] for row in matrix]).reshape(len(matrix), len(matrix))
    return np.linalg.eigvals(floats) if np.all(np.isfinite(floats)) else np.full(1, np.nan)


def _powerful(td: Solutions, fit: ExactModel, gamma: Fraction) -> Condition:
    """Return by how much the solution misses the equation of a model whose W_d is off by 1e-30."""
    why = "else the check could not see an error of 1e-30 in W_d, as when every reward is zero"
    w = td.w or ()
    at = max(range(len(w)), key=lambda j: abs(w[j]), default=0)
    wrong = [list(row) for row in fit.W_d]
    wrong[0][at] += POWER
    rolled = [x + gamma * y for x, y in zip(fit.w_r, apply(wrong, w), strict=True)]
    off = nearest_float(max(abs(x - y) for x, y in zip(w, rolled, strict=True)))
    return Condition("would notice an error", off > 0.0, off, 0.0, off, why)


def _texts(w: Sequence[Fraction] | None) -> list[str] | None:
    return None if w is None else [as_text(x) for x in w]
