"""Garnets and their generator: reference values of splitmix64, uniformity, structure, golden MDP."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from theory import InputError, garnet
from theory.splitmix import SplitMix64


def plain_splitmix(seed: int, count: int) -> list[int]:
    """The published algorithm in Python integers."""
    mask, found = 2**64 - 1, []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        found.append(z ^ (z >> 31))
    return found


def test_the_stream_has_the_published_numbers():
    """From the reference implementation with seed 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert SplitMix64(1234567).bits(4).tolist() == expected


@given(seed=st.integers(0, 2**64 - 1))
def test_the_stream_is_the_plain_algorithm_however_it_is_cut(seed):
    stream = SplitMix64(seed)
    pieces = [*stream.bits(3).tolist(), *stream.bits(1).tolist(), *stream.bits(4).tolist()]
    assert pieces == plain_splitmix(seed, 8)


def test_uniform_numbers_are_the_top_53_bits():
    expected = [(x >> 11) / 2**53 for x in plain_splitmix(7, 6)]
    assert SplitMix64(7).uniform(2, 3).reshape(-1).tolist() == expected


@pytest.mark.parametrize(("size", "limit"), [(1, 5), (2, 5), (3, 4)])
def test_subsets_are_distinct_and_uniform(size, limit):
    chosen = np.sort(SplitMix64(1).subsets(20_000, size, limit), axis=1)
    assert (np.diff(chosen, axis=1) > 0).all()
    kinds, counts = np.unique(chosen, axis=0, return_counts=True)
    expected = 20_000 / len(kinds)
    assert len(kinds) == {(1, 5): 5, (2, 5): 10, (3, 4): 4}[size, limit]
    assert ((counts - expected) ** 2 / expected).sum() < 30.0  # chi-square, at most 9 degrees of freedom


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (-1, "seed must be at least 0, got -1"),
        (2**64, r"seed must be from 0 to 2\*\*64 - 1, got 18446744073709551616"),
        (1.5, "seed must be a whole number, got 1.5"),
        (None, "seed must be a whole number, got None"),
    ],
)
def test_a_seed_out_of_range_is_refused(seed, message):
    with pytest.raises(InputError, match=message):
        garnet(2, 1, 1, 0.9, seed=seed)


def test_the_largest_seed_is_a_seed():
    assert SplitMix64(2**64 - 1).bits(2).tolist() == plain_splitmix(2**64 - 1, 2)
    assert SplitMix64(np.int64(7)).bits(1).tolist() == plain_splitmix(7, 1)


@given(
    seed=st.integers(0, 2**32),
    states=st.integers(2, 9),
    actions=st.integers(1, 3),
    data=st.data(),
)
def test_a_garnet_has_the_size_and_branching_asked_for(seed, states, actions, data):
    branching = data.draw(st.integers(1, states))
    ends = data.draw(st.integers(0, states - 1))
    mdp = garnet(states, actions, branching, 0.9, seed=seed, num_terminal=ends)
    live = mdp.live_states()
    assert len(live) == states - ends
    assert ((mdp.P[live] > 0).sum(axis=2) == branching).all()
    assert np.abs(mdp.P.sum(axis=2) - 1.0).max() < 1e-15
    assert (np.abs(mdp.r) <= 1.0).all()
    assert mdp.start[live] == pytest.approx(np.full(len(live), 1 / len(live)))


def test_a_sparse_garnet_is_the_same_garnet():
    dense, thin = (garnet(7, 2, 3, 0.9, seed=5, dense=dense) for dense in (True, False))
    assert sparse.issparse(thin.P)
    assert thin.P.toarray().tolist() == dense.rows.tolist()
    assert thin.r.tolist() == dense.r.tolist()


def test_a_seed_names_one_garnet_for_good():
    mdp = garnet(3, 1, 2, 0.9, seed=42)
    stream = plain_splitmix(42, 12)
    unit = [(x >> 11) / 2**53 for x in stream]
    first = [int(u * 2) for u in unit[:3]]  # Floyd: a number below 2, then one below 3
    second = [2 if int(u * 3) == a else int(u * 3) for u, a in zip(unit[3:6], first, strict=True)]
    for s in range(3):
        expected = np.zeros(3)
        expected[first[s]], expected[second[s]] = unit[6 + s], 1.0 - unit[6 + s]
        assert mdp.P[s, 0] == pytest.approx(expected, abs=1e-15)
        assert mdp.r[s, 0] == 2.0 * unit[9 + s] - 1.0


@pytest.mark.parametrize(
    ("sizes", "ends", "message"),
    [
        ((0, 1, 1), 0, "num_states must be at least 1, got 0"),
        ((2, 0, 1), 0, "num_actions must be at least 1, got 0"),
        ((2, 1, 3), 0, "branching must be at most the 2 states, got 3"),
        ((2, 1, 0), 0, "branching must be at least 1, got 0"),
        ((2, 1, 1), 2, "num_terminal must be from 0 to 1, got 2"),
        ((2, 1, 1), -1, "num_terminal must be at least 0, got -1"),
        ((3.5, 1, 1), 0, "num_states must be a whole number, got 3.5"),
        ((3, 1.0, 1), 0, "num_actions must be a whole number, got 1.0"),
        ((3, 1, "2"), 0, "branching must be a whole number, got '2'"),
        ((3, 1, 1), 0.5, "num_terminal must be a whole number, got 0.5"),
    ],
)
def test_bad_sizes_are_named(sizes, ends, message):
    with pytest.raises(InputError, match=message):
        garnet(*sizes, 0.9, seed=1, num_terminal=ends)
