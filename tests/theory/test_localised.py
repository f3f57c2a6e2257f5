"""Only what a row can reach enters its bound: order, reachability, and a door that closes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from theory import InputError, Problem, bounds, catalogue
from theory.localised import localised_bounds, reached_maximum

seeds = st.integers(0, 10_000)
few = settings(max_examples=30)


def random_problem(seed: int, *, dense: bool = True) -> Problem:
    """Return a chain of up to 9 rows with few successors each, so that not everything is reached."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 10))
    chain = np.zeros((n, n))
    for row in range(n):
        successors = rng.choice(n, size=int(rng.integers(0, 3)), replace=False)
        chain[row, successors] = rng.dirichlet(np.ones(len(successors))) if len(successors) else 0.0
    Z = rng.normal(size=(n, int(rng.integers(1, n))))
    gamma = float(rng.choice([0.0, 0.5, 0.95]))
    P = chain if dense else sparse.csr_array(chain)
    return Problem.from_chain(P, rng.normal(size=n), Z, rng.dirichlet(np.ones(n) * 3), gamma)


def reach_by_powers(problem: Problem) -> np.ndarray:
    """Return (n, n) flags of who reaches whom, from powers of the chain."""
    step = (problem.gamma * problem.dense_P > 0.0) | np.eye(problem.n, dtype=bool)
    return np.linalg.matrix_power(step.astype(float), problem.n) > 0.0


def door() -> Problem:
    """Return three rows: the first passes to the second, which stays; the third, badly fitted, joins it."""
    chain = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    Z = np.array([[1.0], [1.0], [0.0]])
    return Problem.from_chain(chain, [1.0, 1.0, -50.0], Z, [0.4, 0.4, 0.2], 0.5)


@given(seeds)
@few
def test_each_localised_bound_lies_between_the_pointwise_and_the_supremum_one(seed):
    problem = random_problem(seed)
    found, ladder = localised_bounds(problem), bounds(problem)
    slack = 4 * found.rounding + 1e-12
    for low, middle, high in [
        ("B1", "L1", "S1"),
        ("B2", "L2", "S2"),
        ("B25", "L25", "S25"),
        ("B3", "L3", "S3"),
    ]:
        bound = getattr(found, middle)
        assert np.all(abs(found.error) <= bound * (1 + 1e-9) + slack)
        assert np.all(getattr(ladder, low) <= bound * (1 + 1e-9) + slack)
        assert np.all(bound <= getattr(ladder, high) * (1 + 1e-9) + slack)
    assert np.all(found.L2 + slack >= found.L1) and np.all(found.L25 * (1 + 1e-9) + slack >= found.L2)
    assert np.all(found.L3 * (1 + 1e-9) + slack >= found.L25)
    assert np.all(found.published * (1 + 1e-12) >= found.L3)
    assert found.published.max() <= ladder.published * (1 + 1e-9) + slack


@given(seeds)
@few
def test_the_lower_bound_stays_below_the_largest_error_that_is_reached(seed):
    problem = random_problem(seed)
    found = localised_bounds(problem)
    reach = reach_by_powers(problem)
    expected = np.where(reach, abs(found.error), 0.0).max(axis=1)
    np.testing.assert_allclose(found.reached_error, expected, rtol=1e-12)
    assert np.all(found.lower <= found.reached_error * (1 + 1e-9) + 4 * found.rounding + 1e-12)


@given(seeds)
@few
def test_every_bound_is_the_horizon_times_the_maximum_over_what_powers_reach(seed):
    problem = random_problem(seed)
    found, reach = localised_bounds(problem), reach_by_powers(problem)
    G = np.linalg.inv(np.eye(problem.n) - problem.gamma * problem.dense_P)
    np.testing.assert_allclose(found.horizon, G.sum(axis=1), rtol=1e-9)
    bellman = abs(found.error - problem.gamma * problem.dense_P @ found.error)  # e = (I - gamma P) VE
    expected = G.sum(axis=1) * np.where(reach, bellman, 0.0).max(axis=1)
    np.testing.assert_allclose(found.L1, expected, rtol=1e-6, atol=1e-7)


