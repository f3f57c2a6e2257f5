"""Reading the catalogue: ``problems.json`` becomes problems with sources and expected outcomes.

Numbers may be written as fractions, so that 1/3 is not yet rounded in the file, and decimals are read as the
fractions they are; the floats of a problem are rounded from these. Nothing is measured here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Any

from theory.errors import InputError
from theory.exact.problem import ExactProblem
from theory.features import Features
from theory.mdp import TabularMDP
from theory.policy import Policy
from theory.problem import Problem
from theory.weights import Weights
from theory.worlds import cliff_walking, frozen_lake

CHAIN = ("P_pi", "r", "Z", "mu", "gamma")
WORLDS: dict[str, Callable[..., TabularMDP]] = {"cliff_walking": cliff_walking, "frozen_lake": frozen_lake}


@dataclass(frozen=True)
class Entry:
    """A problem with a known outcome.

    Attributes:
        problem: what the theorems are asked about.
        expected: what must come out, by the names of ``theory.catalogue.measures.MEASURES``. An integer or
            a fraction is exact, a decimal holds to its printed digits, anything else is a verdict.
        source: where the problem is from.
        name: how it is loaded.
        id: short label; variants of one problem share it.
        title: what it shows.
        expected_exactly: what comes out differently in exact arithmetic, where rounding hides nothing.
        chain: the numbers of a bare chain as the file has them, fractions as strings; None for an MDP.

    Example:
        >>> entry = load("sign_flip")
        >>> entry.id, entry.expected["td"], entry.expected["rollout"], entry.expected["w"]
        ('A12', 'stable', 'diverges', ['1/5'])
    """

    problem: Problem
    expected: Mapping[str, Any]
    source: str
    name: str = "unnamed"
    id: str = "-"
    title: str = ""
    expected_exactly: Mapping[str, Any] = field(default_factory=dict)
    chain: Mapping[str, Any] | None = None

    @property
    def exact_problem(self) -> ExactProblem:
        """The problem in fractions: as the file has them, or made from the floats of its MDP."""
        if self.chain is None:
            return ExactProblem.from_problem(self.problem)
        return ExactProblem.from_chain(*(self.chain[key] for key in CHAIN))


def names() -> tuple[str, ...]:
    """Return the names of all entries, in the order of the file.

    Example:
        >>> names()[0], "baird_star" in names()
        ('tsitsiklis_van_roy', True)
    """
    return tuple(_stored())


def load(name: str) -> Entry:
    """Return the entry of that name.

    Raises:
        InputError: there is none; the message lists the names.

    Example:
        >>> load("tsitsiklis_van_roy_convergent").problem.gamma
        0.5
    """
    if name not in _stored():
        raise InputError(f"The catalogue has no {name!r}; it has {', '.join(names())}.")
    stored = _stored()[name]
    return Entry(
        problem=_chain(stored) if "P_pi" in stored else _uniform(_mdp(stored)),
        expected=stored["expected"],
        source=stored["source"],
        name=name,
        id=stored["id"],
        title=stored["title"],
        expected_exactly=stored.get("exact", {}),
        chain={key: stored[key] for key in CHAIN} if "P_pi" in stored else None,
    )


@cache
def _stored() -> dict[str, dict[str, Any]]:
    text = files("theory.catalogue").joinpath("problems.json").read_text("utf-8")
    problems: dict[str, dict[str, Any]] = json.loads(text, parse_float=str)["problems"]
    return problems


def _chain(stored: dict[str, Any]) -> Problem:
    arrays = [_numbers(stored[key]) for key in CHAIN]
    return Problem.from_chain(*arrays)


def _mdp(stored: dict[str, Any]) -> TabularMDP:
    gamma = float(_numbers(stored["gamma"]))
    if "world" in stored:
        return WORLDS[stored["world"]](gamma=gamma, **stored["arguments"])
    P, r, start = (_numbers(stored[key]) for key in ("P", "r", "start"))
    return TabularMDP.from_dense(P, r, gamma, start=start)


def _uniform(mdp: TabularMDP) -> Problem:
    return Problem(mdp, Policy.uniform(mdp), Features.one_hot(mdp), Weights.uniform(mdp))


def _numbers(value: Any) -> Any:
    """Return numbers, and lists of them, with fractions such as "1/3" or "0.9" as floats."""
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(Fraction(value)) if isinstance(value, str) else value
