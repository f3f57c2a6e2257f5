"""One report on one problem: theorems 1 and 2, stability, and the bounds, with every condition.

Where a condition fails, its reason ends with the catalogue entry that shows why it matters. The parts are
computed elsewhere; here they are put together.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from theory.bounds import BoundLadder, bounds
from theory.equivalence_conditions import COUNTEREXAMPLES as COUNTEREXAMPLES
from theory.equivalence_conditions import with_counterexample
from theory.problem import Problem
from theory.report import Condition, Report, Verdict
from theory.stability import Stability, stability
from theory.theorem1 import check_fixed_point_equivalence
from theory.value_error import ValueErrorSplit, value_error


@dataclass(frozen=True, eq=False)
class Findings:
    """What a report is put together from.

    Attributes:
        equivalence: theorem 1.
        stability: of TD and of the rollout.
        split: theorem 2 as an equality; None where returns are infinite, as is the next.
        ladder: the bounds.
    """

    equivalence: Report
    stability: Stability
    split: ValueErrorSplit | None
    ladder: BoundLadder | None


def investigate(problem: Problem) -> Findings:
    """Compute every part of a problem's report.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [1, 0]], [1, 0], [[1], [-3]], [0.9, 0.1], 0.9)
        >>> investigate(problem).stability.rollout
        'diverges'
    """
    first = check_fixed_point_equivalence(problem)
    finite = first.condition("returns are finite").holds
    return Findings(
        equivalence=first,
        stability=stability(problem),
        split=value_error(problem) if finite else None,
        ladder=bounds(problem) if finite else None,
    )


def problem_report(
    problem: Problem, name: str = "this problem", *, findings: Findings | None = None
) -> Report:
    """Check theorems 1 and 2 on a problem and say which iterations converge and how large the error is.

    Args:
        problem: any problem.
        name: what it is called in the first line.
        findings: of the problem, if they are at hand.

    Returns:
        A report whose verdict is "fail" if either theorem fails, else that of theorem 1; residual and
        tolerance are those of theorem 1. Where returns are infinite theorem 2 says nothing, and its
        condition and numbers are absent.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [1, 0]], [1, 0], [[1], [-3]], [0.9, 0.1], 0.9)
        >>> report = problem_report(problem, "the sign flip")
        >>> report.verdict, report.condition("rollout converges").why[-25:]
        ('pass', '; see catalogue sign_flip')
    """
    found = findings or investigate(problem)
    first, stable = found.equivalence, found.stability
    conditions = [*first.conditions, with_counterexample(_uniform(stable))]
    verdict: Verdict = first.verdict
    data = _about_solution(first, problem) | _about_stability(stable)
    if found.split is not None and found.ladder is not None:
        conditions.append(_identity(found.split))
        verdict = verdict if found.split.holds else "fail"
        data |= _about_values(found, found.split) | _about_bounds(found.ladder)
    return Report(
        theorem=_statement(name, found),
        verdict=verdict,
        residual=first.residual,
        tolerance=first.tolerance,
        conditions=tuple(conditions),
        data=data,
    )


def _statement(name: str, found: Findings) -> str:
    """Return what was checked: without finite returns that is theorem 1 alone."""
    if found.split is None:
        return f"Theorem 1 on {name} (theorem 2 says nothing: returns are infinite)"
    return f"Theorems 1 and 2 on {name}"


def weights_of_error(found: Findings) -> str:
    """Return which weights the value error belongs to: those of the solution, or what is taken without one.

    Example:
        >>> chain = [[0, 1], [0, 1]]
        >>> singular = Problem.from_chain(chain, [1, 1], [[1], [2]], [0.5, 0.5], 5 / 6)
        >>> weights_of_error(investigate(singular))
        'the least-squares w (no solution exists)'
    """
    solved = found.ladder is not None and found.ladder.S1 is not None
    return "the solution w" if solved else "the least-squares w (no solution exists)"


def _uniform(found: Stability) -> Condition:
    why = "else some choice of features breaks TD and rollout at once; these may still be safe"
    if "tau" in found.not_computed:
        why = f"{why}; tau was not computed: {found.not_computed['tau']}"
    margin = None if found.tau is None else 1.0 - found.tau
    return Condition("stable for every choice of features", found.certificate, found.tau, 1.0, margin, why)


def _identity(split: ValueErrorSplit) -> Condition:
    why = "theorem 2 is an equality; else transitions, rewards, policy or terminal states do not fit together"
    residual, tolerance = split.identity_residual, split.tolerance
    return Condition(
        "value error is the sum of its parts", split.holds, residual, tolerance, tolerance - residual, why
    )


def _about_solution(first: Report, problem: Problem) -> dict[str, Any]:
    return {
        "rows": problem.n,
        "features": problem.d,
        "rank of the weighted features": first.data["rank"],
        "gamma": problem.gamma,
        "TD fixed points": first.data["kind"],
        "w": first.data.get("w_td"),
    }


def _about_stability(found: Stability) -> dict[str, Any]:
    return {
        "TD": found.td,
        "largest step size": found.step_size_limit,
        "best step size": found.best_step_size,
        "best rate": found.best_rate,
        "eigenvalues of A": found.eigenvalues,
        "rollout": found.rollout,
        "rollout for this reward": found.rollout_for_reward,
        "spectral radius of gamma W_d": found.spectral_radius,
        **{name: _or_reason(found, name) for name in ("tau", "kappa", "sigma")},
    }


def _or_reason(found: Stability, name: str) -> Any:
    """Return a number, or that it was not computed and why: beyond some thousand rows some take too long."""
    reason = found.not_computed.get(name)
    return getattr(found, name) if reason is None else f"not computed: {reason}"


def _about_values(found: Findings, split: ValueErrorSplit) -> dict[str, Any]:
    parts = {name: float(abs(getattr(split, name)).max()) for name in ("reward", "dynamics", "planning")}
    return {
        "value error at": weights_of_error(found),
        "largest value error": float(abs(split.error).max()),
        **{f"largest {name} part": size for name, size in parts.items()},
        "horizon H": split.horizon,
    }


def _about_bounds(ladder: BoundLadder) -> dict[str, Any]:
    """Return every bound as one number, the largest over the rows; what does not apply with the reason."""
    skipped = {"H", "tightness", "inapplicable", "error_sup", "factors", "rounding"}
    numbers = {
        f"bound {field.name}": _largest(getattr(ladder, field.name))
        for field in fields(ladder)
        if field.name not in skipped | {"error_D", "best_D"}
    }
    sizes = {"value error, D-norm": ladder.error_D, "best error, D-norm": ladder.best_D}
    return {**sizes, **numbers, **_missing(ladder.inapplicable)}


def _missing(reasons: dict[str, str]) -> dict[str, str]:
    """Return each reason once, with the bounds that are missing for it."""
    without: dict[str, list[str]] = {}
    for name, why in reasons.items():
        without.setdefault(why, []).append(name)
    return {
        f"bound {names[0]} is missing" if len(names) == 1 else f"bounds {', '.join(names)} are missing": why
        for why, names in without.items()
    }


def _largest(bound: Any) -> float | None:
    return None if bound is None else float(np.max(bound))