@given(seeds)
@few
def test_the_largest_value_that_is_reached_is_found_on_any_graph(seed):
    problem, values = random_problem(seed), np.random.default_rng(seed).normal(size=9)
    values = values[: problem.n]
    step = (problem.dense_P > 0.0) | np.eye(problem.n, dtype=bool)
    reach = np.linalg.matrix_power(step.astype(float), problem.n) > 0.0
    expected = np.where(reach, values, -np.inf).max(axis=1)
    np.testing.assert_array_equal(reached_maximum(problem.P_pi, values), expected)
    np.testing.assert_array_equal(reached_maximum(sparse.csr_array(problem.P_pi), values), expected)


def test_a_long_way_is_walked_to_its_end():
    chain = sparse.csr_array(np.eye(300, k=1))
    assert reached_maximum(chain, np.arange(300.0)).tolist() == [299.0] * 300
    assert reached_maximum(chain, -np.arange(300.0)).tolist() == (-np.arange(300.0)).tolist()


def test_stored_zeros_lead_nowhere():
    chain = sparse.csr_array(([0.0, 0.5], ([0, 1], [1, 0])), shape=(2, 2))
    assert reached_maximum(chain, np.array([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_a_badly_fitted_row_that_is_never_reached_spoils_only_its_own_bound():
    problem = door()
    found, ladder = localised_bounds(problem), bounds(problem)
    # The feature is one on the first two rows: Q = 2 there is exact, and the third is 49 off.
    np.testing.assert_allclose(found.error, [0.0, 0.0, 49.0], atol=1e-12)
    np.testing.assert_allclose(found.L1[:2], 0.0, atol=1e-12)
    assert found.L1[2] >= 49.0 and ladder.S1 >= 98.0 * (1 - 1e-12)  # the supremum blames every row


def test_a_row_may_not_be_judged_by_its_own_residual_alone():
    # Row 0 only passes on the error of row 1, and is itself fitted exactly.
    problem = Problem.from_chain([[0, 1], [0, 0]], [0, 1], [[1.0], [0.0]], [0.5, 0.5], 0.5)
    found = localised_bounds(problem)
    bellman = abs(found.error - 0.5 * problem.dense_P @ found.error)
    assert abs(found.error[0]) > 1.5 * bellman[0] and found.error.tolist() == pytest.approx([-0.5, -1.0])
    assert found.L1[0] == pytest.approx(1.5) and found.L1[1] == pytest.approx(1.0)


def test_undiscounted_runs_that_end_have_a_horizon_of_their_own():
    problem = catalogue.load("random_walk_19_groups").problem
    found = localised_bounds(problem)
    assert found.horizon.max() == pytest.approx(100.0) and found.horizon.min() == pytest.approx(19.0)
    assert abs(found.error).max() == pytest.approx(11 / 15) and np.all(abs(found.error) <= found.L1)


def test_nothing_is_reached_without_discounting_ahead():
    chain = np.array([[0.0, 1.0], [0.0, 1.0]])
    problem = Problem.from_chain(chain, [0.0, 5.0], [[1.0], [0.0]], [0.5, 0.5], 0.0)
    found = localised_bounds(problem)
    np.testing.assert_allclose(found.L1, [0.0, 5.0], atol=1e-15)


def test_a_sparse_chain_gives_the_same_bounds():
    first, second = localised_bounds(random_problem(5)), localised_bounds(random_problem(5, dense=False))
    np.testing.assert_allclose(first.L3, second.L3, rtol=1e-9)
    np.testing.assert_allclose(first.lower, second.lower, rtol=1e-9)


def test_without_a_solution_there_is_a_reason_and_no_bound():
    found = localised_bounds(catalogue.load("tsitsiklis_van_roy_singular").problem)
    assert found.reason == "(I - gamma W_d) w = w_r has no solution"
    assert found.L1 is found.L25 is found.published is found.lower is None
    assert localised_bounds(door()).reason == ""


def test_infinite_returns_are_refused():
    with pytest.raises(InputError, match="never ends"):
        localised_bounds(catalogue.load("continuing_undiscounted").problem)
