"""Image observations: the stacks are the last frames and no others, whatever way they come in.

The environment paints frames that tell lane, episode and time apart, so that each stack can be worked out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import cloudpickle
import cv2
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers import FrameStackObservation, GrayscaleObservation, ResizeObservation
from torchrl.envs import EnvBase
from torchrl.envs.utils import check_env_specs

from uld_torchrl.config import PixelConfig
from uld_torchrl.envs import (
    TaskSpaces,
    make_env,
    observation_stack,
    share_environments,
    stack_frames,
    task_from_json,
    task_spaces,
    task_to_json,
)
from uld_torchrl.envs.spaces import check_spaces
from uld_torchrl.errors import InputError

# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SMALL = PixelConfig(frame_size=8, frame_stack=3)
LENGTHS = (4, 1, 6, 2)
TRUNCATED = (False, True, True, False)


def frame(shape: tuple[int, ...], lane: int, episode: int, time: int) -> np.ndarray:
    return np.random.default_rng([lane, episode, time]).integers(0, 256, shape, np.uint8)


class Painted(gymnasium.Env):
    """Episodes of LENGTHS, over and over; paints every frame into the same array."""

    action_space = Discrete(2)

    def __init__(self, lane: int = 0, shape: tuple[int, ...] = (8, 8, 3), dtype: Any = np.uint8) -> None:
        self.lane, self.episode, self.shape = lane, -1, shape
        self.observation_space = Box(0, 255, shape, dtype)
        self.canvas = np.zeros(shape, dtype)

    def _paint(self) -> np.ndarray:
        self.canvas[...] = frame(self.shape, self.lane, self.episode, self.time)
        return self.canvas

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.episode, self.time = self.episode + 1, 0
        return self._paint(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        end = self.time == LENGTHS[self.episode % 4]
        truncated = TRUNCATED[self.episode % 4]
        return self._paint(), float(self.time), end and not truncated, end and truncated, {}


def lanes_of(shape: tuple[int, ...], count: int = 2) -> SyncVectorEnv:
    return SyncVectorEnv([partial(Painted, lane, shape) for lane in range(count)])


def expected(lane: int, steps: int, shape: tuple[int, ...], k: int) -> list[tuple]:
    """Return (stack before, stack after, ended) of each step, worked out frame by frame."""

    def stack(episode: int, time: int) -> np.ndarray:
        frames = [frame(shape, lane, episode, max(time - back, 0)) for back in reversed(range(k))]
        planes = [f[None] if f.ndim == 2 else f if len(f) <= 4 else np.moveaxis(f, -1, 0) for f in frames]
        return np.concatenate(planes)

    records, episode, time = [], 0, 0
    for _ in range(steps):
        ended = time + 1 == LENGTHS[episode % 4]
        records.append((stack(episode, time), stack(episode, time + 1), ended))
        episode, time = (episode + 1, 0) if ended else (episode, time + 1)
    return records


def rollout(env: EnvBase, steps: int = 30) -> Any:
    torch.manual_seed(0)
    return env.rollout(steps, break_when_any_done=False)


@pytest.mark.parametrize("k", [1, 3, 4])
@pytest.mark.parametrize("shape", [(8, 8, 3), (3, 8, 8), (8, 8), (8, 8, 1), (4, 8, 8)])
def test_every_stack_is_the_last_frames_oldest_first(shape: tuple[int, ...], k: int) -> None:
    steps = rollout(make_env(lanes_of(shape), pixels=PixelConfig(frame_size=8, frame_stack=k)))
    for lane in range(2):
        for time, (before, after, ended) in enumerate(expected(lane, 30, shape, k)):
            record = steps[lane, time]
            np.testing.assert_array_equal(record["pixels"].numpy(), before)
            np.testing.assert_array_equal(record["next", "pixels"].numpy(), after)
            assert bool(record["next", "done"]) == ended


def test_the_specs_hold_and_name_pixels_only() -> None:
    env = make_env(lanes_of((8, 8, 3)), pixels=SMALL)
    check_env_specs(env)
    spec = env.observation_spec["pixels"]
    assert list(env.observation_spec.keys()) == ["pixels"]
    assert spec.dtype == torch.uint8 and spec.shape == (2, 9, 8, 8)
    steps = rollout(env, 3)
    assert "observation" not in steps and "observation" not in steps["next"]
    assert steps["pixels"].dtype == steps["next", "pixels"].dtype == torch.uint8
    assert steps["next", "reward"].dtype == torch.float32


def test_images_stay_bytes_on_the_way_to_torch() -> None:
    env = make_env(lanes_of((8, 8, 3)), pixels=SMALL)
    lanes = env._env
    assert lanes.reset()[0].dtype == lanes.step(np.zeros(2, int))[0].dtype == lanes._rows.dtype == np.uint8


def test_stored_steps_do_not_change_later() -> None:
    env = make_env(lanes_of((8, 8)), pixels=SMALL)
    stored, carried = env.step_and_maybe_reset(env.rand_action(env.reset()))
    copy = stored.clone()
    for _ in range(6):
        _, carried = env.step_and_maybe_reset(env.rand_action(carried))
    assert (stored == copy).all()


# Size and colours


def by_gymnasium(env: gymnasium.Env, gray: bool, size: int, k: int) -> gymnasium.Env:
    env = GrayscaleObservation(env, keep_dim=True) if gray else env
    return FrameStackObservation(ResizeObservation(env, (size, size)), k)


class Fresh(gymnasium.ObservationWrapper):
    """A copy of each frame, which Gymnasium's wrappers alone would need."""

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation.copy()


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("size", [5, 12, 40])
def test_frames_are_those_of_gymnasiums_wrappers(gray: bool, size: int) -> None:
    shape = (20, 30, 3)
    config = PixelConfig(frame_size=size, frame_stack=2, grayscale=gray)
    ours = stack_frames(Painted(0, shape), config)
    theirs = by_gymnasium(Fresh(Painted(0, shape)), gray, size, 2)
    assert ours.observation_space == Box(0, 255, (2 if gray else 6, size, size), np.uint8)
    pairs = [(ours.reset()[0], theirs.reset()[0])]
    pairs += [(ours.step(0)[0], theirs.step(0)[0]) for _ in range(4)]
    for observed, wanted in pairs:
        np.testing.assert_array_equal(observed, np.concatenate(np.moveaxis(wanted, -1, 1)))
        assert observed in ours.observation_space


