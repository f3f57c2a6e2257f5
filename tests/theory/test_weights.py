"""Weights: named ones by hand, their defining properties, and the mistakes that are named.

That the solved ones lie within their error bound of exact fractions is in ``test_truth.py``.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from theory import InputError, Policy, TabularMDP, Weights, garnet, random_walk
from theory.chains import pair_chain


def kappa(mdp: TabularMDP, policy: Policy, weights: Weights) -> float:
    """The largest ratio of (mu P_pi) to mu over rows that have weight."""
    P, rows = pair_chain(mdp, policy, mdp.live_states())
    mu = weights.mu.reshape(-1)[rows]
    return float(((mu @ P)[mu > 0] / mu[mu > 0]).max())


def test_weights_are_normalised_and_terminal_states_get_none():
    mdp = garnet(4, 2, 2, 0.9, seed=1, num_terminal=1)
    assert Weights.uniform(mdp).mu == pytest.approx(np.array([[1 / 6] * 2] * 3 + [[0.0] * 2]))
    assert Weights.empirical([[1, 2], [0, 5]]).mu.tolist() == [[0.125, 0.25], [0.0, 0.625]]
    assert Weights.custom([[0.3], [0.9]]).mu == pytest.approx(np.array([[0.25], [0.75]]))
    assert (Weights.uniform(mdp).kind, Weights.uniform(mdp).error_bound) == ("uniform", 0.0)


def test_visits_of_the_random_walk_are_those_counted_by_hand():
    """From the middle of five the expected visits are 1, 2, 3, 2, 1."""
    walk = random_walk()
    policy = Policy.uniform(walk)
    for weights in (Weights.episodic(walk, policy), Weights.discounted(walk, policy)):
        assert weights.mu[:, 0] == pytest.approx(np.array([0, 1, 2, 3, 2, 1, 0]) / 9, abs=1e-15)


def test_discounted_visits_start_where_the_mdp_starts():
    P = [[[0, 1, 0]], [[0, 0, 1]], [[0, 0, 1]]]
    mdp = TabularMDP.from_dense(P, np.zeros((3, 1)), 0.5, start=[1, 0, 0])
    weights = Weights.discounted(mdp, Policy.uniform(mdp))
    assert weights.mu[:, 0] == pytest.approx(np.array([0.5, 0.25, 0.25]))
    later = TabularMDP.from_dense(P, np.zeros((3, 1)), 0.5, start=[0, 1, 0])
    assert Weights.discounted(later, Policy.uniform(later)).mu[:, 0].tolist() == [0.0, 0.5, 0.5]


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_bounded_as_the_theory_says(seed):
    mdp = garnet(6, 2, 3, 0.9, seed=seed)
    policy = Policy.uniform(mdp)
    assert kappa(mdp, policy, Weights.stationary(mdp, policy)) == pytest.approx(1.0, abs=1e-12)
    assert kappa(mdp, policy, Weights.discounted(mdp, policy)) <= 1 / 0.9 + 1e-12
    ending = garnet(6, 2, 3, 1.0, seed=seed, num_terminal=2)
    assert kappa(ending, policy, Weights.episodic(ending, policy)) <= 1.0 + 1e-12


def test_states_that_are_left_for_good_have_no_stationary_weight():
    P = [[[0.5, 0.5, 0.0]], [[0, 0, 1]], [[0, 0.5, 0.5]]]
    mdp = TabularMDP.from_dense(P, np.zeros((3, 1)), 0.9)
    assert Weights.stationary(mdp, Policy.uniform(mdp)).mu[:, 0] == pytest.approx(
        [0, 1 / 3, 2 / 3], abs=1e-15
    )


def test_a_periodic_chain_has_a_stationary_distribution():
    mdp = TabularMDP.from_dense([[[0, 1, 0]], [[0, 0, 1]], [[1, 0, 0]]], np.zeros((3, 1)), 0.9)
    assert Weights.stationary(mdp, Policy.uniform(mdp)).mu[:, 0] == pytest.approx([1 / 3] * 3, abs=1e-15)


def test_a_single_absorbing_state_takes_all_stationary_weight():
    mdp = TabularMDP.from_dense([[[0, 1]], [[0, 1]]], np.zeros((2, 1)), 0.9)
    weights = Weights.stationary(mdp, Policy.uniform(mdp))
    assert weights.mu[:, 0].tolist() == [0.0, 1.0]


def test_sparse_and_dense_chains_give_the_same_weights():
    mdp = garnet(20, 2, 3, 0.9, seed=4)
    thin = TabularMDP(sparse.csr_array(mdp.rows), mdp.r, mdp.gamma)
    policy = Policy.uniform(mdp)
    for make in (Weights.stationary, Weights.discounted):
        one, other = make(mdp, policy), make(thin, policy, solver="sparse")
        assert np.abs(one.mu - other.mu).sum() <= one.error_bound + other.error_bound < 1e-11


def test_no_stationary_distribution_says_why():
    walk = random_walk()
    with pytest.raises(InputError, match=r"every run ends\. Use Weights\.episodic"):
        Weights.stationary(walk, Policy.uniform(walk))
    split = TabularMDP.from_dense(np.eye(3)[:, None, :], np.zeros((3, 1)), 0.9)
    with pytest.raises(InputError, match=r"3 recurrent classes \(with state 0, state 1, state 2\)"):
        Weights.stationary(split, Policy.uniform(split))


def test_episodes_that_never_end_are_reported_only_if_they_are_visited():
    P = [[[0, 1, 0]], [[0, 1, 0]], [[0, 0, 1]]]
    for start, first in (([1, 0, 0], 0), ([0, 1, 0], 1)):
        mdp = TabularMDP.from_dense(P, np.zeros((3, 1)), 0.9, terminal=[False, False, True], start=start)
        with pytest.raises(InputError, match=f"Episodes never end from state {first}"):
            Weights.episodic(mdp, Policy.uniform(mdp))
    P[0] = [[0, 0, 1]]
    mdp = TabularMDP.from_dense(P, np.zeros((3, 1)), 0.9, terminal=[False, False, True], start=[1, 0, 0])
    assert Weights.episodic(mdp, Policy.uniform(mdp)).mu[:, 0].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("mu", "message"),
    [
        ([[0.0, 0.0]], "positive finite sum to be normalised, got 0.0"),
        ([[0.5, -0.5], [1.0, 0.0]], "negative, got -0.5 at state 0, action 1"),
        ([[0.5], [np.nan]], "finite, got nan at state 1"),
        ([0.5, 0.5], r"shape \(states, actions\).*\(2,\)"),
        ([[1e308, 1e308]], "positive finite sum"),
    ],
)
@pytest.mark.parametrize("make", [Weights.custom, Weights.empirical])
def test_bad_weights_are_named(make, mu, message):
    with np.errstate(over="ignore"), pytest.raises(InputError, match=message):
        make(mu)
