"""The coarsest bisimulation and its pair labels: against all partitions, rounding, scales, tolerance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import InputError, TabularMDP, check_abstraction
from theory.bisimulation import coarsest_bisimulation, coarsest_pair_labels
from theory.labels import class_codes, join_equal

seeds = st.integers(0, 10_000)
few = settings(max_examples=40)


def ring_of_eight() -> TabularMDP:
    """Return C07: eight states on a ring with lazy steps, rewards of period four; coarsest: four classes.

    The probabilities are summed in two orders, so that equal ones differ in their last bit.
    """
    P = np.zeros((8, 1, 8))
    for s in range(8):
        ahead = [(0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3)][s // 4]
        P[s, 0, (s + 1) % 8] = ahead / 2
        P[s, 0, (s + 5) % 8] = ahead / 2
        P[s, 0, s] = 1.0 - ahead
    return TabularMDP.from_dense(P, np.arange(8)[:, None] % 4, 0.9)


def test_rounding_does_not_part_bisimilar_states():
    mdp = ring_of_eight()
    assert mdp.P[0, 0, 0] != mdp.P[4, 0, 4], "the trap is armed"
    assert coarsest_bisimulation(mdp).tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_keys_on_a_grid_would_part_numbers_on_either_side_of_a_line():
    """0.5 and the next number down round to different multiples of any grid with a line between."""
    step = np.nextafter(0.5, 0.0)
    P = np.array([[[0.5, 0.5]], [[step, 1.0 - step]]])
    assert coarsest_bisimulation(TabularMDP.from_dense(P, [[2.5], [np.nextafter(2.5, 0.0)]], 0.9)).max() == 0


def partitions(n: int):
    """Yield every partition of n states as labels in order of first appearance."""
    for labels in itertools.product(range(n), repeat=n):
        if all(label <= max(labels[:i], default=-1) + 1 for i, label in enumerate(labels)):
            yield np.array(labels)


@given(seeds)
@few
def test_the_coarsest_bisimulation_is_the_smallest_partition_that_is_one(seed):
    """Compared with all partitions of five states; two of the five are copies of others."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(5), (5, 2)) if seed % 2 else np.eye(5)[rng.integers(0, 5, (5, 2))]
    r = rng.integers(0, 2, (5, 2)).astype(float)
    P[3], r[3] = P[0], r[0]
    r[4] = r[1]
    mdp = TabularMDP.from_dense(P, r, 0.9)
    valid = []
    for labels in partitions(5):
        ahead = mdp.P @ np.eye(5)[labels]
        same = labels[:, None] == labels
        fits = [np.ptp(np.column_stack([r, ahead.reshape(5, -1)])[row], axis=0).max() < 1e-9 for row in same]
        if all(fits):
            valid.append(labels)
    coarsest = min(valid, key=max)
    assert coarsest_bisimulation(mdp).tolist() == coarsest.tolist()


def test_terminal_states_share_one_class_and_no_live_state_joins_it():
    """State 0 pays nothing for ever but never ends; the two ends have different labels in no sense."""
    P = [[[1.0, 0, 0]], [[0, 1.0, 0]], [[0, 0, 1.0]]]
    mdp = TabularMDP.from_dense(P, np.zeros((3, 1)), 0.9, terminal=[False, True, True])
    assert coarsest_bisimulation(mdp).tolist() == [0, 1, 1]


def test_a_tolerance_joins_what_is_close():
    P = np.full((2, 1, 2), 0.5)
    mdp = TabularMDP.from_dense(P, [[0.0], [0.01]], 0.9)
    assert coarsest_bisimulation(mdp).max() == 1
    assert coarsest_bisimulation(mdp, tol=0.02).max() == 0
    with pytest.raises(InputError, match="tol"):
        coarsest_bisimulation(mdp, tol=-0.1)


def test_joining_refines_the_classes_there_are():
    same = np.zeros((3, 1))
    assert join_equal(same, np.array([1e-9]), np.array([0, 1, 0])).tolist() == [0, 1, 0]