@pytest.mark.parametrize("shape", [(20, 30, 3), (3, 20, 30), (20, 30)])
def test_resizing_averages_areas_in_every_layout(shape: tuple[int, ...]) -> None:
    observed, _ = stack_frames(Painted(0, shape), PixelConfig(frame_size=10, frame_stack=1)).reset()
    painted = frame(shape, 0, 0, 0)
    picture = np.moveaxis(painted, 0, -1) if len(shape) == 3 and shape[0] == 3 else painted
    resized = cv2.resize(picture, (10, 10), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(observed, np.moveaxis(np.atleast_3d(resized), -1, 0))


def test_gray_of_one_channel_is_what_it_was() -> None:
    gray = stack_frames(Painted(0, (8, 8)), PixelConfig(frame_size=8, grayscale=True)).reset()[0]
    np.testing.assert_array_equal(gray, np.repeat(frame((8, 8), 0, 0, 0)[None], 3, 0))


def test_the_published_size_is_the_default() -> None:
    env = make_env(partial(Painted, 0, (30, 40, 3)))
    assert env.observation_spec["pixels"].shape == (1, 9, 84, 84)
    assert task_spaces(env) == TaskSpaces(Box(0, 255, (9, 84, 84), np.uint8), Discrete(2), frames=3)


def test_environments_without_images_are_left_as_they_are() -> None:
    env = gymnasium.make("CartPole-v1")
    assert stack_frames(env) is env
    assert make_env(partial(Painted, 0, (128,))).observation_spec["observation"].shape == (1, 128)
    stacked = stack_frames(Painted(), SMALL)
    assert stack_frames(stacked) is stacked


def test_the_toy_form_of_carracing_by_its_id() -> None:
    gymnasium.register("Painted-v0", partial(Painted, 0, (96, 96, 3)))
    try:
        env = make_env("Painted-v0", num_envs=2, pixels=PixelConfig(frame_stack=2))
        assert env.observation_spec["pixels"].shape == (2, 6, 84, 84)
        assert check_env_specs(env) is None
    finally:
        del gymnasium.registry["Painted-v0"]


def test_carracing() -> None:
    pytest.importorskip("Box2D", reason='CarRacing-v3 needs: pip install "gymnasium[box2d]"')
    raw = gymnasium.make("CarRacing-v3")
    raw.reset(seed=0)  # make_env has begun an episode with its seed
    drawn = [raw.reset()[0]] * 3
    with closing(make_env("CarRacing-v3", seed=0)) as env:
        td = env.reset()
        for _ in range(5):
            small = [cv2.resize(image, (84, 84), interpolation=cv2.INTER_AREA) for image in drawn]
            wanted = np.concatenate([np.moveaxis(image, -1, 0) for image in small])
            np.testing.assert_array_equal(td["pixels"][0].numpy(), wanted)
            td = env.step(td.set("action", torch.zeros(1, 3)))["next"]
            drawn = [*drawn[1:], raw.step(np.array([0, 0.5, 0.5], np.float32))[0]]
    raw.close()


# Ways in


def _wrapped() -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(Painted(), 99)


WAYS: dict[str, Callable[[], Any]] = {
    "callable": lambda: Painted,
    "wrapped callable": lambda: _wrapped,
    "object": Painted,
    "wrapped object": _wrapped,
    "vector": lambda: SyncVectorEnv([Painted]),
}


@pytest.mark.parametrize("way", WAYS)
def test_names_objects_callables_and_vectors_observe_the_same(way: str) -> None:
    given = WAYS[way]()
    env = make_env(given, pixels=SMALL)
    wanted = rollout(make_env(Painted, pixels=SMALL))["next", "pixels"]
    assert torch.equal(rollout(env)["next", "pixels"], wanted)


def test_an_object_is_recognised_behind_its_stack() -> None:
    painted = Painted()
    assert share_environments(make_env(painted, pixels=SMALL), make_env(painted, pixels=SMALL))
    assert not share_environments(make_env(Painted, pixels=SMALL), make_env(Painted, pixels=SMALL))


def test_workers_give_the_same_bytes_as_this_process() -> None:
    here = rollout(make_env(lanes_of((20, 30, 3), 3), pixels=SMALL))
    with closing(make_env(lanes_of((20, 30, 3), 3), env_workers=2, pixels=SMALL)) as env:
        workers = env._env
        assert workers.reset()[0].dtype == workers.step(np.zeros(3, int))[0].dtype == np.uint8
        check_env_specs(env)
        assert task_spaces(env).frames == 3
    with closing(make_env(lanes_of((20, 30, 3), 3), env_workers=2, pixels=SMALL)) as env:
        there = rollout(env)
    assert there["pixels"].dtype == torch.uint8
    assert (here == there).all()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_vector_environment_of_its_own_kind_is_refused_with_a_way_out(mode: AutoresetMode) -> None:
    vector = VectorWrapper(SyncVectorEnv([Painted] * 2, autoreset_mode=mode))
    with pytest.raises(InputError, match=r"observes images, which is not supported.*num_envs; or a SyncV"):
        make_env(vector)


# Spaces as data, observations for predict


def test_a_task_with_frames_goes_through_json_and_back() -> None:
    task = task_spaces(make_env(Painted, pixels=SMALL))
    data = json.loads(json.dumps(task_to_json(task)))
    assert data["frames"] == 3 and data["observation_space"]["shape"] == [9, 8, 8]
    assert task_from_json(data) == task
    vector = task_to_json(task_spaces(make_env("CartPole-v1")))
    assert "frames" not in vector and task_from_json(vector).frames is None


@pytest.mark.parametrize("frames", [0, -1, 1.5, "3", True, [3]])
def test_a_damaged_number_of_frames_is_refused(frames: Any) -> None:
    data = task_to_json(task_spaces(make_env(Painted, pixels=SMALL)))
    with pytest.raises(InputError, match="frames must be an integer from 1 to"):
        task_from_json({**data, "frames": frames})


@pytest.mark.parametrize(
    ("space", "frames"),
    [
        (Box(0, 255, (9, 8, 8), np.uint8), 2),
        (Box(0, 255, (9, 8, 8), np.uint8), 0),
        (Box(0, 255, (9, 8), np.uint8), 3),
        (Box(0, 255, (9, 8, 8), np.float32), 3),
        (Box(-1, 1, (9,)), 3),
        (Discrete(9), 3),
    ],
)
def test_a_stack_of_another_form_is_refused(space: Space, frames: int) -> None:
    with pytest.raises(InputError, match=f"mine has frames={frames} and the observation space"):
        check_spaces(TaskSpaces(space, Discrete(2), frames), "mine")


def test_stacks_are_read_singly_and_in_batches() -> None:
    space = Box(0, 255, (9, 8, 8), np.uint8)
    one, many = np.full((9, 8, 8), 7, np.uint8), np.zeros((5, 9, 8, 8), np.uint8)
    assert observation_stack(space, one) is one and observation_stack(space, many) is many
    assert observation_stack(space, [one, one]).shape == (2, 9, 8, 8)
    assert observation_stack(space, many[:0]).shape == (0, 9, 8, 8)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((9, 8, 8), np.float32),
        np.zeros((9, 8, 8), np.int64),
        np.zeros((8, 8, 9), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((2, 5, 9, 8, 8), np.uint8),
        [[1], [1, 2]],
    ],
)
def test_other_stacks_are_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"uint8 of the shape \(9, 8, 8\), or .*stack_frames|an array"):
        observation_stack(Box(0, 255, (9, 8, 8), np.uint8), wrong)
