"""Gymnasium's toy-text tables: read rightly, compared with worlds built from their rules, traps shown.

The oracle is value iteration in plain Python on the environment's own table, once with ``done``
respected and once without: the second is the trap, and its wrong value is asserted too.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from theory import (
    InputError,
    Policy,
    TabularMDP,
    certified_v,
    cliff_walking,
    frozen_lake,
    optimal,
    random_walk,
    river_swim,
)


def table_values(
    table: dict, gamma: float, *, respect_done: bool, zero: frozenset[int] = frozenset(), to: float = 1e-11
) -> np.ndarray:
    """Optimal values by sweeps over ``P[s][a]`` until none moves by ``to``; states of ``zero`` stay 0."""
    v, change = [0.0] * len(table), 1.0
    rows = {
        s: [
            [(float(p), int(t), float(r), done and respect_done) for p, t, r, done in table[s][a]]
            for a in table[s]
        ]
        for s in table
        if s not in zero
    }
    while change > to:
        change = 0.0
        for s, actions in rows.items():
            best = max(
                sum(p * (r + (0.0 if end else gamma * v[t])) for p, t, r, end in row) for row in actions
            )
            change, v[s] = max(change, abs(best - v[s])), best
    return np.array(v)


def entered_by_done(table: dict) -> set[int]:
    return {int(t) for s in table for a in table[s] for _, t, _, done in table[s][a] if done}


@pytest.fixture(scope="module")
def taxi() -> gymnasium.Env:
    return gymnasium.make("Taxi-v4")


@pytest.mark.parametrize(
    ("name", "options", "world"),
    [
        ("FrozenLake-v1", {}, frozen_lake(gamma=0.9)),
        ("FrozenLake-v1", {"is_slippery": False}, frozen_lake(gamma=0.9, slippery=False)),
        ("FrozenLake-v1", {"map_name": "8x8"}, frozen_lake("8x8", 0.9)),
        ("CliffWalking-v1", {}, cliff_walking(0.9)),
    ],
    ids=["lake", "dry_lake", "lake_8x8", "cliff"],
)
def test_worlds_built_from_their_rules_equal_gymnasium_tables(name, options, world):
    mdp = TabularMDP.from_gym(gymnasium.make(name, **options), 0.9)
    assert mdp.P.tolist() == world.P.tolist()
    assert mdp.r.tolist() == world.r.tolist()
    assert mdp.terminal.tolist() == world.terminal.tolist()
    assert mdp.start.tolist() == world.start.tolist()


def test_probabilities_are_snapped_to_thirds_only_if_asked():
    env = gymnasium.make("FrozenLake-v1")
    snapped, raw = (TabularMDP.from_gym(env, 0.9, rationalize=flag) for flag in (True, False))
    assert set(snapped.P[snapped.live_states()].reshape(-1).tolist()) == {0.0, 1 / 3, 2 / 3}
    assert set(raw.P[raw.live_states()].reshape(-1).tolist()) - {0.0, 1 / 3, 2 / 3}
    assert np.abs(snapped.P - raw.P).max() < 1e-15


def test_a_successor_listed_twice_counts_twice():
    """At the corner, left and down both leave state 0 where it is: 2/3, as one entry."""
    mdp = TabularMDP.from_gym(gymnasium.make("FrozenLake-v1"), 0.9)
    assert mdp.P[0, 0, [0, 4]].tolist() == [2 / 3, 1 / 3]


def test_terminal_states_loop_and_pay_nothing_although_the_table_pays(taxi):
    table = taxi.unwrapped.P
    mdp = TabularMDP.from_gym(taxi, 0.99)
    ends = np.flatnonzero(mdp.terminal)
    assert ends.tolist() == sorted(entered_by_done(table)) == [0, 85, 410, 475]
    assert any(r != 0 for s in ends.tolist() for a in table[s] for _, _, r, _ in table[s][a])
    assert not mdp.r[ends].any()
    assert (mdp.P[ends, :, ends] == 1.0).all()


def test_taxi_values_are_the_published_digits(taxi):
    mdp = TabularMDP.from_gym(taxi, 0.99)
    assert np.count_nonzero(mdp.start) == 300
    best, uniform = optimal(mdp), certified_v(mdp, Policy.uniform(mdp))
    assert mdp.start @ best.v == pytest.approx(6.3274643, abs=5e-8)
    assert best.v.sum() == pytest.approx(2915.406186, rel=1e-9)
    assert mdp.start @ uniform.value == pytest.approx(-384.80404, abs=5e-6)
    assert max(best.error_bound, uniform.error_bound) < 1e-8


def test_taxi_by_hand_masked_unmasked_and_endless(taxi):
    """The two traps: terminal states valued by their own paying rows, and runs that never end."""
    table = taxi.unwrapped.P
    mdp = TabularMDP.from_gym(taxi, 0.99)
    masked = table_values(table, 0.99, respect_done=True, zero=frozenset(entered_by_done(table)))
    assert np.abs(optimal(mdp).v - masked).max() < 1e-9
    unmasked = table_values(table, 0.99, respect_done=True)
    assert unmasked.sum() == pytest.approx(4711.42, abs=5e-3)
    assert mdp.start @ unmasked == pytest.approx(6.3274643, abs=5e-8)  # runs from the start do not notice
    endless = table_values(table, 0.99, respect_done=False, to=1e-5)
    assert mdp.start @ endless == pytest.approx(835.04, abs=1e-2)


@pytest.mark.parametrize(
    ("name", "options", "gamma", "start", "right", "trap"),
    [
        ("CliffWalking-v1", {}, 0.99, 36, -(1 - 0.99**13) / 0.01, -100.0),
        ("FrozenLake-v1", {}, 0.99, 0, 0.542025932, 0.542025932),
    ],
    ids=["cliff", "lake"],
)
def test_ignoring_done_gives_the_wrong_value_where_the_table_goes_on(
    name, options, gamma, start, right, trap
):
    """FrozenLake's terminal rows loop for nothing, so there the trap does not show; on the cliff it does."""
    env = gymnasium.make(name, **options)
    table = env.unwrapped.P
    assert optimal(TabularMDP.from_gym(env, gamma)).v[start] == pytest.approx(right, rel=1e-8)
    assert table_values(table, gamma, respect_done=True)[start] == pytest.approx(right, rel=1e-8)
    assert table_values(table, gamma, respect_done=False)[start] == pytest.approx(trap, rel=1e-8)


