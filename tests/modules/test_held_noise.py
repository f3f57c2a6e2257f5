"""Exploration noise that is held over steps: exactly how long, from when on, and what it is added to.

Whole runs with it are in ``trainers/test_later_options.py``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.data import Bounded, OneHot, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from uld_torchrl import make_networks, make_policy
from uld_torchrl.config import AgentConfig, override, preset
from uld_torchrl.modules import ExplorationNoise
from uld_torchrl.modules.exploration import held_noise
from uld_torchrl.modules.held_noise import HeldNoise

RANDOM, QUIET = ExplorationType.RANDOM, ExplorationType.DETERMINISTIC
BOX, CHOICE = Bounded(-1, 1, (2,)), OneHot(2)
LANES, LENGTH = 2, 8
MASKS = st.lists(st.lists(st.booleans(), min_size=LANES, max_size=LANES), min_size=LENGTH, max_size=LENGTH)


@settings(max_examples=40)
@given(repeat=st.integers(1, 5), begins=MASKS, by_call=st.booleans())
def test_each_lane_holds_its_noise_for_so_many_steps_of_its_episode(
    repeat: int, begins: list[list[bool]], by_call: bool
) -> None:
    """The oracle goes through one lane after the other."""
    drawn = torch.randn(LENGTH, LANES, 2)
    held, used = HeldNoise(repeat), []
    for noise, mask in zip(drawn, torch.tensor(begins), strict=True):
        if by_call:
            held.forget(mask)
        used.append(held(noise, None if by_call else mask.unsqueeze(-1)))
    for lane in range(LANES):
        taken_at = age = 0
        for step in range(LENGTH):
            if step == 0 or begins[step][lane] or age == repeat:
                taken_at, age = step, 0
            age += 1
            assert torch.equal(used[step][lane], drawn[taken_at][lane])


def test_noise_of_other_lanes_than_before_is_taken_whole() -> None:
    held = HeldNoise(3)
    held(torch.zeros(2, 1))
    assert held(torch.ones(4, 1)).tolist() == [[1.0]] * 4
    assert held(torch.full((4, 1), 2.0)).tolist() == [[1.0]] * 4


def test_all_lanes_forget_at_once() -> None:
    held = HeldNoise(3)
    held.forget(torch.ones(2, dtype=torch.bool))  # nothing yet
    held(torch.zeros(2, 1))
    held.forget()
    assert held(torch.ones(2, 1)).tolist() == [[1.0]] * 2


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_saved_hold_goes_on_where_it_was(steps: int) -> None:
    drawn = torch.randn(8, 2, 1)
    one, other = HeldNoise(3), HeldNoise(3)
    for noise in drawn[:steps]:
        one(noise)
    other.load_state_dict(one.state_dict())
    assert all(torch.equal(one(noise), other(noise)) for noise in drawn[steps:])


# In the policy's action


def acted(noise: ExplorationNoise, steps: int = 7, lanes: int = 2, **entries: Any) -> list[torch.Tensor]:
    """Return the actions of some steps in which the policy's is 0, or as given."""
    torch.manual_seed(0)
    with set_exploration_type(RANDOM):
        return [
            noise(TensorDict({"action": torch.zeros(lanes, 2), **entries}, [lanes]))["action"]
            for _ in range(steps)
        ]


