"""Gymnasium's ``RecordVideo`` around what is trained, evaluated or played: its files appear, whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import RecordVideo

from uld_torchrl import Agent, evaluate_run, make_env, preset, train
from uld_torchrl.config import AgentConfig, override
from uld_torchrl.envs import TaskSpaces

pytest.importorskip("moviepy", reason="RecordVideo needs moviepy: pip install moviepy")
LENGTH = 6


class Square(gymnasium.Env[np.ndarray, np.int64]):
    """Episodes of six steps, drawn as one grey value a step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}
    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(2)
    render_mode = "rgb_array"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.zeros(2, np.float32), 1.0, self.time == LENGTH, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        return np.full((64, 64, 3), 20 + 30 * self.time, np.uint8)


@pytest.fixture
def settings() -> AgentConfig:
    quick = ["run.total_steps=30", "run.random_steps=20", "run.checkpoint_every=20", "optim.period=5"]
    return override(preset("debug"), [*quick, "run.eval_every=30", "optim.batch_size=4"])


class Maker:
    """Makes recorded environments, each with a folder of its own: a run makes several."""

    def __init__(self, root: Path) -> None:
        self.root, self.numbers = root, count()

    def __call__(self) -> gymnasium.Env[Any, Any]:
        folder = self.root / f"env{next(self.numbers)}"
        return RecordVideo(
            Square(), str(folder), episode_trigger=lambda episode: episode in (0, 1), disable_logger=True
        )


def greys(video: Path) -> list[float]:
    reader, found = cv2.VideoCapture(str(video)), []
    while (frame := reader.read()[1]) is not None:
        found.append(float(frame.mean()))
    reader.release()
    return found


def whole(root: Path) -> Iterator[Path]:
    """Give the videos that show every state of an episode."""
    wanted = pytest.approx([20 + 30 * time for time in range(LENGTH + 1)], abs=4)  # lossy compression
    yield from (video for video in sorted(root.rglob("*.mp4")) if greys(video) == wanted)


def test_an_environment_of_make_env_is_recorded(tmp_path: Path) -> None:
    env = make_env(Maker(tmp_path)(), seed=0)
    env.rollout(2 * LENGTH, break_when_any_done=False)
    env.close()
    # Episode 0 is the reset that seeds.
    assert [video.name for video in whole(tmp_path)] == ["rl-video-episode-1.mp4"]


def test_training_on_a_callable_records_each_environment_in_its_folder(
    tmp_path: Path, settings: AgentConfig
) -> None:
    result = train(settings, Maker(tmp_path / "films"), run_dir=tmp_path / "runs", progress=False)
    assert result.return_mean == LENGTH
    assert len({video.parent for video in whole(tmp_path / "films")}) > 1  # training, evaluation


def test_evaluation_of_a_run_is_recorded(tmp_path: Path, settings: AgentConfig) -> None:
    result = train(settings, Square, run_dir=tmp_path / "runs", progress=False)
    played = evaluate_run(result.path, env=Maker(tmp_path / "films"), episodes=3)
    assert played.result.returns.tolist() == [LENGTH] * 3
    assert len({video.parent for video in whole(tmp_path / "films")}) == 3


def test_a_plain_loop_with_predict_is_recorded(tmp_path: Path) -> None:
    env = Maker(tmp_path)()
    agent = Agent.build("toy", TaskSpaces(env.observation_space, env.action_space), preset("debug"))
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        observation, _, terminated, truncated, _ = env.step(agent.predict(observation))
        over = terminated or truncated
    env.close()
    assert len(list(whole(tmp_path))) == 1
