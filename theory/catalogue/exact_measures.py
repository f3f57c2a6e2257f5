"""What is measured in exact arithmetic on a problem of the catalogue, by the names of ``measures``.

A measurement is a word, a fraction, a list of these, a :class:`Real` (an irrational number that can be
compared with any fraction), or a list of discs that hold the eigenvalues. Nothing here is rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from theory.catalogue.entries import Entry
from theory.errors import InputError
from theory.exact.mdp import ExactMDP
from theory.exact.optimality import ExactOptimum, exact_optimal, policy_values
from theory.exact.problem import ExactProblem, check_size
from theory.exact.roots import root_discs
from theory.exact.stability import (
    Comparison,
    ExactStability,
    compare_least_real_part,
    compare_sigma,
    compare_spectral_radius,
    compare_step_size_limit,
    compare_tau,
    exact_stability,
    kappa,
)
from theory.exact.system import (
    ExactModel,
    ExactSystem,
    exact_model,
    exact_system,
    h_step_solutions,
    model_solutions,
    td_solutions,
)
from theory.exact.theorem1 import finite_returns, prove_fixed_point_equivalence
from theory.exact.theorem2 import ExactSplit, exact_value_error
from theory.optimality import optimal
from theory.report import Report


@dataclass(frozen=True)
class Real:
    """A real number that is known by exact comparisons.

    Attributes:
        compare: the sign of the number minus a fraction.

    Example:
        >>> root_of_two = Real(lambda t: -1 if t > 0 and t * t > 2 else 1)
        >>> root_of_two.within(Fraction(14, 10), Fraction(15, 10))
        True
    """

    compare: Comparison

    def within(self, low: Fraction, high: Fraction) -> bool:
        """Return whether the number lies in the closed interval."""
        return self.compare(low) >= 0 and self.compare(high) <= 0


class Proofs:
    """Everything that is measured on one entry; what several measurements need is computed once.

    Args:
        entry: of the catalogue.

    Example:
        >>> from theory.catalogue import load
        >>> Proofs(load("sign_flip")).measure("w")
        (Fraction(1, 5),)
    """

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def measure(self, name: str) -> Any:
        """Return one measurement.

        Raises:
            InputError: there is no measurement of that name, or the problem is too large for it.
        """
        if name in STATE_MEASURES:
            return STATE_MEASURES[name](self)
        if name not in MEASURES:
            raise InputError(f"There is no exact measurement {name!r}; there are {', '.join(MEASURES)}.")
        check_size(self.problem)
        return MEASURES[name](self)

    @cached_property
    def problem(self) -> ExactProblem:
        """The problem in fractions."""
        return self._entry.exact_problem

    @cached_property
    def system(self) -> ExactSystem:
        """TD's matrices."""
        return exact_system(self.problem)

    @cached_property
    def model(self) -> ExactModel:
        """The least-squares model."""
        return exact_model(self.system)

    @cached_property
    def report(self) -> Report:
        """The proof of theorem 1, which holds the verdicts on both iterations too."""
        return prove_fixed_point_equivalence(self.problem)

    @cached_property
    def stability(self) -> ExactStability:
        """The polynomials of both iterations."""
        return exact_stability(self.problem)

    @cached_property
    def split(self) -> ExactSplit:
        """The value error and the bounds."""
        return exact_value_error(self.problem)

    @cached_property
    def mdp(self) -> ExactMDP:
        """The MDP in fractions."""
        if self.problem.mdp is None:
            raise InputError("Values at the start need an MDP; this problem is a bare chain.")
        return self.problem.mdp

    @cached_property
    def optimum(self) -> ExactOptimum:
        """An optimal policy, proved optimal."""
        floats = self._entry.problem.mdp
        assert floats is not None  # as self.mdp is not
        return exact_optimal(self.mdp, optimal(floats).policy.probs.argmax(axis=1).tolist())

    def at_start(self, v: dict[int, Fraction]) -> Fraction:
        """Return the mean of state values over the first state."""
        return sum((p * v[s] for s, p in enumerate(self.mdp.start) if p), Fraction(0))


def _word(holds: bool | None) -> str:
    return {True: "yes", False: "no", None: "undecided"}[holds]


def _norm(error: list[Fraction]) -> Real:
    square = sum((e * e for e in error), Fraction(0))

    def compare(t: Fraction) -> int:
        return 1 if t < 0 else (square > t * t) - (square < t * t)

    return Real(compare)


def _policy_start(proofs: Proofs) -> Fraction:
    policy = proofs.problem.policy
    live = [s for s, ends in enumerate(proofs.mdp.terminal) if not ends]
    return proofs.at_start(policy_values(proofs.mdp, policy or (), live))


def _td_limit(proofs: Proofs) -> Real | None:
    stable = proofs.stability
    return Real(compare_step_size_limit(stable.td_polynomial)) if stable.td == "stable" else None


def _q_hat(proofs: Proofs) -> list[Fraction]:
    return [x + y for x, y in zip(proofs.split.q_true, proofs.split.error, strict=True)]


STATE_MEASURES: dict[str, Callable[[Proofs], Any]] = {
    "policy_start": _policy_start,
    "optimal_start": lambda p: p.at_start(dict(enumerate(p.optimum.v))) if p.mdp else None,
    "optimal_sum": lambda p: sum(p.optimum.v, Fraction(0)) if p.mdp else None,
}
"""What needs the states only, and so is possible for larger problems than the others."""

MEASURES: dict[str, Callable[[Proofs], Any]] = {
    # Theorem 1
    "verdict": lambda p: p.report.verdict,
    "fixed_point": lambda p: td_solutions(p.system).kind,
    "w": lambda p: td_solutions(p.system).w,
    "w_model": lambda p: model_solutions(p.model, p.problem.gamma).w,
    "rank": lambda p: Fraction(p.system.rank),
    "A": lambda p: p.system.A,
    "W_d": lambda p: p.model.W_d,
    "two_step": lambda p: h_step_solutions(p.model, p.problem.gamma, 2).kind,
    "three_step": lambda p: h_step_solutions(p.model, p.problem.gamma, 3).kind,
    "finite_returns": lambda p: _word(finite_returns(p.problem).holds),
    # Stability
    "td": lambda p: p.report.data["td"],
    "rollout": lambda p: p.report.data["rollout"],
    "rollout_for_reward": lambda p: p.report.data["rollout for this reward"],
    "eigenvalues": lambda p: root_discs(p.stability.td_polynomial),
    "least_real_part": lambda p: Real(compare_least_real_part(p.stability.td_polynomial)),
    "step_size_limit": _td_limit,
    "spectral_radius": lambda p: Real(compare_spectral_radius(p.stability.model_polynomial)),
    "tau": lambda p: Real(compare_tau(p.problem)),
    "kappa": lambda p: kappa(p.problem),
    "sigma": lambda p: Real(compare_sigma(p.problem)),
    "certificate": lambda p: _word(compare_tau(p.problem)(Fraction(1)) < 0),
    # Values and theorem 2
    "q": lambda p: p.split.q_true,
    "q_hat": _q_hat,
    "value_error_max": lambda p: max(map(abs, p.split.error)),
    "value_error_norm": lambda p: _norm(p.split.error),
    "H": lambda p: p.split.H,
    "S3": lambda p: p.split.supremum["S3"],
}