class Toy:
    """An environment that is only a table."""

    def __init__(self, table: dict, start: list[float] | None = None) -> None:
        self.P = table
        if start is not None:
            self.initial_state_distrib = np.array(start)


def test_an_end_that_belongs_to_the_transition_gets_a_state_of_its_own():
    """State 1 is entered both ways; marking it terminal would cut the runs that pass through it."""
    table = {
        0: {0: [(0.5, 1, 1.0, True), (0.5, 1, 0.0, False)]},
        1: {0: [(1.0, 0, 2.0, False)]},
    }
    mdp = TabularMDP.from_gym(Toy(table, [1.0, 0.0]), 0.5)
    assert mdp.terminal.tolist() == [False, False, True]
    assert mdp.P[0, 0].tolist() == [0.0, 0.5, 0.5]
    assert mdp.start.tolist() == [1.0, 0.0, 0.0]
    # V0 = 1/2 + (1/4) V1 and V1 = 2 + V0 / 2
    assert certified_v(mdp, Policy.uniform(mdp)).value == pytest.approx([8 / 7, 18 / 7, 0.0])


def test_states_that_no_run_visits_do_not_make_an_end_ambiguous():
    table = {
        0: {0: [(1.0, 1, 1.0, True)]},
        1: {0: [(1.0, 1, 5.0, False)]},
        2: {0: [(1.0, 1, 0.0, False)]},
    }
    assert TabularMDP.from_gym(Toy(table, [1.0, 0.0, 0.0]), 0.5).terminal.tolist() == [False, True, False]
    assert TabularMDP.from_gym(Toy(table), 0.5).num_states == 4


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({0: {0: [(0.6, 0, 0.0, False), (0.5, 0, 0.0, False)]}}, "sum to 1, got 1.1 at state 0, action 0"),
        ({0: {0: [(float("nan"), 0, 0.0, False)]}}, "Probability at state 0, action 0 must .* got nan"),
        (
            {0: {0: [(1.0, 0, 0.0, False)], 1: [(-1.0, 0, 0.0, False)]}},
            "Probability at state 0, action 1 must be at least 0 and finite, got -1.0",
        ),
        ({0: {0: [("a", 0, 0.0, False)]}}, "Probability at state 0, action 0 must be a number .* got 'a'"),
        ({0: {0: [(1.0, 0, float("inf"), False)]}}, "Reward at state 0, action 0 must be finite, got inf"),
        ({0: {0: [(1.0, 0, "a", False)]}}, "Reward at state 0, action 0 must be a number"),
        (
            {0: {0: [(1.0, 0.5, 0.0, False)]}},
            "Next state at state 0, action 0 must be a whole number, got 0.5",
        ),
        ({0: {0: [(1.0, -1, 0.0, False)]}}, "Next state at state 0, action 0 must be at least 0, got -1"),
        ({0: {0: [(1.0, 0, 0.0)]}}, r"An outcome is .* got \(1.0, 0, 0.0\) at state 0, action 0"),
        ({0: {0: [1.0]}}, "An outcome is .* got 1.0 at state 0, action 0"),
        ({0: 5}, "each action of state 0 to its outcomes, got 5"),
        (
            {0: {0: [(1.0, 0, 0.0, False)]}, 1: {0: [(1.0, 0, 0.0, False)], 1: [(1.0, 0, 0.0, False)]}},
            "The table has nothing for state 0, action 1",
        ),
        ({0: {0: [(1.0, 3, 0.0, False)]}}, "Next state 3 at state 0, action 0 does not exist; there are 1"),
        ({0: {0: [(1.0, 0, 0.0, False)]}, 1: {}}, "nothing for state 1, action 0"),
        ({}, "needs an environment with a table"),
    ],
)
def test_bad_tables_are_named(table, message):
    with pytest.raises(InputError, match=message):
        TabularMDP.from_gym(Toy(table), 0.9)


