"""Features: each kind by hand or by the property that defines it, and the mistakes that are named."""

from __future__ import annotations

import numpy as np
import pytest

from theory import Features, InputError, Policy, Problem, TabularMDP, Weights, garnet, random_walk
from theory.chains import pair_chain

MDP = garnet(5, 2, 3, 0.9, seed=2, num_terminal=1)
UNIFORM = Policy.uniform(MDP)


def live(features: Features) -> np.ndarray:
    return features.Z[~MDP.terminal].reshape(8, -1)


def test_one_hot_is_the_identity_over_live_rows():
    Z = Features.one_hot(MDP).Z
    assert Z.shape == (5, 2, 8)
    assert live(Features.one_hot(MDP)).tolist() == np.eye(8).tolist()
    assert not Z[4].any()


def test_aggregates_are_indicator_columns_in_order_of_the_label():
    Z = Features.aggregate([[7, -1], [3, 7]]).Z
    assert Z.tolist() == [[[0, 1], [0, 0]], [[1, 0], [0, 1]]]


def test_random_features_depend_on_the_seed_only():
    one, again, other = (Features.random(MDP, 3, seed).Z for seed in (1, 1, 2))
    assert one.tolist() == again.tolist() != other.tolist()
    assert one.shape == (5, 2, 3)
    assert -1.0 <= one.min() < -0.5 < 0.5 < one.max() < 1.0


def test_svd_features_are_the_best_low_rank_picture_of_the_resolvent():
    P, _ = pair_chain(MDP, UNIFORM, MDP.live_states())
    G = np.linalg.inv(np.eye(8) - 0.9 * P)
    Z = live(Features.svd(MDP, UNIFORM, 3))
    assert np.abs(Z.T @ Z - np.eye(3)).max() < 1e-14
    singular = np.linalg.svd(G, compute_uv=False)
    assert np.linalg.norm(G - Z @ Z.T @ G, 2) == pytest.approx(singular[3], rel=1e-12)
    assert (Z[np.abs(Z).argmax(axis=0), range(3)] > 0).all()


def test_krylov_features_span_the_powers_of_the_chain_on_the_reward():
    P, rows = pair_chain(MDP, UNIFORM, MDP.live_states())
    r = MDP.r.reshape(-1)[rows]
    Z = live(Features.krylov(MDP, UNIFORM, 3))
    assert np.abs(Z.T @ Z - np.eye(3)).max() < 1e-14
    for vector in (r, P @ r, P @ P @ r):
        assert np.abs(vector - Z @ (Z.T @ vector)).max() < 1e-13
    assert np.abs(P @ P @ P @ r - Z @ (Z.T @ (P @ P @ P @ r))).max() > 1e-4


def test_krylov_features_stay_orthogonal_where_the_space_is_nearly_invariant():
    """What a step adds is a millionth of it, so one pass of orthogonalisation would lose ten digits."""
    step = np.roll(np.eye(5), 1, axis=1)[:, None, :]
    mdp = TabularMDP.from_dense(step, [[1], [1], [1], [1], [1 + 1e-6]], 0.9)
    Z = Features.krylov(mdp, Policy.uniform(mdp), 3).Z.reshape(5, 3)
    assert np.abs(Z.T @ Z - np.eye(3)).max() < 1e-14


def test_krylov_features_stop_once_the_space_is_invariant():
    cycle = TabularMDP.from_dense(np.roll(np.eye(4), 1, axis=1)[:, None, :], [[1], [-1], [1], [-1]], 0.9)
    assert Features.krylov(cycle, Policy.uniform(cycle), 4).d == 1


def test_radial_features_by_hand():
    Z = Features.rbf([[[0.0, 0.0]], [[3.0, 4.0]]], [[0.0, 0.0], [3.0, 0.0]], 5.0).Z
    expected = [[[1.0, np.exp(-9 / 50), 1.0]], [[np.exp(-0.5), np.exp(-16 / 50), 1.0]]]
    assert pytest.approx(np.array(expected), rel=1e-15) == Z


