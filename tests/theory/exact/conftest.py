"""What the exact tests share: each backend in turn, random rational problems, and their rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import strategies as st

from theory import ExactProblem, Problem
from theory.exact.backend import has_flint, using

needs_flint = pytest.mark.skipif(not has_flint(), reason="python-flint is not installed")


@pytest.fixture(params=["python", pytest.param("flint", marks=needs_flint)])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test with each backend."""
    with using(request.param):
        yield request.param


def _fractions(largest: int = 5, denominator: int = 4) -> st.SearchStrategy[Fraction]:
    return st.builds(
        Fraction, st.integers(-largest * denominator, largest * denominator), st.integers(1, denominator)
    )


@st.composite
def _problems(
    draw: st.DrawFn, most_rows: int = 6, most_features: int = 3, least_weight: int = 0
) -> ExactProblem:
    """Return chains of any support, features of any rank, and weights that may be zero."""
    n, d = draw(st.integers(1, most_rows)), draw(st.integers(1, most_features))
    chain = []
    for _ in range(n):
        parts = draw(st.lists(st.integers(0, 3), min_size=n + 1, max_size=n + 1).filter(any))
        chain.append([Fraction(part, sum(parts)) for part in parts[:n]])  # the last part terminates
    mass = draw(st.lists(st.integers(least_weight, 4), min_size=n, max_size=n).filter(any))
    return ExactProblem.from_chain(
        chain,
        draw(st.lists(_fractions(), min_size=n, max_size=n)),
        draw(st.lists(st.lists(_fractions(), min_size=d, max_size=d), min_size=n, max_size=n)),
        [Fraction(part, sum(mass)) for part in mass],
        draw(st.sampled_from(["0", "1/2", "9/10", "99/100", "1"])),
    )


def _rounded(problem: ExactProblem) -> Problem:
    """Return the same problem in floats."""
    chain = np.zeros((problem.n, problem.n))
    for i, row in enumerate(problem.P):
        for j, p in row.items():
            chain[i, j] = p
    arrays = (np.array(x, dtype=float) for x in (problem.r, problem.Z, problem.mu))
    return Problem.from_chain(chain, *arrays, float(problem.gamma))


@pytest.fixture(scope="session")
def fractions() -> Callable[..., st.SearchStrategy[Fraction]]:
    """Return the strategy."""
    return _fractions


@pytest.fixture(scope="session")
def problems() -> Callable[..., st.SearchStrategy[ExactProblem]]:
    """Return the strategy."""
    return _problems


@pytest.fixture(scope="session")
def rounded() -> Callable[[ExactProblem], Problem]:
    """Return the function that writes a problem of fractions in floats."""
    return _rounded