def test_an_environment_without_a_table_or_a_bare_name_is_refused():
    with pytest.raises(InputError, match=r"table P\[state\]\[action\].*CartPoleEnv has none"):
        TabularMDP.from_gym(gymnasium.make("CartPole-v1"), 0.9)
    with pytest.raises(InputError, match=r"pass gymnasium.make\('Taxi-v4'\)"):
        TabularMDP.from_gym("Taxi-v4", 0.9)


def test_a_start_of_another_length_is_refused():
    with pytest.raises(InputError, match="each of the 1 states, got 2"):
        TabularMDP.from_gym(Toy({0: {0: [(1.0, 0, 0.0, False)]}}, [0.5, 0.5]), 0.9)
    with pytest.raises(InputError, match="initial_state_distrib must be at least 0 and finite, got nan"):
        TabularMDP.from_gym(Toy({0: {0: [(1.0, 0, 0.0, False)]}}, [float("nan")]), 0.9)


@pytest.mark.parametrize(("miss", "fits"), [(9e-10, True), (-9e-10, True), (2e-9, False), (-2e-9, False)])
def test_a_row_of_a_table_may_miss_one_by_a_billionth(miss, fits):
    toy = Toy({0: {0: [(0.5, 0, 0.0, False), (0.5 + miss, 0, 0.0, False)]}})
    if fits:
        assert TabularMDP.from_gym(toy, 0.9).P.tolist() == [[[1.0]]]
        return
    with pytest.raises(InputError, match="sum to 1"):
        TabularMDP.from_gym(toy, 0.9)


def test_bad_worlds_are_named():
    for make, message in (
        (lambda: frozen_lake("5x5"), "map_name must be one of 4x4, 8x8; got '5x5'"),
        (lambda: frozen_lake(desc=["SF", "G"]), "rows of one length"),
        (lambda: frozen_lake(desc=["FF", "FG"]), "with an S"),
        (lambda: frozen_lake(desc=["SX", "FG"]), "letters S, F, H, G"),
        (lambda: frozen_lake(desc=[]), "rows of one length"),
        (lambda: frozen_lake(desc=[""]), "rows of one length"),
        (lambda: frozen_lake(desc=[1, 2]), "rows of one length"),
        (lambda: frozen_lake([]), "map_name must be one of 4x4, 8x8"),
        (lambda: river_swim(2), "num_states must be at least 3, got 2"),
        (lambda: river_swim(6.5), "num_states must be a whole number, got 6.5"),
        (lambda: random_walk(0), "num_states must be at least 1, got 0"),
        (lambda: random_walk(5.0), "num_states must be a whole number, got 5.0"),
        (lambda: random_walk(right="a"), "right must be a number"),
        (lambda: random_walk(left=float("nan")), "left must be finite"),
    ):
        with pytest.raises(InputError, match=message):
            make()


def test_the_river_is_the_stated_table():
    river = river_swim()
    assert river.P[0].tolist() == [[1, 0, 0, 0, 0, 0], [0.4, 0.6, 0, 0, 0, 0]]
    assert river.P[3].tolist() == [[0, 0, 1, 0, 0, 0], [0, 0, 0.05, 0.6, 0.35, 0]]
    assert river.P[5].tolist() == [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0.4, 0.6]]
    assert river.r.tolist() == [[0.005, 0]] + [[0, 0]] * 4 + [[0, 1]]
    assert river.start.tolist() == [1, 0, 0, 0, 0, 0]