def test_box_noise_is_that_of_every_third_step_without_holding() -> None:
    """Also the random stream has then moved on as without."""
    plain, after = acted(ExplorationNoise(BOX, 0.1)), torch.rand(1)
    held, later = acted(ExplorationNoise(BOX, 0.1, repeat=3)), torch.rand(1)
    assert all(torch.equal(held[step], plain[step // 3 * 3]) for step in range(7))
    assert not torch.equal(plain[0], plain[1]) and torch.equal(after, later)


def test_held_noise_is_added_to_the_action_of_each_step() -> None:
    noise = ExplorationNoise(BOX, 0.1, repeat=4)
    with set_exploration_type(RANDOM):
        first = noise(TensorDict(action=torch.zeros(2)))["action"]
        second = noise(TensorDict(action=torch.tensor([0.25, -0.5])))["action"]
    assert torch.allclose(second - first, torch.tensor([0.25, -0.5]))


def test_an_entry_that_an_episode_begins_takes_new_noise_in_its_lane() -> None:
    noise, plain = ExplorationNoise(BOX, 0.1, repeat=9), acted(ExplorationNoise(BOX, 0.1), 3)
    begun = torch.tensor([[False], [True]])
    held = acted(noise, 3, is_init=begun)
    assert all(torch.equal(action[0], plain[0][0]) for action in held)
    assert all(torch.equal(held[step][1], plain[step][1]) for step in range(3))


def chosen(noise: ExplorationNoise, sample: list[float], logits: list[float]) -> int:
    td = TensorDict(action=torch.tensor(sample), pre_activation=torch.tensor(logits))
    with set_exploration_type(RANDOM):
        return int(noise(td)["action"].int().argmax())


def test_the_gumbel_noise_of_a_choice_is_held_and_the_logits_are_those_of_each_step() -> None:
    """By hand, temperature 2: a sample (.6, .4) of equal logits says g_0 - g_1 = 2 log 1.5 = .81."""
    noise = ExplorationNoise(CHOICE, 0.0, repeat=4, tau=2.0)
    assert chosen(noise, [0.6, 0.4], [0.0, 0.0]) == 0
    assert chosen(noise, [0.1, 0.9], [0.0, 0.0]) == 0  # the new sample does not count,
    assert chosen(noise, [0.9, 0.1], [0.0, 0.80]) == 0  # the new logits do
    assert chosen(noise, [0.9, 0.1], [0.0, 0.82]) == 1
    assert chosen(noise, [0.1, 0.9], [0.0, 0.0]) == 1  # four steps are over


def test_the_first_step_of_a_hold_takes_the_policys_own_sample() -> None:
    entries = {"action": torch.rand(200, 2).softmax(-1), "pre_activation": torch.randn(200, 2)}
    plain = acted(ExplorationNoise(CHOICE, 0.1), 4, 200, **entries)
    held = acted(ExplorationNoise(CHOICE, 0.1, repeat=3), 4, 200, **entries)
    assert torch.equal(held[0], plain[0]) and torch.equal(held[3], plain[3])
    assert torch.equal(held[1], held[0]) and not torch.equal(plain[1], plain[0])


def test_the_gaussian_noise_of_a_choice_is_held_too() -> None:
    entries = {"action": torch.full((200, 2), 0.5), "pre_activation": torch.zeros(200, 2)}
    held = acted(ExplorationNoise(CHOICE, 0.1, repeat=3), 4, 200, **entries)
    assert torch.equal(held[0], held[2]) and not torch.equal(held[0], held[3])


def test_a_sample_that_has_no_room_for_a_choice_is_no_error() -> None:
    noise = ExplorationNoise(CHOICE, 0.0, repeat=2, tau=1e-3)
    assert [chosen(noise, [1.0, 0.0], [0.0, 0.0]) for _ in range(2)] == [0, 0]


def test_acting_without_exploring_neither_holds_nor_moves_on() -> None:
    noise = ExplorationNoise(BOX, 0.1, repeat=2)
    first = acted(noise, 1)[0]
    with set_exploration_type(QUIET):
        assert not noise(TensorDict(action=torch.zeros(2, 2), batch_size=[2]))["action"].any()
    assert torch.equal(acted(noise, 1)[0], first)


def test_a_greedy_copy_takes_new_noise_each_time_and_leaves_the_hold_alone() -> None:
    noise = ExplorationNoise(BOX, 0.1, repeat=3)
    first = acted(noise, 1)[0]
    a, b = acted(noise.as_greedy(), 2)
    assert not torch.equal(a, b)
    assert torch.equal(acted(noise, 1)[0], first)


@pytest.mark.parametrize("spec", [BOX, CHOICE])
def test_a_policy_holds_its_noise_as_the_settings_say(spec: Any) -> None:
    settings = ["loss.exploration_noise_repeat=5", "model.gumbel_tau=3"]
    for config, repeat, tau in (
        (override(preset("debug"), settings), 5, 3.0),
        (AgentConfig(model=preset("debug").model), 1, 10.0),
    ):
        policy: Any = make_policy(make_networks(Unbounded(3), spec, config.model), spec, config)
        assert (held_noise(policy).repeat, policy[-1].tau) == (repeat, tau)
        assert held_noise(policy) is policy[-1].held


def test_a_policy_without_such_noise_holds_none() -> None:
    assert held_noise(torch.nn.Linear(1, 1)).repeat == 1
