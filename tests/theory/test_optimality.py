"""Optimal values: proofs, cycles, waiting, known worlds; against fractions they are in ``test_truth``."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from theory import (
    InputError,
    Policy,
    TabularMDP,
    certified_v,
    cliff_walking,
    frozen_lake,
    garnet,
    optimal,
    random_walk,
    river_swim,
)
from theory.optimality import _above


def test_sparse_and_dense_optima_agree():
    mdp = garnet(30, 3, 4, 0.95, seed=11)
    thin = optimal(TabularMDP(sparse.csr_array(mdp.rows), mdp.r, mdp.gamma))
    dense = optimal(mdp)
    assert np.abs(dense.q - thin.q).max() <= dense.error_bound + thin.error_bound < 1e-10
    assert (dense.policy.probs == thin.policy.probs).all()


def test_free_waiting_at_gamma_one_keeps_the_optimum_proper_and_certified():
    """State 0 may wait for nothing or go; waiting ties with going and must not be preferred."""
    P = np.zeros((3, 2, 3))
    P[0, 0] = P[1, 1] = [0.5, 0.5, 0.0]
    P[0, 1] = [0.0, 1.0, 0.0]
    P[1, 0] = P[2, 0] = P[2, 1] = [0.0, 0.0, 1.0]
    mdp = TabularMDP.from_dense(P, [[0, 0], [1, 0], [0, 0]], 1.0, terminal=[False, False, True])
    found = optimal(mdp)
    assert found.v.tolist() == [1.0, 1.0, 0.0]
    assert found.error_bound < 1e-12


def test_what_cannot_be_proved_is_said_to_be_unproved():
    """A cycle that pays +1 and -1 in turn costs nothing, but is not plain waiting: the bound is infinite."""
    P = [[[0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1]], [[0, 0, 1], [0, 0, 1]]]
    mdp = TabularMDP.from_dense(P, [[1, 0], [-1, -1], [0, 0]], 1.0, terminal=[False, False, True])
    found = optimal(mdp)
    assert found.v.tolist() == [0.0, -1.0, 0.0]
    assert found.error_bound == np.inf


def test_a_gain_of_a_billionth_is_taken():
    """Staying pays 1 a step; moving pays a little less once and then more, a billionth in all."""
    P = [[[1, 0], [0, 1]], [[0, 1], [0, 1]]]
    mdp = TabularMDP.from_dense(P, [[1, 1 - 1e-3], [1 + 1e-3 + 1e-9] * 2], 0.5)
    assert optimal(mdp).policy.probs[0].tolist() == [0.0, 1.0]


def test_gains_that_only_a_detour_collects_are_not_missed_by_the_upper_bound():
    """Each action gains at most 1 on the spot, and the stay is at most 1.9, yet going round gains 5.5."""
    P = np.zeros((3, 2, 3))
    P[0, 0, 2] = P[0, 1, 1] = P[1, 0, 2] = P[2, :, 2] = 1.0
    P[1, 1] = [0.9, 0.0, 0.1]
    mdp = TabularMDP.from_dense(P, [[0, -0.5], [0, 1], [0, 0]], 1.0, terminal=[False, False, True])
    assert optimal(mdp).v == pytest.approx([5.0, 5.5, 0.0])
    assert _above(mdp, np.zeros(3), "auto") == np.inf


def test_a_cycle_that_pays_without_end_is_reported():
    P = [[[1, 0], [0, 1]], [[0, 1], [0, 1]]]
    mdp = TabularMDP.from_dense(P, [[1, 0], [0, 0]], 1.0, terminal=[False, True])
    with pytest.raises(InputError, match="cycle from state 0 pays without end"):
        optimal(mdp)


def test_a_state_that_no_policy_ends_from_is_reported():
    mdp = TabularMDP.from_dense(
        [[[0, 1, 0]], [[0, 1, 0]], [[0, 0, 1]]], np.zeros((3, 1)), 1.0, terminal=[False, False, True]
    )
    with pytest.raises(InputError, match="no policy ends from state 0, state 1"):
        optimal(mdp)


@pytest.mark.parametrize(
    ("mdp", "state", "best", "uniform"),
    [
        (river_swim(), 0, 37.85470114, 0.266528985),
        (frozen_lake(), 0, 0.542025932, 0.012356137),
        (frozen_lake(gamma=1.0), 0, 14 / 17, 0.0139397962),
        (frozen_lake("8x8"), 0, 0.414640362, 0.00109961481),
        (cliff_walking(), 36, -13.0, -65375.13),
    ],
    ids=["river_swim", "frozen_lake", "frozen_lake_undiscounted", "frozen_lake_8x8", "cliff_walking"],
)
def test_the_values_of_known_worlds_are_the_published_digits(mdp, state, best, uniform):
    found, policy_value = optimal(mdp), certified_v(mdp, Policy.uniform(mdp))
    assert abs(found.v[state] - best) <= max(1e-9, 1e-7 * abs(best) * (best not in (14 / 17, -13.0)))
    assert policy_value.value[state] == pytest.approx(uniform, rel=1e-7)
    assert max(found.error_bound, policy_value.error_bound) < 1e-5


def test_sums_over_all_states_match_too():
    assert optimal(frozen_lake()).v.sum() == pytest.approx(6.339819538, rel=1e-9)
    assert optimal(cliff_walking()).v.sum() == -356.0
    walk = random_walk()
    assert np.abs(optimal(walk).v[1:6] - np.arange(1, 6) / 6).max() < 1e-13


@pytest.mark.parametrize(
    "mdp", [river_swim(), frozen_lake(), cliff_walking(0.9)], ids=["swim", "lake", "cliff"]
)
def test_value_iteration_by_hand_finds_the_same_optimum(mdp):
    outcomes = [
        [
            [(t, float(mdp.P[s, a, t])) for t in np.flatnonzero(mdp.P[s, a]).tolist()]
            for a in range(mdp.num_actions)
        ]
        for s in range(mdp.num_states)
    ]
    v, change = [0.0] * mdp.num_states, 1.0
    while change > 1e-13:
        following = [
            max(
                float(mdp.r[s, a]) + mdp.gamma * sum(p * v[t] for t, p in row)
                for a, row in enumerate(outcomes[s])
            )
            for s in range(mdp.num_states)
        ]
        following = [0.0 if end else x for x, end in zip(following, mdp.terminal, strict=True)]
        change = max(abs(x - y) for x, y in zip(following, v, strict=True))
        v = following
    assert np.abs(optimal(mdp).v - v).max() < 1e-10


def test_a_gain_of_rounding_size_changes_no_action():
    """Waiting promises exactly v(s); rounding lets the chosen row promise a little less in some state."""
    rng = np.random.default_rng(0)
    m = 12
    P = np.zeros((m + 1, 2, m + 1))
    P[:m, 0] = rng.dirichlet(np.ones(m + 1), m)
    P[np.arange(m), 1, np.arange(m)] = P[m, :, m] = 1.0
    r = np.zeros((m + 1, 2))
    r[:m, 0] = rng.random(m)
    mdp = TabularMDP.from_dense(P, r, 1.0, terminal=np.arange(m + 1) == m)
    best = optimal(mdp)
    v = best.v[:m]
    assert (r[:m, 0] + P[:m, 0, :m] @ v < v).any()
    assert (best.policy.probs[:m, 0] == 1.0).all() and best.iterations == 1