def test_each_tiling_has_one_hot_rows_and_copies_are_shifted():
    line = np.arange(9.0)[:, None]
    one = Features.tile(line, 4)
    assert one.Z.argmax(axis=1).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    two = Features.tile(line, 4, 2)
    assert two.d == 4 + 5
    assert two.Z[:, 4:].argmax(axis=1).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    plane = Features.tile([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], 2)
    assert plane.Z.tolist() == np.eye(4).tolist()
    assert Features.tile([[2.0], [2.0]], 3).Z.tolist() == [[1, 0, 0], [1, 0, 0]]


def test_rescaling_multiplies_from_the_right():
    features = Features([[1.0, 2.0], [3.0, 4.0]], "mine")
    assert features.rescale([[0, 1], [1, 0]]).Z.tolist() == [[2, 1], [4, 3]]
    assert features.rescale([2.0, 0.5]).Z.tolist() == [[2, 1], [6, 2]]
    assert features.rescale([2.0, 0.5]).name == "mine rescaled"


def test_float32_becomes_float64_and_is_a_copy():
    given = np.ones((2, 1), dtype=np.float32)
    Z = Features.from_array(given).Z
    given[:] = 5.0
    assert (Z.dtype, Z.tolist()) == (np.dtype(np.float64), [[1.0], [1.0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Features([1.0, 2.0]), r"\(states, actions, d\) or \(rows, d\), d > 0, got \(2,\)"),
        (lambda: Features(np.zeros((2, 0))), r"d > 0, got \(2, 0\)"),
        (lambda: Features([[1.0], [np.nan]]), r"finite, got nan at index \(1, 0\)"),
        (lambda: Features([["a"]]), "real numbers"),
        (lambda: Features([[1.0], [2.0, 3.0]]), "every row of the same length"),
        (lambda: Features.aggregate([0.5, 1.0]), "whole numbers"),
        (lambda: Features.aggregate([-1, -1]), "d > 0"),
        (lambda: Features.random(MDP, 0, 1), "d must be at least 1, got 0"),
        (lambda: Features.random(MDP, 2, -1), "seed must be at least 0, got -1"),
        (lambda: Features.svd(MDP, UNIFORM, 9), "d must be at least 1 and at most 8, got 9"),
        (lambda: Features.krylov(MDP, UNIFORM, 0), "d must be at least 1 and at most 8, got 0"),
        (lambda: Features.rbf([[0.0]], [[0.0, 1.0]], 1.0), "must share k"),
        (lambda: Features.rbf([[0.0]], [[0.0]], 0.0), "width must be greater than 0 and finite, got 0"),
        (lambda: Features.tile([0.0], 2), "coordinates must have shape"),
        (lambda: Features.tile([[0.0]], 0), "tiles must be at least 1, got 0"),
        (lambda: Features.tile([[0.0]], 1, 0), "tilings must be at least 1, got 0"),
        (lambda: Features([[1.0]]).rescale(np.eye(2)), r"T must have shape \(1, 2\)"),
    ],
)
def test_bad_features_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_features_of_a_chain_without_reward_or_end_say_so():
    silent = TabularMDP.from_dense([[[1.0]]], [[0.0]], 0.9)
    with pytest.raises(InputError, match="reward, which is zero everywhere"):
        Features.krylov(silent, Policy.uniform(silent), 1)
    endless = TabularMDP.from_dense([[[1.0]]], [[1.0]], 1.0)
    with pytest.raises(InputError, match="gamma is 1 and the run never ends from state 0"):
        Features.svd(endless, Policy.uniform(endless), 1)


def test_krylov_features_of_full_dimension_make_the_value_exact():
    walk = random_walk(4, 0.9)
    policy = Policy.uniform(walk)
    problem = Problem(walk, policy, Features.krylov(walk, policy, 4), Weights.uniform(walk))
    value = np.linalg.solve(np.eye(4) - 0.9 * problem.dense_P, problem.r)
    assert np.abs(value - problem.Z @ (problem.Z.T @ value)).max() < 1e-13
