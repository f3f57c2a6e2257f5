"""Videos of ``uld eval --video``: every state of the episode, and a clear message where none can be drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from uld_torchrl.envs import make_env, render_frame
from uld_torchrl.errors import InputError


def frames_work(env_id: str) -> str | None:
    """Return why an environment cannot be drawn here, None if it can."""
    try:
        env = make_env(env_id, seed=0, render=True)
        env.reset()
        render_frame(env)
    except InputError as error:
        return str(error)
    return None


class Square(gymnasium.Env):
    """Episodes of six steps, drawn as one grey value a step; pays the action."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}
    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.zeros(2, np.float32), 1.0, self.time == 6, False, {}

    def render(self) -> np.ndarray:
        return np.full((64, 64, 3), 20 + 30 * self.time, np.uint8)


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    gymnasium.register("Toy/Square-v0", Square)
    yield
    del gymnasium.registry["Toy/Square-v0"]


def film(uld: Any, tmp_path: Path, env_id: str) -> list[np.ndarray]:
    """Train briefly, evaluate with --video, and return the frames of the video that was named."""
    trained = uld("train", env_id, *uld.quick, "--run-dir", tmp_path)
    assert trained.code == 0, trained.err
    (run,) = tmp_path.rglob("seed0")
    outcome = uld("eval", run, "--video", "--episodes", "1", "--seed", "4")
    assert outcome.code == 0, outcome.err
    video = Path(outcome.out.rpartition("video: ")[2].strip())
    assert video.parent == run / "videos"
    assert video.suffix == ".mp4"
    reader, frames = cv2.VideoCapture(str(video)), []
    while (frame := reader.read()[1]) is not None:
        frames.append(frame)
    reader.release()
    return frames


def test_a_video_shows_every_state_of_the_episode(uld: Any, tmp_path: Path) -> None:
    frames = film(uld, tmp_path, "Toy/Square-v0")
    greys = [float(frame.mean()) for frame in frames]
    assert greys == pytest.approx([20 + 30 * time for time in range(7)], abs=4)  # lossy compression
    assert frames[0].shape == (64, 64, 3)


def test_a_video_of_a_mujoco_task(uld: Any, tmp_path: Path) -> None:
    reason = frames_work("gym/Reacher-v5")
    if reason is not None:
        pytest.skip(reason)
    frames = film(uld, tmp_path, "gym/Reacher-v5")
    assert len(frames) == 51
    assert frames[0].std() > 1
    assert abs(frames[0].astype(int) - frames[-1]).max() > 20  # the arm moves


def test_a_task_that_cannot_be_drawn(finished: Path, uld: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gymnasium.spec("CartPole-v1").kwargs, "no_such_argument", 1)
    outcome = uld("eval", finished, "--video")
    assert outcome.code == 2
    assert outcome.message
