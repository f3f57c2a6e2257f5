"""Agents on images: built, saved, asked, evaluated and filmed; random actions in the evaluation of Atari."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDict, TensorDictBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from uld_torchrl import Agent, evaluate_run, load, make_env
from uld_torchrl.config import AgentConfig, AtariConfig, PixelConfig, override, preset
from uld_torchrl.envs import TaskSpaces, task_spaces
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import evaluate
from uld_torchrl.trainers.evaluation import eval_epsilon, make_eval_env

DEBUG = override(preset("debug"), ["model.conv_channels=2", "pixels.frame_size=40", "atari.frame_size=40"])
SPACES = {
    "discrete": TaskSpaces(Box(0, 255, (9, 40, 40), np.uint8), Discrete(3, start=5), 3),
    "continuous": TaskSpaces(Box(0, 255, (4, 40, 40), np.uint8), Box(-2, 6, (2,), np.float32), 4),
}


def agent_of(kind: str) -> Agent:
    torch.manual_seed(0)
    return Agent.build("custom/Camera", SPACES[kind], DEBUG)


def stacks(kind: str, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SPACES[kind].observation.shape), np.uint8)


# The agent


@pytest.mark.parametrize("kind", SPACES)
def test_predict_takes_one_stack_or_many(kind: str) -> None:
    agent, observations = agent_of(kind), stacks(kind, 5)
    many = agent.predict(observations)
    assert many.shape == (5, *agent.action_space.shape)
    for observation, action in zip(observations, many, strict=True):
        alone = agent.predict(observation)
        assert alone in agent.action_space
        np.testing.assert_allclose(alone, action, rtol=1e-5)
    np.testing.assert_array_equal(agent.predict(torch.from_numpy(observations)), many)


def test_predict_is_the_policy_of_the_environment() -> None:
    agent, observations = agent_of("continuous"), stacks("continuous", 5)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        td = agent.policy(TensorDict({"pixels": torch.from_numpy(observations)}, batch_size=[5]))
    np.testing.assert_allclose(agent.predict(observations), 2 + 4 * td["action"].numpy(), rtol=1e-6)
    assert td["action"].std() > 0
    noisy = agent.predict(observations, deterministic=False)
    assert (noisy != agent.predict(observations)).any()


def test_predict_says_what_an_observation_is() -> None:
    agent = agent_of("discrete")
    with pytest.raises(InputError, match=r"uint8 of the shape \(9, 40, 40\).*stack_frames"):
        agent.predict(np.zeros((40, 40, 3), np.uint8))
    for given, name in ((torch.float32, "float32"), (torch.float64, "float64"), (torch.bfloat16, "float64")):
        with pytest.raises(InputError, match=rf"or \(B, 9, 40, 40\) for a batch, got {name} of the shape"):
            agent.predict(torch.zeros(9, 40, 40, dtype=given))


@pytest.mark.parametrize("kind", SPACES)
def test_predict_reads_arrays_however_they_lie_in_memory(kind: str) -> None:
    agent, observations = agent_of(kind), stacks(kind, 5)
    backwards = observations[:, :, ::-1, ::-1]
    np.testing.assert_array_equal(agent.predict(backwards), agent.predict(backwards.copy()))
    locked = observations.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(agent.predict(locked), agent.predict(observations))
    np.testing.assert_array_equal(locked, observations)


@pytest.mark.parametrize("kind", SPACES)
def test_an_empty_batch_has_no_actions(kind: str) -> None:
    agent = agent_of(kind)
    actions = agent.predict(stacks(kind, 0))
    assert (actions.shape, actions.dtype) == ((0, *agent.action_space.shape), agent.action_space.dtype)


@pytest.mark.parametrize("kind", SPACES)
def test_an_agent_is_saved_with_its_frames(kind: str, tmp_path: Path) -> None:
    agent = agent_of(kind)
    agent.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["frames"] == SPACES[kind].frames
    loaded = Agent.load(tmp_path)
    assert (loaded.spaces, loaded.config) == (SPACES[kind], DEBUG)
    np.testing.assert_array_equal(loaded.predict(stacks(kind, 8)), agent.predict(stacks(kind, 8)))


def test_a_raw_image_space_is_refused() -> None:
    raw = TaskSpaces(Box(0, 255, (96, 96, 3), np.uint8), Discrete(2))
    with pytest.raises(InputError, match=r"custom/Camera has .*without a number of frames.*make_env"):
        Agent.build("custom/Camera", raw)


# Evaluation


class Levers(gymnasium.Env):
    """Episodes of fifty steps; remembers the actions, and draws noise."""

    observation_space = Box(0, 255, (8, 8), np.uint8)

    def __init__(self, continuous: bool = False) -> None:
        self.action_space = Box(-1, 1, (2,)) if continuous else Discrete(4)
        self.played: list[Any] = []

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.played.append([])
        return self._draw(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.played[-1].append(np.array(action).tolist())
        return self._draw(), 1.0, False, len(self.played[-1]) == 50, {}

    def _draw(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (8, 8), np.uint8)


def always_zero(td: TensorDictBase) -> TensorDictBase:
    return td.set("action", ZERO[td["pixels"].shape[0]])


ZERO = {count: torch.nn.functional.one_hot(torch.zeros(count, dtype=torch.int64), 4) for count in (2, 20)}


def played(epsilon: float, seed: int = 0, lanes: int = 20, policy: Callable[..., Any] = always_zero) -> Any:
    env = make_env(Levers, num_envs=lanes)
    evaluate(env, policy, seed=seed, epsilon=epsilon)
    return np.array([next(filter(None, lane.unwrapped.played)) for lane in env._env.envs])


def test_random_actions_are_as_frequent_as_epsilon_and_uniform() -> None:
    assert (played(0.0) == 0).all()
    actions = played(0.4)
    counts = np.bincount(actions.ravel(), minlength=4)
    assert actions.shape == (20, 50) and counts.sum() == 1000
    # 300 of 1000 are expected to be other ones than 0: each third has mean 100, sd 9.5.
    assert all(abs(count - 100) < 40 for count in counts[1:])
    every = np.bincount(played(1.0).ravel(), minlength=4)
    assert all(abs(count - 250) < 70 for count in every)


def test_random_actions_repeat_with_the_seed_and_differ_between_lanes() -> None:
    assert (played(0.5, seed=1) == played(0.5, seed=1)).all()
    assert (played(0.5, seed=1) != played(0.5, seed=2)).any()
    assert len(np.unique(played(0.5), axis=0)) == 20
    assert not (played(0.5) == 0).all(0).any(), "all lanes leave the policy alone at the same time"


def test_random_actions_move_no_other_random_stream() -> None:
    """With epsilon nearly 0 a sampling policy and the environment see what they see with none at all."""
    seen: list[torch.Tensor] = []

    def sampling(td: TensorDictBase) -> TensorDictBase:
        choice = torch.randint(4, td["pixels"].shape[:1])
        seen.extend([td["pixels"].clone(), choice])
        return td.set("action", torch.nn.functional.one_hot(choice, 4))

    before = torch.get_rng_state()
    without = played(0.0, lanes=2, policy=sampling)
    first, seen = list(seen), []
    with_epsilon = played(1e-12, lanes=2, policy=sampling)
    assert (without == with_epsilon).all() and len(first) == len(seen) == 100
    assert all(torch.equal(one, other) for one, other in zip(first, seen, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_random_continuous_actions_fill_the_range() -> None:
    env = make_env(lambda: Levers(continuous=True), num_envs=2)
    evaluate(env, lambda td: td.set("action", torch.full((2, 2), 0.5)), seed=0, epsilon=1.0)
    actions = np.array([next(filter(None, lane.unwrapped.played)) for lane in env._env.envs])
    assert (np.abs(actions) <= 1).all() and actions.min() < -0.8 and actions.max() > 0.8
    assert len(np.unique(actions)) == actions.size == 200


@pytest.mark.parametrize("epsilon", [-0.1, 1.5, float("nan")])
def test_epsilon_must_be_a_probability(epsilon: float) -> None:
    with pytest.raises(InputError, match=r"epsilon must lie in \[0, 1\], got"):
        evaluate(make_env(Levers, num_envs=2), always_zero, seed=0, epsilon=epsilon)


def test_only_atari_is_evaluated_with_random_actions() -> None:
    config = AgentConfig(atari=AtariConfig(eval_epsilon=0.25))
    assert eval_epsilon("atari/Pong", config) == 0.25 and eval_epsilon("atari/Pong", AgentConfig()) == 1e-3
    for env_id in ("gym/CartPole-v1", "dmc-pixels/walker-walk", "custom/AtariEnv", "gym/ALE/Pong-v5"):
        assert eval_epsilon(env_id, config) == 0.0


def test_evaluation_sees_the_images_of_training() -> None:
    config = AgentConfig(pixels=PixelConfig(frame_size=40, frame_stack=2), atari=AtariConfig(frame_stack=3))
    assert task_spaces(make_eval_env(Levers, 2, config=config)).observation.shape == (2, 40, 40)
    assert task_spaces(make_eval_env("atari/Pong", 1, config=config)).observation.shape == (3, 84, 84)


# Playing a saved agent


def saved(folder: Path, config: AgentConfig) -> Path:
    torch.manual_seed(0)
    env = make_env("atari/Pong", pixels=config.pixels, atari=config.atari)
    Agent.for_env("atari/Pong", env, config).save(folder)
    return folder


def test_a_saved_agent_is_evaluated_and_filmed_by_its_own_protocol(tmp_path: Path) -> None:
    config = override(DEBUG, ["atari.max_frames=40", "atari.frame_stack=2", "atari.eval_epsilon=0.0"])
    folder = saved(tmp_path, config)
    outcome = evaluate_run(folder, episodes=2, seed=3, video=True)
    assert outcome.result.lengths.tolist() == [10, 10]
    assert outcome.video == tmp_path / "videos" / "seed3.mp4"
    assert [file.name for file in outcome.video.parent.iterdir()] == ["seed3.mp4"]
    video, frames = cv2.VideoCapture(str(outcome.video)), []
    while (frame := video.read()[1]) is not None:
        frames.append(frame)
    video.release()
    assert len(frames) == 11 and frames[0].shape == (210, 160, 3)
    assert load(folder).spaces == task_spaces(make_env("atari/Pong", atari=config.atari))


def test_a_saved_agent_plays_the_random_actions_of_its_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def spy(*arguments: Any, epsilon: float, **options: Any) -> Any:
        given.append(epsilon)
        return evaluate(*arguments, epsilon=epsilon, **options)

    monkeypatch.setattr("uld_torchrl.trainers.playback.evaluate", spy)
    config = override(DEBUG, ["atari.max_frames=8", "atari.eval_epsilon=0.5"])
    evaluate_run(saved(tmp_path, config), episodes=1, video=True)
    assert given == [0.5, 0.5]


def test_a_film_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = iter([np.zeros((64, 64, 3), np.uint8)] * 2)

    def broken(env: Any) -> np.ndarray:
        for frame in good:
            return frame
        raise RuntimeError("the camera is hot")

    folder = saved(tmp_path, override(DEBUG, ["atari.max_frames=40"]))
    monkeypatch.setattr("uld_torchrl.trainers.playback.render_frame", broken)
    with pytest.raises(RuntimeError, match="the camera is hot"):
        evaluate_run(folder, episodes=1, video=True)
    assert list((tmp_path / "videos").iterdir()) == []


# A run


def test_a_run_makes_its_environments_by_its_settings(
    make_trainer: Callable[..., Any], tiny: AgentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["atari.frame_size=40", "atari.frame_stack=2", "atari.max_frames=8", "atari.eval_epsilon=0.5"]
    cut = ["atari.terminal_on_life_loss=true", "atari.clip_rewards=true", "model.conv_channels=2"]
    config = override(tiny, [*settings, *cut])
    given: list[float] = []

    def spy(*arguments: Any, epsilon: float, **options: Any) -> Any:
        given.append(epsilon)
        return evaluate(*arguments, epsilon=epsilon, **options)

    monkeypatch.setattr("uld_torchrl.trainers.reporter.evaluate", spy)
    with closing(make_trainer(tmp_path, "atari/Breakout", config=config)) as trainer:
        for env in (trainer.env, trainer.eval_env):
            assert env.observation_spec["pixels"].shape == (1, 2, 40, 40)
        train, evaluation = (str(env._env.envs[0]) for env in (trainer.env, trainer.eval_env))
        assert "ClipReward" in train and "ClipReward" not in evaluation
        assert trainer._evaluate().lengths.tolist() == [2] and given == [0.5]


def test_a_run_on_an_object_makes_its_environments_by_its_settings(
    make_trainer: Callable[..., Any], tiny: AgentConfig, tmp_path: Path
) -> None:
    config = override(tiny, ["pixels.frame_size=40", "pixels.frame_stack=2", "model.conv_channels=2"])
    with closing(make_trainer(tmp_path, Levers, config=config)) as trainer:
        assert [task_spaces(env).frames for env in (trainer.env, trainer.eval_env)] == [2, 2]
        assert trainer.agent.spaces == task_spaces(trainer.env)