def ends_at_once(rewards) -> TabularMDP:
    S = len(rewards) + 1
    P = np.tile(np.eye(S)[-1], (S, 1)).reshape(S, 1, S)
    return TabularMDP.from_dense(P, [*([r] for r in rewards), [0.0]], 0.9, terminal=np.arange(S) == S - 1)


def test_a_large_reward_elsewhere_merges_nothing():
    mdp = ends_at_once([1e15, 1.0, 2.0])
    labels = coarsest_bisimulation(mdp)
    assert labels.tolist() == [0, 1, 2, 3]
    assert coarsest_pair_labels(mdp, [0, 0, 0, 1]).reshape(-1).tolist() == [0, 1, 2, 3]
    assert check_abstraction(mdp, labels, coarsest_pair_labels(mdp, labels)).verdict == "pass"


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e15])
def test_rewards_are_joined_up_to_the_rounding_of_their_own_size(size):
    rounded = ends_at_once([size * (0.1 + 0.2), size * 0.3, size * 0.3 * (1 + 1e-13), -size * 0.3])
    assert coarsest_bisimulation(rounded).tolist() == [0, 0, 1, 2, 3]
    assert coarsest_pair_labels(rounded, [0, 0, 0, 0, 1]).reshape(-1).tolist() == [0, 0, 1, 2, 3]


def test_what_a_sum_that_cancels_leaves_takes_a_tolerance_to_be_nothing():
    mdp = ends_at_once([0.1 + 0.2 - 0.3, 0.0])
    assert coarsest_bisimulation(mdp).tolist() == [0, 1, 2]
    assert coarsest_bisimulation(mdp, tol=1e-12).tolist() == [0, 0, 1]


@pytest.mark.parametrize(("step", "classes"), [(1e-14, [0, 0, 1]), (1e-12, [0, 1, 2])])
def test_probabilities_are_joined_up_to_the_rounding_of_one(step, classes):
    P = [[[0.5, 0, 0.5]], [[0, 0.5 - step, 0.5 + step]], [[0, 0, 1]]]
    mdp = TabularMDP.from_dense(P, np.ones((3, 1)), 0.9, terminal=[False, False, True])
    assert coarsest_bisimulation(mdp).tolist() == classes


def test_every_action_is_compared_at_its_own_scale():
    """Action 1 pays 1e15 in both states; what action 0 pays differs by one."""
    P = np.zeros((3, 2, 3))
    P[:, :, 2] = 1.0
    r = [[1.0, 1e15], [2.0, 1e15 * (1 + 2e-16)], [0, 0]]
    mdp = TabularMDP.from_dense(P, r, 0.9, terminal=[False, False, True])
    assert coarsest_bisimulation(mdp).tolist() == [0, 1, 2]
    r[1][0] = 1.0
    assert coarsest_bisimulation(TabularMDP.from_dense(P, r, 0.9, terminal=[False, False, True])).max() == 1


def test_steps_of_a_column_are_measured_by_their_larger_end():
    columns, together = np.array([[1.0], [1.1], [-1.1], [-1.0]]), np.zeros(4, dtype=int)
    assert join_equal(columns, np.zeros(1), together, 0.095).tolist() == [0, 0, 1, 1]
    assert join_equal(columns, np.zeros(1), together, 0.09).tolist() == [0, 1, 2, 3]


def test_wrong_arguments_are_named():
    mdp = ends_at_once([1.0])
    for labels, tol, message in (
        ([0], 0.0, r"state_labels must have shape \(2,\)"),
        ([[0], [0, 1]], 0.0, "state_labels must be an array, every row of the same length"),
        ([0, 1], "a", "tol must be a number"),
        ([0, 1], -1.0, "tol must be at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            coarsest_pair_labels(mdp, labels, tol=tol)
    with pytest.raises(InputError, match="tol must be a number"):
        coarsest_bisimulation(mdp, tol="a")


def test_labels_are_numbered_by_first_appearance_whatever_they_are():
    assert class_codes("labels", [2.5, -1.0, 2.5], (3,), "(rows,)").tolist() == [0, 1, 0]
    assert class_codes("labels", [[True, False]], (1, 2), "(states, actions)").tolist() == [[0, 1]]
