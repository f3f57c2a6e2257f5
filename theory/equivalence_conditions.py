r"""What else holds when TD's fixed point is compared with the linear model's value.

None of these is needed for the equality of theorem 1; each is needed for something that is easily read into
it: that the solution is the only fixed point, that an iteration reaches it, that it approximates a finite
value. Each names the problem that shows the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from theory.problem import Problem
from theory.report import Condition
from theory.spectrum import sides_of_circle
from theory.stability import td_spectrum
from theory.whitening import Whitened, whiten

COUNTEREXAMPLES = {
    "exactly one solution": "tsitsiklis_van_roy_singular",
    "decidable in float64": "nearly_dependent",
    "features are independent": "baird_star",
    "every row has weight": "off_support",
    "returns are finite": "continuing_undiscounted",
    "TD is stable": "baird_star_reward_one",
    "rollout converges": "sign_flip",
    "would notice an error": "tsitsiklis_van_roy",
    "stable for every choice of features": "basis_dependence_b",
}
"""The catalogue entry in which a condition fails, by the condition's name."""


def with_counterexample(condition: Condition, entries: Mapping[str, str] = COUNTEREXAMPLES) -> Condition:
    """Return a condition that, unless it holds, names the catalogue entry that shows why it matters.

    Example:
        >>> with_counterexample(Condition("TD is stable", False, why="else it diverges")).why
        'else it diverges; see catalogue baird_star_reward_one'
    """
    entry = entries.get(condition.name)
    if condition.holds or entry is None:
        return condition
    return replace(condition, why=f"{condition.why}; see catalogue {entry}")


def equivalence_conditions(problem: Problem) -> tuple[Condition, ...]:
    """Return the conditions on rank, support, finite returns, and the two iterations.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [1, 0]], [1, 0], [[1], [-3]], [0.9, 0.1], 0.9)
        >>> {condition.name: condition.holds for condition in equivalence_conditions(problem)}
        {'features are independent': True, 'every row has weight': True, 'returns are finite': True,
        'TD is stable': True, 'rollout converges': False}
    """
    white = whiten(problem)
    return (
        _independent(problem, white),
        _supported(problem),
        finite_returns(problem),
        _td_stable(problem),
        _rollout_converges(problem, white),
    )


def _independent(problem: Problem, white: Whitened) -> Condition:
    why = (
        "else TD has many fixed points, one of them in the row space; which one it reaches depends on"
        " its start (Baird's star: 8 features of rank 7)"
    )
    holds = white.rank == problem.d
    return Condition("features are independent", holds, white.rank, problem.d, white.rank - problem.d, why)


def _supported(problem: Problem) -> Condition:
    least = float(problem.mu.min())
    why = (
        "else, with dependent features, the model's solution need not be the fixed point of least norm:"
        " one row z = (1, 0) leading to (0, 1), gamma = 1, reward 2 has (1, -1) and the model (2, 0)"
    )
    return Condition("every row has weight", least > 0.0, least, 0.0, least, why)


def finite_returns(problem: Problem) -> Condition:
    r"""Return whether :math:`Q^\pi` is finite: gamma below 1, or every row terminates with probability one.

    At gamma = 1 the value is the number of rows from which some run never ends.

    Example:
        >>> finite_returns(Problem.from_chain([[1.0]], [1.0], [[1.0]], [1.0], 1.0)).holds
        False
    """
    why = "else the algebraic solution, if any, approximates nothing (a continuing chain at gamma = 1)"
    if problem.gamma < 1.0:
        margin = 1.0 - problem.gamma
        return Condition("returns are finite", True, problem.gamma, 1.0, margin, why)
    stuck = float(np.sum(problem.chain.never_ending()))
    return Condition("returns are finite", stuck == 0.0, stuck, 0.0, -stuck, why)


def _td_stable(problem: Problem) -> Condition:
    values, verdict, _ = td_spectrum(problem)
    least = float(values.real.min(initial=np.inf))
    holds = {"stable": True, "unstable": False, "boundary": None}[verdict]
    why = (
        "else TD does not reach the solution for any step size (Baird's star, where the rollout does;"
        " rescaling a feature can decide it)"
    )
    return Condition("TD is stable", holds, least, 0.0, least, why)


def _rollout_converges(problem: Problem, white: Whitened) -> Condition:
    values, sides = sides_of_circle(problem.gamma * white.M, problem.gamma * white.next_norm)
    radius = float(np.abs(values).max(initial=0.0))
    holds = None if np.any(sides == 0) and not np.any(sides < 0) else bool(np.all(sides > 0))
    why = (
        "else summing the model's predictions does not reach the solution, though solving does"
        " (features (1, -3) on a 2-cycle with weights (.9, .1), where TD is stable)"
    )
    return Condition("rollout converges", holds, radius, 1.0, 1.0 - radius, why)
