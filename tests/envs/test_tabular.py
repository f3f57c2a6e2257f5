"""Tabular environments: what they draw against P and the start, what they observe, pay and refuse.

Frequencies are judged by the bound of Weissman et al. (2003): n draws from p on k points have
P(|p_n - p|_1 >= e) <= (2^k - 2) exp(-n e^2 / 2). All judgements of a test together are wrong with probability
at most ``FALSE_ALARM``; a wrong P is refused by the same judge.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import theory
from uld_torchrl.envs import TabularEnv, make_env, named_mdp, render_frame, state_observations
from uld_torchrl.errors import InputError

FALSE_ALARM = 1e-9
DRAWS = 1500


def sparse_garnet(seed: int = 1) -> theory.TabularMDP:
    return theory.garnet(8, 2, 3, 0.9, seed=seed, num_terminal=2, dense=False)


MDPS = {
    "slippery lake": named_mdp("frozenlake4x4"),
    "chain": named_mdp("chain"),
    "river": named_mdp("riverswim"),
    "sparse Garnet": sparse_garnet(),
    "one action": named_mdp("randomwalk"),
    "bare chain": named_mdp("catalogue-boyan_chain"),
}


def radius(points: int, draws: int, judged: int) -> float:
    """The distance |p_n - p|_1 that one of ``judged`` draws exceeds with probability FALSE_ALARM at most."""
    if points == 1:
        return 0.0
    return math.sqrt(2.0 / draws * (math.log(2.0**points - 2.0) + math.log(judged / FALSE_ALARM)))


def refused(counts: np.ndarray, rows: np.ndarray, judged: int) -> list[int]:
    """Return the rows whose counts cannot come from their probabilities."""
    wrong = []
    for row, (count, p) in enumerate(zip(counts, rows, strict=True)):
        distance = np.abs(count / count.sum() - p).sum()
        far = distance > radius(np.count_nonzero(p), count.sum(), judged) + 1e-12
        if far or count[p == 0.0].any():
            wrong.append(row)
    return wrong


def count_steps(mdp: theory.TabularMDP, draws: int = DRAWS) -> np.ndarray:
    """Return how often each live pair led to each state, (live pairs, S); check reward and end on the way."""
    env = TabularEnv(mdp)
    env.reset(seed=12)
    live = mdp.live_states()
    counts = np.zeros((len(live), mdp.num_actions, mdp.num_states), np.int64)
    for index, state in enumerate(live.tolist()):
        for action in range(mdp.num_actions):
            for _ in range(draws):
                env.reset(options={"state": state})
                observation, reward, terminated, truncated, info = env.step(action)
                counts[index, action, info["state"]] += 1
                assert observation.argmax() == info["state"] == env.state and observation.sum() == 1.0
                assert reward == mdp.r[state, action]
                assert (terminated, truncated) == (mdp.terminal[info["state"]], False)
    return counts.reshape(-1, mdp.num_states)


def live_rows(mdp: theory.TabularMDP) -> np.ndarray:
    rows = mdp.rows.toarray() if sparse.issparse(mdp.rows) else np.asarray(mdp.rows)
    return rows[np.repeat(~mdp.terminal, mdp.num_actions)]


@pytest.mark.parametrize("name", MDPS)
def test_next_states_come_as_often_as_p_says(name: str) -> None:
    mdp = MDPS[name]
    rows = live_rows(mdp)
    assert refused(count_steps(mdp), rows, len(rows)) == []


def test_the_judge_refuses_a_wrong_p() -> None:
    mdp = MDPS["slippery lake"]
    rows, sure = live_rows(mdp), live_rows(named_mdp("frozenlake4x4-deterministic"))
    counts = count_steps(mdp)
    wrong = 0.5 * rows + 0.5 * sure
    far = np.flatnonzero(np.abs(wrong - rows).sum(axis=1) > 2.0 * radius(3, DRAWS, len(rows)))
    assert len(far) > len(rows) / 2 and set(far) <= set(refused(counts, wrong, len(rows)))
    moved = np.flatnonzero((sure != rows).any(axis=1))  # what a sure step cannot reach was reached
    assert refused(counts, sure, len(rows)) == moved.tolist()
    shifted = np.roll(rows, 1, axis=1)
    assert len(refused(counts, shifted, len(rows))) == len(rows)


def test_episodes_begin_as_often_as_the_start_says() -> None:
    start = np.array([0.5, 0.0, 0.3, 0.2, 0.0])
    P = np.zeros((5, 1, 5))
    P[:, 0, 4] = 1.0
    mdp = theory.TabularMDP(P, np.ones((5, 1)), 0.9, np.arange(5) == 4, start)
    env = TabularEnv(mdp)
    env.reset(seed=3)
    counts = np.bincount([env.reset()[1]["state"] for _ in range(DRAWS)], minlength=5)
    assert refused(counts[None], start[None], 1) == []
    assert refused(counts[None], np.array([[0.3, 0.0, 0.5, 0.2, 0.0]]), 1) == [0]
    assert refused(counts[None], np.array([[0.8, 0.0, 0.0, 0.2, 0.0]]), 1) == [0]


def drawing(env: TabularEnv, uniform: float) -> TabularEnv:
    env.np_random = SimpleNamespace(random=lambda: uniform)  # type: ignore[assignment]
    return env


@given(st.lists(st.integers(0, 5), min_size=2, max_size=9).filter(sum), st.booleans())
def test_of_evenly_spaced_numbers_each_state_gets_its_exact_share(parts: list[int], dense: bool) -> None:
    total, size = sum(parts), len(parts)
    exact = [part * (64 // total) for part in parts]
    exact[int(np.argmax(parts))] += 64 - sum(exact)  # in 64ths, so that sums are exact
    rows = np.tile(np.array(exact) / 64, (size, 1))
    P = rows.reshape(size, 1, size) if dense else sparse.csr_array(rows)
    mdp = theory.TabularMDP(P, np.zeros((size, 1)), 0.5, start=rows[0])
    env = TabularEnv(mdp)
    after, first = [], []
    for number in range(64):
        first.append(drawing(env, number / 64).reset()[1]["state"])
        after.append(env.step(0)[4]["state"])
    assert np.bincount(after, minlength=size).tolist() == exact
    assert np.bincount(first, minlength=size).tolist() == exact


def test_the_largest_number_draws_the_last_possible_state_though_sums_round() -> None:
    row = np.array([0.1] * 10 + [0.0])
    assert np.cumsum(row)[-1] < 1.0
    mdp = theory.TabularMDP(np.tile(row, (11, 1))[:, None], np.zeros((11, 1)), 0.9, start=row)
    env = drawing(TabularEnv(mdp), 1.0 - 2.0**-53)
    assert env.reset()[1] == {"state": 9} and env.step(0)[4] == {"state": 9}


def play(env: gymnasium.Env, seed: int | None, steps: int = 60) -> list[Any]:
    """Return states, rewards and ends of a run that begins anew where an episode ends."""
    actions = np.random.default_rng(5).integers(env.action_space.n, size=steps)  # type: ignore[attr-defined]
    seen: list[Any] = [env.reset(seed=seed)[1]["state"]]
    for action in actions:
        _, reward, terminated, truncated, info = env.step(action)
        seen.append((info["state"], reward, terminated, truncated))
        if terminated or truncated:
            seen.append(env.reset()[1]["state"])
    return seen


def test_a_seed_says_everything_and_the_discount_nothing() -> None:
    lake = [named_mdp("frozenlake4x4", gamma) for gamma in (0.99, 0.0)]
    first = play(TabularEnv(lake[0]), 7)
    before = np.random.get_state()[1].copy()
    assert play(TabularEnv(lake[0]), 7) == first == play(TabularEnv(lake[1]), 7)
    assert play(TabularEnv(lake[0]), 8) != first
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    reused = TabularEnv(lake[0])
    play(reused, 8)
    assert play(reused, 7) == first
    assert play(TabularEnv(lake[0], "coordinates"), 7) == first


def test_copies_go_on_alike_and_apart() -> None:
    env = TabularEnv("frozenlake4x4")
    env.reset(seed=1)
    twin, thawed = copy.deepcopy(env), pickle.loads(pickle.dumps(env))
    expected = play(env, None)
    assert play(twin, None) == expected == play(thawed, None)


EMBEDDING = np.random.default_rng(0).normal(size=(16, 3))
EMBEDDING[:, 1] = 1.0  # a constant entry, of which Gymnasium warns where a Box has no room for it
OBSERVATIONS: dict[str, Any] = {
    "one_hot": "one_hot",
    "coordinates": "coordinates",
    "embedding": EMBEDDING,
    "integers": np.arange(32).reshape(16, 2),
    "zeros": np.zeros((16, 1)),
    "list": EMBEDDING.tolist(),
}


@pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_gymnasiums_checker_passes_without_a_warning(kind: str, render_mode: str | None) -> None:
    env = gymnasium.make("tabular/frozenlake4x4", observation=OBSERVATIONS[kind], render_mode=render_mode)
    check_env(env.unwrapped)


@pytest.mark.parametrize("name", MDPS)
def test_gymnasiums_checker_passes_for_every_kind_of_mdp(name: str) -> None:
    for observation, mode in (("coordinates", "ansi"), ("one_hot", "rgb_array")):
        env = gymnasium.make("tabular/mdp", mdp=MDPS[name], observation=observation, render_mode=mode)
        check_env(env.unwrapped)


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_a_state_is_observed_as_its_row(kind: str) -> None:
    env = TabularEnv("frozenlake4x4", OBSERVATIONS[kind])
    rows = state_observations("frozenlake4x4", OBSERVATIONS[kind])
    assert rows.dtype == np.float32 and rows.shape == (16, *env.observation_space.shape)
    np.testing.assert_array_equal(env.observations, rows)
    for state in env.mdp.live_states().tolist():
        np.testing.assert_array_equal(env.reset(options={"state": state})[0], rows[state])
    assert all(env.observation_space.contains(row) for row in rows)
    for observation in (env.reset(options={"state": 14})[0], env.step(2)[0], rows, env.observations):
        observation += 9.0  # what was handed out is the user's
    np.testing.assert_array_equal(
        env.reset(options={"state": 14})[0], state_observations("frozenlake4x4", OBSERVATIONS[kind])[14]
    )


def test_rows_by_hand() -> None:
    np.testing.assert_array_equal(state_observations(MDPS["river"]), np.eye(6))
    lake = state_observations("frozenlake4x4-deterministic", "coordinates")
    np.testing.assert_array_equal(lake[[0, 6, 15]], np.float32([[0, 0], [1 / 3, 2 / 3], [1, 1]]))
    same = state_observations(MDPS["slippery lake"], "coordinates", grid=(4, 4))
    np.testing.assert_array_equal(same, lake)
    cliff = state_observations("cliffwalking", "coordinates")
    np.testing.assert_array_equal(cliff[[11, 36, 40]], np.float32([[0, 1], [1, 0], [1, 4 / 11]]))
    line = state_observations(MDPS["slippery lake"], "coordinates")
    np.testing.assert_array_equal(line, np.float32(np.arange(16) / 15)[:, None])
    narrow = state_observations(MDPS["river"], "coordinates", grid=(6, 1))
    np.testing.assert_array_equal(narrow, np.float32([[k / 5, 0] for k in range(6)]))
    np.testing.assert_array_equal(state_observations("frozenlake4x4", EMBEDDING), np.float32(EMBEDDING))


def test_spaces_are_as_wide_as_what_is_observed() -> None:
    assert TabularEnv("riverswim").observation_space == Box(0, 1, (6,), np.float32)
    assert TabularEnv("cliffwalking", "coordinates").observation_space == Box(0, 1, (2,), np.float32)
    wide = TabularEnv("riverswim", [[-3.5, 0]] * 5 + [[1, 2]]).observation_space
    assert wide == Box(-3.5, 3.5, (2,), np.float32)
    assert TabularEnv("cliffwalking").action_space == Discrete(4)


def test_a_terminal_state_stays_pays_nothing_and_ends() -> None:
    env = TabularEnv("frozenlake4x4-deterministic")
    env.reset(options={"state": 14})
    assert env.step(2)[1:] == (1.0, True, False, {"state": 15})
    assert env.step(0)[1:] == (0.0, True, False, {"state": 15})


def test_continuing_mdps_are_cut_off_but_do_not_terminate() -> None:
    for arguments, length in (({}, 100), ({"max_episode_steps": 7}, 7)):
        env = gymnasium.make("tabular/mdp", mdp=MDPS["river"], **arguments)
        env.reset(seed=0)
        ends = [env.step(1)[2:4] for _ in range(length)]
        assert ends == [(False, False)] * (length - 1) + [(False, True)]


def test_pictures() -> None:
    env = TabularEnv("frozenlake4x4", render_mode="ansi")
    env.reset(options={"state": 6})
    assert env.render() == "....\n.#o#\n...#\n#..#"
    line = TabularEnv(MDPS["slippery lake"], render_mode="ansi")
    line.reset(options={"state": 6})
    assert line.render() == ".....#o#...##..#"
    colours = TabularEnv("frozenlake4x4", render_mode="rgb_array")
    colours.reset(options={"state": 6})
    picture: Any = colours.render()
    assert picture.shape == (480, 480, 3) and picture.dtype == np.uint8
    cells = picture[60::120, 60::120]
    assert (picture.reshape(4, 120, 4, 120, 3) == cells[:, None, :, None]).all()
    letters = np.array([list(row) for row in env.render().split("\n")])  # type: ignore[union-attr]
    for letter in ".#o":
        assert len(np.unique(cells[letters == letter], axis=0)) == 1
    assert len(np.unique(cells.reshape(-1, 3), axis=0)) == 3
    assert TabularEnv("riverswim").render() is None
    film = make_env("tabular/cliffwalking", render=True, seed=0)
    assert render_frame(film).shape == (160, 480, 3)
    unregistered = make_env("tabular/garnet-5-2-2-0", render=True, seed=0)
    assert render_frame(unregistered).shape == (96, 480, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mdp": "frozenlake5x5"}, "Did you mean tabular/frozenlake8x8"),
        ({"mdp": np.eye(3)}, "mdp must be a theory.TabularMDP or a name .* got a ndarray"),
        ({"observation": "onehot"}, "observation must be one of one_hot, coordinates; got 'onehot'"),
        ({"observation": np.zeros((15, 2))}, r"array \(16, n\).* got the shape \(15, 2\)"),
        ({"observation": np.zeros(16)}, r"got the shape \(16,\)"),
        ({"observation": np.zeros((16, 0))}, r"got the shape \(16, 0\)"),
        ({"observation": np.zeros((16, 2, 2))}, r"got the shape \(16, 2, 2\)"),
        (
            {"observation": np.where(np.eye(16) > 0, np.nan, 1)[:, 3:]},
            "finite in float32; that of state 3 is",
        ),
        ({"observation": np.eye(16)[:, 2:] * 1e39}, "finite in float32; that of state 2 is"),
        ({"observation": np.full((16, 1), "a")}, "real numbers; got a ndarray of dtype <U1"),
        ({"observation": np.ones((16, 1), complex)}, "real numbers; got a ndarray of dtype complex128"),
        ({"observation": None}, "real numbers; got a NoneType of dtype object"),
        ({"observation": [[1.0], [1.0, 2.0]]}, "got what makes no array"),
        ({"grid": (4, 5)}, r"grid must have as many cells as the MDP has states, 16; got \(4, 5\)"),
        ({"grid": (-4, -4)}, r"got \(-4, -4\)"),
        ({"grid": ()}, r"got \(\)"),
        ({"grid": 16}, r"grid must be lengths such as \(4, 4\), got 16"),
        ({"grid": (4.0, 4)}, r"got \(4.0, 4\)"),
        ({"render_mode": "human"}, "render_mode must be one of ansi, rgb_array; got 'human'"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TabularEnv(**{"mdp": "frozenlake4x4", **arguments})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": 16}, r"options\['state'\] must be from 0 to 15, got 16"),
        ({"state": -1}, "from 0 to 15, got -1"),
        ({"state": 1.0}, "must be a whole number from 0 to 15, got 1.0"),
        ({"state": 15}, "must not be terminal, got 15"),
        ({"stat": 3}, "options may hold 'state' alone, got stat"),
        ({"state": 3, "seed": 1}, "options may hold 'state' alone"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TabularEnv("frozenlake4x4").reset(options=options)


@pytest.mark.parametrize("action", [4, -1, 1.0, None, np.array([0, 0])])
def test_actions_that_do_not_exist_are_refused(action: Any) -> None:
    env = TabularEnv("frozenlake4x4")
    env.reset(seed=0)
    with pytest.raises(InputError, match=r"action must be .*from 0 to 3, got"):
        env.step(action)


@pytest.mark.parametrize("call", [lambda env: env.step(0), lambda env: env.state, lambda env: env.render()])
def test_nothing_happens_before_reset(call: Any) -> None:
    with pytest.raises(ResetNeeded, match="no episode of this TabularEnv has begun"):
        call(TabularEnv("chain", render_mode="ansi"))


@pytest.mark.parametrize("start", [[0.0, 1.0], [0.5, 0.5], [0.0, 0.0]])
def test_an_mdp_without_live_start_states_cannot_be_made(start: Sequence[float]) -> None:
    with pytest.raises(theory.InputError, match="start"):
        theory.TabularMDP([[[0, 1]], [[0, 1]]], [[1], [0]], 0.9, [False, True], start)
