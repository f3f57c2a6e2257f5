"""Stability over the rationals: the boundary is decided, unexcited modes are seen, floats agree."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import (
    ExactProblem,
    exact_stability,
    model_based_solution,
    stability,
)
from theory.exact.linear import apply, identity, product, scaled, solve, transpose
from theory.exact.stability import (
    compare_sigma,
    compare_spectral_radius,
    compare_tau,
    excited_polynomial,
    kappa,
    model_polynomial,
)
from theory.exact.system import (
    exact_model,
    exact_system,
)
from theory.exact.theorem1 import prove_fixed_point_equivalence

TINY = Fraction(1, 10**30)
TO_SECOND = [[0, 1], [0, 1]]
HALVES = ["1/2", "1/2"]


def tsitsiklis_van_roy(gamma, reward=1) -> ExactProblem:
    return ExactProblem.from_chain(TO_SECOND, [reward, reward], [1, 2], HALVES, gamma)


@pytest.mark.parametrize(
    ("mu", "td", "rollout"),
    [
        (["9/10", "1/10"], "stable", "diverges"),
        (["63/80", "17/80"], "stable", "boundary"),
        ([Fraction(63, 80) - TINY, Fraction(17, 80) + TINY], "stable", "converges"),
        ([Fraction(63, 80) + TINY, Fraction(17, 80) - TINY], "stable", "diverges"),
    ],
)
def test_the_boundary_of_the_rollout_is_a_verdict_of_its_own(mu, td, rollout):
    flip = ExactProblem.from_chain([[0, 1], [1, 0]], [1, 0], [1, -3], mu, "9/10")
    found = exact_stability(flip)
    assert (found.td, found.rollout, found.rollout_for_reward) == (td, rollout, rollout)
    condition = prove_fixed_point_equivalence(flip).condition("rollout converges")
    assert condition.holds is (rollout == "converges")
    assert condition.value == pytest.approx(1.5 if mu[0] == "9/10" else 1.0, rel=1e-6)


@pytest.mark.parametrize(("off", "td"), [(-1, "stable"), (0, "boundary"), (1, "unstable")])
def test_td_is_judged_at_a_distance_of_ten_to_the_minus_thirty(off, td):
    assert exact_stability(tsitsiklis_van_roy(Fraction(5, 6) + off * TINY)).td == td


def test_a_mode_that_the_reward_leaves_alone_does_not_matter(rounded):
    """The growing mode of w to 2w beside a stable 2-cycle, in a basis that mixes them."""
    chain = [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    Z, mu = [[1, 1], [2, 2], [1, 2], [1, 2]], ["1/4"] * 4
    quiet = ExactProblem.from_chain(chain, [0, 0, 1, 2], Z, mu, "9/10")
    nudged = ExactProblem.from_chain(chain, [TINY, 0, 1, 2], Z, mu, "9/10")
    found = [exact_stability(problem) for problem in (quiet, nudged)]
    assert [f.rollout for f in found] == ["diverges", "diverges"]
    assert [f.rollout_for_reward for f in found] == ["converges", "diverges"]
    # The float trap: partial sums of the convergent series blow up after some 500 terms.
    floats = model_based_solution(rounded(quiet), method="series", horizon=1000)
    assert np.abs(floats.w).max() > 1e10
    system = exact_system(quiet)
    model, total = exact_model(system), [Fraction(0)] * 2
    G = scaled(system.gamma, model.W_d)
    for _ in range(200):
        total = [x + y for x, y in zip(model.w_r, apply(G, total), strict=True)]
    assert [float(x) for x in total] == pytest.approx([-15.0, 15.0], abs=1e-7)


@given(data=st.data())
@settings(max_examples=40)
def test_the_excited_modes_are_those_of_the_krylov_space(problems, data):
    problem = data.draw(problems())
    system = exact_system(problem)
    model = exact_model(system)
    p = model_polynomial(system)
    m = excited_polynomial(system, p)
    G, powers = scaled(system.gamma, model.W_d), [list(model.w_r)]
    for _ in range(len(m) - 1):
        powers.append(apply(G, powers[-1]))
    assert not any(sum(c * v[i] for c, v in zip(m, powers, strict=True)) for i in range(problem.d))
    gram = product(powers[:-1], transpose(powers[:-1])) if len(m) > 1 else []
    assert solve(gram, identity(len(gram))) is not None  # so no shorter combination vanishes


@given(data=st.data())
@settings(max_examples=40)
def test_the_certificate_covers_the_rollout_and_td(problems, data):
    problem = data.draw(problems(least_weight=1))
    found = exact_stability(problem)
    if found.certificate:
        assert (found.td, found.rollout) == ("stable", "converges")
    radius, tau = compare_spectral_radius(found.model_polynomial), compare_tau(problem)
    assert all(radius(t) <= 0 or tau(t) > 0 for t in (Fraction(k, 4) for k in range(9)))  # radius <= tau


@given(data=st.data())
@settings(max_examples=40)
def test_numbers_of_the_certificate_are_those_of_the_floats(problems, data, rounded):
    problem = data.draw(problems(least_weight=1))
    found = stability(rounded(problem))
    for compare, number in ((compare_tau(problem), found.tau), (compare_sigma(problem), found.sigma)):
        assert compare(Fraction(number) + Fraction(1, 10**7)) < 0
        assert compare(Fraction(number) - Fraction(1, 10**7)) > 0
    assert float(kappa(problem)) == pytest.approx(found.kappa, abs=1e-12)


def test_leaving_the_support_makes_the_certificate_infinite():
    problem = ExactProblem.from_chain([[0, 1], [0, 0]], [2, 0], [1, 1], [1, 0], "1/2")
    assert kappa(problem) is None and not exact_stability(problem).certificate
    assert compare_tau(problem)(Fraction(10**9)) > 0 < compare_sigma(problem)(Fraction(10**9))
    undiscounted = ExactProblem.from_chain([[0, 1], [0, 0]], [2, 0], [1, 1], [1, 0], 0)
    assert exact_stability(undiscounted).certificate
