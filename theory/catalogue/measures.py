"""What is measured on a problem of the catalogue, by name; each is one call of the public interface.

The names are those of ``expected`` in ``problems.json``. Verdicts are words, with "yes" and "no" for
booleans; everything else is a number, an array, or None where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from theory.bounds import bounds
from theory.equivalence_conditions import finite_returns
from theory.errors import InputError
from theory.mdp import TabularMDP
from theory.optimality import optimal
from theory.problem import Problem
from theory.report import plain
from theory.rollout import h_step_solution, model_based_solution
from theory.stability import Stability, stability
from theory.td import fit_linear_model, td_fixed_point, td_system
from theory.theorem1 import check_fixed_point_equivalence
from theory.truth import certified_v
from theory.value_error import value_error


def measure(problem: Problem, name: str) -> Any:
    """Return one measurement in plain form.

    Raises:
        InputError: there is no measurement of that name.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> measure(problem, "td"), measure(problem, "fixed_point"), measure(problem, "certificate")
        ('stable', 'unique', 'yes')
    """
    if name not in MEASURES:
        raise InputError(f"There is no measurement {name!r}; there are {', '.join(MEASURES)}.")
    return plain(MEASURES[name](problem))


@lru_cache(maxsize=1)  # several measurements in a row are parts of it
def _stability(problem: Problem) -> Stability:
    return stability(problem)


def _word(holds: bool | None) -> str:
    return {True: "yes", False: "no", None: "undecided"}[holds]


def _mdp(problem: Problem) -> TabularMDP:
    if problem.mdp is None:
        raise InputError("Optimal values need an MDP; this problem is a bare chain.")
    return problem.mdp


def _policy_start(problem: Problem) -> float:
    if problem.policy is None:
        raise InputError("The value of a policy at the start needs an MDP; this problem is a bare chain.")
    return float(_mdp(problem).start @ certified_v(_mdp(problem), problem.policy).value)


def _optimal_start(problem: Problem) -> float:
    return float(_mdp(problem).start @ optimal(_mdp(problem)).v)


def _q_hat(problem: Problem) -> Any:
    split = value_error(problem)
    return split.q_true + split.error


MEASURES: dict[str, Callable[[Problem], Any]] = {
    # Theorem 1
    "verdict": lambda problem: check_fixed_point_equivalence(problem).verdict,
    "fixed_point": lambda problem: td_fixed_point(problem).kind,
    "w": lambda problem: td_fixed_point(problem).w,
    "w_model": lambda problem: model_based_solution(problem).w,
    "rank": lambda problem: fit_linear_model(problem).rank,
    "A": lambda problem: td_system(problem).A,
    "W_d": lambda problem: fit_linear_model(problem).W_d,
    "two_step": lambda problem: h_step_solution(problem, 2).kind,
    "three_step": lambda problem: h_step_solution(problem, 3).kind,
    "finite_returns": lambda problem: _word(finite_returns(problem).holds),
    # Stability
    "td": lambda problem: _stability(problem).td,
    "rollout": lambda problem: _stability(problem).rollout,
    "rollout_for_reward": lambda problem: _stability(problem).rollout_for_reward,
    "eigenvalues": lambda problem: _stability(problem).eigenvalues,
    "least_real_part": lambda problem: _stability(problem).eigenvalues.real.min(),
    "step_size_limit": lambda problem: _stability(problem).step_size_limit,
    "spectral_radius": lambda problem: _stability(problem).spectral_radius,
    "tau": lambda problem: _stability(problem).tau,
    "kappa": lambda problem: _stability(problem).kappa,
    "sigma": lambda problem: _stability(problem).sigma,
    "certificate": lambda problem: _word(_stability(problem).certificate),
    # Values and theorem 2
    "q": lambda problem: value_error(problem).q_true,
    "q_hat": _q_hat,
    "value_error_max": lambda problem: abs(value_error(problem).error).max(),
    "value_error_norm": lambda problem: np.linalg.norm(value_error(problem).error),
    "H": lambda problem: value_error(problem).horizon,
    "S3": lambda problem: bounds(problem).S3,
    "policy_start": _policy_start,
    "optimal_start": _optimal_start,
    "optimal_sum": lambda problem: optimal(_mdp(problem)).v.sum(),
}
