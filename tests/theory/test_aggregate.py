"""The merged model of a chain: theorem 2 with one-hot labels, its identity, its bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import Features, InputError, Policy, Problem, TabularMDP, Weights
from theory.aggregate import aggregate_model
from theory.value_error import value_error

seeds = st.integers(0, 10_000)
few = settings(max_examples=40)


def random_aggregate(seed: int) -> tuple[Problem, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 9))
    chain = rng.dirichlet(np.ones(n) * 0.5, n) * (rng.uniform(0.5, 1.0, (n, 1)) if seed % 2 else 1.0)
    labels = np.append([0, 1, 2], rng.integers(0, 3, n - 3))
    mu = rng.dirichlet(np.ones(n) * 3)
    return Problem.from_chain(chain, rng.normal(size=n), np.eye(3)[labels], mu, 0.9), labels


@given(seeds)
@few
def test_merging_is_the_linear_model_of_one_hot_labels(seed):
    """Theorem 3 is theorem 2 with one-hot features: same error, residuals that fit together."""
    problem, labels = random_aggregate(seed)
    merged, split = aggregate_model(problem, labels), value_error(problem)
    np.testing.assert_allclose(merged.error, split.error, atol=1e-10)
    np.testing.assert_allclose(merged.q_hat, split.w, atol=1e-10)
    G = np.linalg.inv(np.eye(problem.n) - 0.9 * problem.dense_P)
    np.testing.assert_allclose(G @ merged.eps_r, split.reward, atol=1e-10)
    np.testing.assert_allclose(0.9 * G @ merged.eps_p @ merged.q_hat, split.dynamics, atol=1e-10)


@given(seeds)
@few
def test_the_merged_identity_and_its_bounds_hold(seed):
    problem, labels = random_aggregate(seed)
    merged = aggregate_model(problem, labels)
    assert merged.identity_residual <= merged.tolerance < 1e-9
    assert np.all(abs(merged.error) <= merged.B1 + merged.tolerance)
    assert merged.B1.max() <= merged.S1 + merged.tolerance
    assert merged.hoelder * (1 + 1e-12) >= merged.S1
    if seed % 2 == 0:
        one_norm = abs(merged.eps_p).sum(axis=1).max()
        loose = (abs(merged.eps_r).max() + 0.9 * one_norm * np.ptp(merged.q_hat) / 2) / 0.1
        assert merged.hoelder == pytest.approx(loose, rel=1e-9)


def test_the_merged_identity_catches_a_wrong_chain():
    problem, labels = random_aggregate(4)
    mdp_like = aggregate_model(problem, labels)
    wrong = Problem.from_chain(problem.dense_P[::-1], problem.r, problem.Z, problem.mu, 0.9)
    assert abs(aggregate_model(wrong, labels).error - mdp_like.error).max() > 1e-3


def test_labels_of_the_wrong_shape_are_refused():
    problem, labels = random_aggregate(0)
    with pytest.raises(InputError, match="pair_labels"):
        aggregate_model(problem, labels[:-1])
    with pytest.raises(InputError, match="pair_labels"):
        aggregate_model(problem, np.zeros((2, 2)))


def test_an_end_counts_as_a_class_of_value_zero():
    """Both rows have value near 1, one ends: the span is from 0, the ended mass counts."""
    problem = Problem.from_chain([[0.5, 0.0], [0.0, 0.0]], [1.0, 1.0], [1.0, 1.0], [0.5, 0.5], 0.5)
    merged = aggregate_model(problem, [0, 0])
    q = 1.0 / (1.0 - 0.5 * 0.25)
    assert merged.q_hat == pytest.approx([q])
    assert merged.hoelder == pytest.approx(4 / 3 * 0.5 * 0.5 * q / 2)


def test_rows_of_labels_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="pair_labels must be an array, every row of the same length"):
        aggregate_model(random_aggregate(0)[0], [[0], [0, 1]])


def test_a_class_may_end_where_one_of_its_members_with_weight_may():
    """State 0 ends with probability 1e-13, which as a row sum would be rounding; state 1 stays for ever."""
    P = [[[1.0 - 1e-13, 0.0, 1e-13]], [[0.0, 0.0, 1.0]], [[0.0, 0.0, 1.0]]]
    mdp = TabularMDP.from_dense(P, [[1.0], [0.0], [0.0]], 1.0, terminal=[False, False, True])
    problem = Problem(mdp, Policy.uniform(mdp), Features.one_hot(mdp), Weights([[1.0], [1.0], [0.0]]))
    merged = aggregate_model(problem, [[0], [1], [2]])
    assert merged.q_hat[0] == pytest.approx(1e13, rel=1e-2)
    assert merged.hoelder >= 0.0 and merged.q_hat[1] == 0.0
