"""Policies: named ones by hand, mixtures, and the mistakes that are named."""

from __future__ import annotations

import numpy as np
import pytest

from theory import InputError, Policy, garnet


def test_named_policies_by_hand():
    mdp = garnet(3, 4, 2, 0.9, seed=0)
    assert Policy.uniform(mdp).probs.tolist() == [[0.25] * 4] * 3
    q = [[1.0, 3.0, 3.0], [0.0, -1.0, -2.0]]
    assert Policy.greedy(q).probs.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert Policy.epsilon_greedy(q, 0.3).probs == pytest.approx(np.array([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1]]))
    assert Policy.epsilon_greedy(q, 1.0).probs == pytest.approx(np.full((2, 3), 1 / 3))
    assert Policy.from_actions([2, 0]).probs.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert Policy.from_actions([0, 0], 2).probs.tolist() == [[1, 0], [1, 0]]


def test_a_mixture_is_the_weighted_mean():
    left, right = Policy([[1.0, 0.0], [0.5, 0.5]]), Policy([[0.0, 1.0], [0.5, 0.5]])
    assert left.mix(right, 0.25).probs.tolist() == [[0.75, 0.25], [0.5, 0.5]]
    assert left.mix(right, 0.0).probs.tolist() == left.probs.tolist()
    assert left.mix(right, 1.0).probs.tolist() == right.probs.tolist()


def test_float32_probabilities_are_accepted_and_rescaled():
    policy = Policy(np.full((2, 3), 1 / 3, dtype=np.float32))
    assert policy.probs.dtype == np.float64
    assert np.abs(policy.probs.sum(axis=1) - 1.0).max() < 1e-15
    with pytest.raises(ValueError, match="read-only"):
        policy.probs[0, 0] = 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Policy([[0.5, 0.5], [0.5, 0.6]]), "sum to 1, got 1.1 at state 1"),
        (lambda: Policy([[0.5, 0.5], [1.5, -0.5]]), "negative, got -0.5 at state 1, action 1"),
        (lambda: Policy([[0.5, 0.5], [np.nan, 1.0]]), "finite, got nan at state 1"),
        (lambda: Policy([0.5, 0.5]), r"shape \(states, actions\).*\(2,\)"),
        (lambda: Policy.greedy([1.0, 2.0]), r"q must have shape"),
        (lambda: Policy.greedy([[1.0, np.nan]]), "q must be finite, got nan at state 0"),
        (lambda: Policy.epsilon_greedy([[1.0]], 1.5), r"epsilon must lie in \[0, 1\], got 1.5"),
        (lambda: Policy.epsilon_greedy([[1.0]], float("nan")), r"epsilon must lie in \[0, 1\], got nan"),
        (lambda: Policy.from_actions([0, 2], 2), "Action 2 at state 1 does not exist; there are 2"),
        (lambda: Policy.from_actions([0, -1]), "Action -1 at state 1 does not exist"),
        (lambda: Policy.from_actions([0.5]), "one whole number a state"),
        (lambda: Policy.from_actions([0, [1]]), "actions must be an array, every row of the same length"),
        (lambda: Policy.from_actions([0, 1], 2.5), "num_actions must be a whole number, got 2.5"),
        (lambda: Policy.from_actions([0, 0], 0), "num_actions must be at least 1, got 0"),
        (
            lambda: Policy.epsilon_greedy([[1.0]], "a"),
            r"epsilon must be a number and lie in \[0, 1\], got 'a'",
        ),
        (lambda: Policy.epsilon_greedy([[1.0]], [0.5]), "epsilon must be a number"),
        (lambda: Policy([[1.0]]).mix(Policy([[1.0]]), None), "weight must be a number"),
        (lambda: Policy([[1.0]]).mix(np.ones((1, 1)), 0.5), "other must be a Policy, got ndarray"),
        (lambda: Policy([[1.0]]).mix(Policy([[0.5, 0.5]]), 0.5), r"other must have shape \(1, 1\)"),
        (lambda: Policy([[1.0]]).mix(Policy([[1.0]]), -0.1), r"weight must lie in \[0, 1\], got -0.1"),
    ],
)
def test_bad_policies_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_row_of_a_policy_may_miss_one_by_a_billionth(sign):
    near = Policy([[0.5, 0.5], [0.5, 0.5 + sign * 9e-10]])
    assert near.probs[1].sum() == pytest.approx(1.0, abs=1e-15)
    with pytest.raises(InputError, match=r"sum to 1, got .* at state 1"):
        Policy([[0.5, 0.5], [0.5, 0.5 + sign * 2e-9]])
