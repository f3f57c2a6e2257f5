"""TabularMDP: what is accepted, how it is stored, which mistakes are named, exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from theory import InputError, TabularMDP, garnet

P = [
    [[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]],
    [[0.0, 0.0, 1.0], [0.25, 0.25, 0.5]],
    [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]],
]
R = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
ENDS = [False, False, True]


def changed(index: tuple[int, ...], value: float) -> np.ndarray:
    array = np.array(P)
    array[index] = value
    return array


def test_an_mdp_keeps_what_it_was_given_except_the_rows_of_terminal_states():
    mdp = TabularMDP.from_dense(P, R, 0.9, terminal=ENDS)
    assert (mdp.num_states, mdp.num_actions, mdp.gamma) == (3, 2, 0.9)
    assert mdp.P[:2].tolist() == P[:2]
    assert mdp.r.tolist() == [[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]
    assert mdp.start.tolist() == [0.5, 0.5, 0.0]
    assert mdp.rows.shape == (6, 3)
    assert mdp.rows[3].tolist() == [0.25, 0.25, 0.5]


def test_rows_of_a_terminal_state_become_loops_whatever_they_were():
    for broken in (np.zeros(3), np.array([0.3, 0.3, 0.3]), np.array([1.0, 0.0, 0.0])):
        mdp = TabularMDP.from_dense(changed((2, 0), broken), R, 0.9, terminal=ENDS)
        assert mdp.P[2].tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]


def test_a_sparse_mdp_is_the_same_mdp():
    dense = TabularMDP.from_dense(P, R, 0.9, terminal=ENDS)
    thin = TabularMDP(sparse.coo_array(np.array(P).reshape(6, 3)), R, 0.9, ENDS)
    assert sparse.issparse(thin.P)
    assert thin.rows.toarray().tolist() == dense.rows.tolist()
    assert thin.live_states(0).tolist() == dense.live_states(0).tolist()


def test_entries_that_a_sparse_matrix_lists_twice_are_summed():
    twice = sparse.csr_array(
        (np.array([0.25, 0.75, 1.0]), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 2)
    )
    mdp = TabularMDP(twice, [[0], [0]], 0.9)
    assert mdp.P.nnz == 2
    assert mdp.P.toarray().tolist() == [[0, 1], [1, 0]]


def test_arrays_cannot_be_written_and_are_copies():
    given_P = np.array(P)
    mdp = TabularMDP.from_dense(given_P, R, 0.9)
    given_P[:] = 7.0
    assert mdp.P.max() == 1.0
    for array in (mdp.P, mdp.r, mdp.terminal, mdp.start):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_float32_is_accepted_and_its_rows_sum_to_one_in_float64():
    thirds = np.full((3, 1, 3), 1 / 3, dtype=np.float32)
    mdp = TabularMDP.from_dense(thirds, np.zeros((3, 1), dtype=np.float32), 0.9)
    assert mdp.P.dtype == np.float64
    assert np.abs(mdp.P.sum(axis=2) - 1.0).max() < 1e-15
    with pytest.raises(InputError, match="sum to 1"):
        TabularMDP.from_dense(thirds.astype(np.float64) * (1 + 1e-6), np.zeros((3, 1)), 0.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"P": changed((1, 1, 0), 0.35)}, "sum to 1, got 1.1 at state 1, action 1"),
        ({"P": changed((1, 1, 0), 0.15)}, "sum to 1, got 0.9 at state 1, action 1"),
        ({"P": changed((0, 1, 2), np.nan)}, "P must be finite, got nan at state 0, action 1"),
        ({"P": changed((0, 1, 2), np.inf)}, "P must be finite, got inf at state 0, action 1"),
        ({"P": changed((1, 0), [-0.5, 0.5, 1.0])}, "negative, got -0.5 at state 1, action 0"),
        ({"P": np.array(P)[:, :, :2]}, r"P must have shape \(3, 2, 3\) .*, got \(3, 2, 2\)"),
        ({"P": np.array(P) + 1j}, "real numbers, got an array of complex128"),
        ({"r": [[1, 2], [3, np.nan], [5, 6]]}, "r must be finite, got nan at state 1, action 1"),
        ({"r": [1, 2, 3]}, r"r must have shape \(states, actions\).*\(3,\)"),
        ({"gamma": 1.1}, r"gamma must lie in \[0, 1\], got 1.1"),
        ({"gamma": -0.1}, r"gamma must lie in \[0, 1\], got -0.1"),
        ({"gamma": float("nan")}, r"gamma must lie in \[0, 1\], got nan"),
        ({"gamma": "much"}, r"gamma must be a number and lie in \[0, 1\], got 'much'"),
        ({"terminal": [True, True, True]}, "Every state is terminal"),
        ({"terminal": [0, 0, 1]}, "True or False for each state, got int64"),
        ({"terminal": [True]}, r"terminal must have shape \(3,\)"),
        ({"start": [0.5, 0.0, 0.5]}, "start gives state 2 probability, which is terminal"),
        ({"start": [0.5, 0.4, 0.0]}, "start must sum to 1, got 0.9"),
        ({"start": [1.5, -0.5, 0.0]}, "start must not be negative, got -0.5 at state 1"),
    ],
)
def test_bad_input_is_named_with_its_place(arguments, message):
    with pytest.raises(InputError, match=message):
        TabularMDP(**({"P": P, "r": R, "gamma": 0.9, "terminal": ENDS} | arguments))


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        ((1, 1, 0), 0.35, "sum to 1, got 1.1 at state 1, action 1"),
        ((0, 1, 2), np.nan, "P must be finite, got nan at state 0, action 1"),
        ((1, 0), [-0.5, 0.5, 1.0], "negative, got -0.5 at state 1, action 0"),
    ],
)
def test_bad_sparse_rows_are_named_with_their_place(index, value, message):
    with pytest.raises(InputError, match=message):
        TabularMDP(sparse.csr_array(changed(index, value).reshape(6, 3)), R, 0.9, ENDS)
    with pytest.raises(InputError, match=r"P must have shape \(6, 3\)"):
        TabularMDP(sparse.csr_array(np.eye(3)), R, 0.9)


def test_the_bad_row_of_a_sparse_matrix_is_found_behind_empty_rows():
    rows = np.zeros((6, 3))
    rows[5, 1] = np.nan
    with pytest.raises(InputError, match="got nan at state 2, action 1"):
        TabularMDP(sparse.csr_array(rows), R, 0.9)


def test_rewards_of_transitions_are_averaged():
    pays = np.zeros((3, 2, 3))
    pays[1, 1] = [4.0, 8.0, 2.0]
    assert TabularMDP.from_dense(P, pays, 0.9).r.tolist() == [[0, 0], [0, 4.0], [0, 0]]


def test_transitions_are_collected_and_repeated_ones_summed():
    rows = [(0, 0, 1, 0.25, 8.0), (0, 0, 1, 0.25, 0.0), (0, 0, 0, 0.5, 2.0), (1, 0, 1, 1.0, -1.0)]
    for dense in (True, False):
        mdp = TabularMDP.from_transitions(rows, 0.5, dense=dense)
        assert np.asarray(mdp.rows[[0]] if dense else mdp.rows[[0]].toarray()).tolist() == [[0.5, 0.5]]
        assert mdp.r.tolist() == [[3.0], [-1.0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one transition"),
        ([(0, 0, 0, 1.0)], r"next_state, probability, reward\); row 0 is \(0, 0, 0, 1.0\)"),
        ([(0, 0, 0, 1.0, 0.0), 7], r"row 1 is 7"),
        ([(0.7, 0, 0, 1.0, 0.0)], "state must be a whole number, got 0.7 at row 0"),
        ([(0, -0.5, 0, 1.0, 0.0)], "action must be a whole number, got -0.5 at row 0"),
        ([(0, 0, 0, 1.0, 0.0), (0, 0, 0.5, 1.0, 0.0)], "next state must be a whole number, got 0.5 at row 1"),
        ([(1e30, 0, 0, 1.0, 0.0)], r"state must be a whole number, got 1e\+30 at row 0"),
        ([(0, 0, 0, 1.5, 0.0), (0, 0, 0, -0.5, 0.0)], "probability must not be negative, got -0.5 at row 1"),
        ([(0, 0, 0, "a", 0.0)], "rows must hold real numbers"),
        ([(0, 0, [0], 1.0, 0.0)], "rows must be an array, every row of the same length"),
        ([(0, 0, 0, 1.0, 0.0), (-1, 0, 0, 1.0, 0.0)], "state -1 does not exist"),
        ([(0, 2, 0, 1.0, 0.0)], "action 2 does not exist; there are 1"),
        ([(0, 0, 5, 1.0, 0.0)], "next state 5 does not exist"),
        ([(0, 0, 0, float("nan"), 0.0)], "finite, got nan at row 0"),
        ([(0, 0, 0, 0.9, 0.0)], "sum to 1, got 0.9 at state 0, action 0"),
    ],
)
def test_bad_transitions_are_named(rows, message):
    with pytest.raises(InputError, match=message):
        TabularMDP.from_transitions(rows, 0.9, shape=(1, 1))


def test_a_missing_row_is_named_when_the_shape_is_counted():
    with pytest.raises(InputError, match="sum to 1, got 0 at state 1, action 0"):
        TabularMDP.from_transitions([(0, 0, 1, 1.0, 0.0)], 0.9)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("start", [2, 3]),
        (1, [1, 2, 3]),
        ([3], [3]),
        ([0, 3], [0, 1, 2, 3]),
        (np.array([0.0, 0.0, 0.5, 0.5, 0.0]), [2, 3]),
        (np.array([False, False, False, True, False]), [3]),
        (4, []),
    ],
)
def test_live_states_are_all_or_those_that_can_be_reached(sources, expected):
    rows = [(s, 0, s + 1, 1.0, 0.0) for s in range(4)]
    mdp = TabularMDP.from_transitions(
        rows, 0.9, terminal=[False] * 4 + [True], start=[0, 0, 1, 0, 0], shape=(5, 1)
    )
    assert mdp.live_states(reachable_from=sources).tolist() == expected


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("end", "reachable_from must be 'start', a state"),
        (5, "state 5 does not exist; there are 3"),
        (-1, "state -1 does not exist; there are 3"),
        ([0, 9], "state 9 does not exist; there are 3"),
        ([0.5, 0.5], "reachable_from must be 'start', a state"),
        ([], "reachable_from must be 'start', a state"),
        ([[0], [0, 1]], "reachable_from must be an array, every row of the same length"),
        ([np.nan, 1.0, 0.0], "reachable_from must be finite, got nan at state 0"),
        ([1.0, 1.0, -1.0], "reachable_from must not be negative, got -1 at state 2"),
    ],
)
def test_a_source_that_does_not_exist_is_refused(sources, message):
    mdp = garnet(3, 1, 1, 0.9, seed=0)
    with pytest.raises(InputError, match=message):
        mdp.live_states(sources)


def test_nothing_is_reached_through_a_terminal_state():
    loops = [[[0, 1, 0]], [[0, 0, 1]], [[1, 0, 0]]]
    mdp = TabularMDP.from_dense(loops, np.zeros((3, 1)), 0.9, terminal=[False, True, False])
    assert mdp.live_states(reachable_from=0).tolist() == [0]
    assert mdp.live_states(reachable_from=2).tolist() == [0, 2]


def test_the_exact_mdp_has_simple_fractions_and_rows_that_sum_to_one():
    thirds = [[[0.33333333333333337, 0.3333333333333333, 0.33333333333333337]]] * 2 + [[[0, 0, 1]]]
    exact = TabularMDP.from_dense(thirds, [[0.1], [-0.7], [0]], 0.99, terminal=ENDS).to_exact()
    assert ({0: Fraction(1, 3), 1: Fraction(1, 3), 2: Fraction(1, 3)},) * 2 + ({2: Fraction(1)},) == exact.P
    assert exact.r == ((Fraction(1, 10),), (Fraction(-7, 10),), (Fraction(0),))
    assert (exact.gamma, exact.terminal) == (Fraction(99, 100), (False, False, True))
    assert exact.start == (Fraction(1, 2), Fraction(1, 2), Fraction(0))
    assert 0.0 < exact.largest_change < 1e-15


@given(seed=st.integers(0, 2**32))
def test_exact_rows_sum_to_one_and_stay_near_the_floats(seed):
    mdp = garnet(4, 2, 3, 0.9, seed=seed)
    mdp = TabularMDP.from_dense(mdp.P**2 / (mdp.P**2).sum(axis=2, keepdims=True), mdp.r, 0.9)
    exact = mdp.to_exact()
    assert all(sum(row.values()) == 1 for row in exact.P)
    assert all(
        abs(float(p) - mdp.rows[i, j]) < 1e-15 for i, row in enumerate(exact.P) for j, p in row.items()
    )
    assert exact.largest_change < 1e-15


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1.5, 1), "states of shape must be a whole number, got 1.5"),
        ((1, 0), "actions of shape must be at least 1, got 0"),
        ((1, 1, 1), r"shape must be \(states, actions\), got \(1, 1, 1\)"),
    ],
)
def test_a_shape_is_two_whole_numbers(shape, message):
    with pytest.raises(InputError, match=message):
        TabularMDP.from_transitions([(0, 0, 0, 1.0, 0.0)], 0.9, shape=shape)


def test_whole_numbers_may_come_as_floats_in_one_table():
    table = np.array([[0, 0, 1, 1.0, 2.0], [1, 0, 0, 1.0, 0.0]])
    assert TabularMDP.from_transitions(table, 0.5).P[:, 0].tolist() == [[0, 1], [1, 0]]


def test_a_complex_sparse_matrix_is_refused_as_a_dense_one_is():
    with pytest.raises(InputError, match="P must hold real numbers, got an array of complex128"):
        TabularMDP(sparse.csr_array(1j * np.eye(2)), [[0], [0]], 0.9)


def test_rewards_of_transitions_need_dense_transitions():
    with pytest.raises(InputError, match="P must be a dense array, got a sparse one"):
        TabularMDP.from_dense(sparse.csr_array(np.eye(1)), [[[1.0]]], 0.9)


@pytest.mark.parametrize(
    ("kind", "within", "beyond"), [("f8", 9e-10, 2e-9), ("f4", 9e-6, 2e-5), ("f2", 9e-3, 2e-2)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_row_may_miss_one_by_the_rounding_of_its_type(kind, within, beyond, sign):
    ends, no_reward = [False, True], np.zeros((2, 1))

    def rows(miss: float) -> np.ndarray:
        return np.array([[[0.5, 0.5 + sign * miss]], [[0, 1]]], dtype=kind)

    def start(miss: float) -> np.ndarray:
        return np.array([1.0 + sign * miss, 0.0], dtype=kind)

    mdp = TabularMDP(rows(within), no_reward, 0.9, ends, start(within))
    assert mdp.P[0].sum() == pytest.approx(1.0, abs=1e-15) and mdp.start[0] == 1.0
    with pytest.raises(InputError, match="Probabilities must sum to 1"):
        TabularMDP(rows(beyond), no_reward, 0.9, ends)
    with pytest.raises(InputError, match="start must sum to 1"):
        TabularMDP(rows(0.0), no_reward, 0.9, ends, start(beyond))
