"""dm_control by its cameras: which camera, how often it draws, and that nothing else changes.

Most of this replaces the renderer by one that writes the simulation's time into a frame, and needs none.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from dm_control import suite
from dm_control.mujoco import Physics
from gymnasium.spaces import Box, Discrete
from torchrl.envs.utils import check_env_specs

from uld_torchrl.config import PixelConfig
from uld_torchrl.envs import TaskSpaces, choose_renderer, make_env, render_frame, task_spaces
from uld_torchrl.errors import InputError

needs_renderer = pytest.mark.skipif(choose_renderer() == "off", reason="no renderer: apt-get install libegl1")


class Renderer:
    """Draws the number of a frame in each pixel, and remembers for what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []
        self.times: list[float] = []

    def draw(self, physics: Physics, height: int, width: int, camera_id: int) -> np.ndarray:
        self.asked.append((height, width, camera_id))
        self.times.append(physics.time())
        return np.full((height, width, 3), len(self.asked) % 256, np.uint8)


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch) -> Renderer:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    renderer = Renderer()
    monkeypatch.setattr(
        Physics, "render", lambda physics, *size, camera_id: renderer.draw(physics, *size, camera_id)
    )
    return renderer


@needs_renderer
@pytest.mark.parametrize("task", ["walker-walk", "quadruped-walk"])
def test_specs(task: str) -> None:
    with closing(make_env(f"dmc-pixels/{task}", seed=0)) as env:
        check_env_specs(env)
        assert list(env.observation_spec.keys()) == ["pixels"]
        assert env.observation_spec["pixels"].shape == (1, 9, 84, 84)
        assert env.reset()["pixels"].float().std() > 5


@needs_renderer
def test_frames_are_those_that_dm_control_draws_after_every_second_step() -> None:
    raw = suite.load("cartpole", "swingup", task_kwargs={"random": 4})
    raw.reset()
    raw.reset()  # make_env has begun an episode with its seed

    def drawn() -> torch.Tensor:
        return torch.from_numpy(raw.physics.render(84, 84, camera_id=0).copy()).movedim(-1, 0)

    with closing(make_env("dmc-pixels/cartpole-swingup", seed=4)) as env:
        td, frames = env.reset(), [drawn()] * 3
        for action in (1.0, -0.5, 0.25):
            assert torch.equal(td["pixels"][0], torch.cat(frames))
            td = env.step(td.set("action", torch.tensor([[action]])))["next"]
            for _ in range(2):
                raw.step([action])
            frames = [*frames[1:], drawn()]
            assert torch.equal(td["pixels"][0], torch.cat(frames))
        assert not torch.equal(frames[0], frames[2])
    raw.physics.free()


@pytest.mark.parametrize(
    ("task", "camera"),
    [("walker-walk", 0), ("quadruped-run", 2), ("quadruped-walk", 2), ("ball_in_cup-catch", 0)],
)
def test_the_camera_and_the_size_it_draws_in(task: str, camera: int, renderer: Renderer) -> None:
    env = make_env(f"dmc-pixels/{task}", pixels=PixelConfig(frame_size=50, frame_stack=2))
    assert env.reset()["pixels"].shape == (1, 6, 50, 50)
    assert set(renderer.asked) == {(50, 50, camera)}


def test_one_frame_is_drawn_a_step_and_one_a_reset(renderer: Renderer) -> None:
    env = make_env("dmc-pixels/cartpole-swingup", num_envs=2, seed=0)
    renderer.asked.clear()
    renderer.times.clear()
    td = env.reset()
    assert len(renderer.asked) == 2
    for step in range(1, 5):
        _, td = env.step_and_maybe_reset(env.rand_action(td))
        assert len(renderer.asked) == 2 + 2 * step
    per_lane = np.reshape(renderer.times, (5, 2)).T  # after two physics steps of 10 ms each
    np.testing.assert_allclose(per_lane, [np.arange(5) * 0.02] * 2, rtol=0, atol=1e-12)
    assert td["pixels"][0, ::3, 0, 0].tolist() == [5, 7, 9] and td["pixels"][1, ::3, 0, 0].tolist() == [
        6,
        8,
        10,
    ]


def test_rewards_and_ends_are_those_of_the_vector_task(renderer: Renderer) -> None:
    vector = make_env("dmc/cartpole-swingup", seed=7).rollout(600)
    env = make_env("dmc-pixels/cartpole-swingup", seed=7)
    actions = iter(vector["action"].unbind(1))
    drawn = env.rollout(600, lambda td: td.set("action", next(actions)))
    assert drawn.shape == vector.shape == (1, 500)
    for key in ("reward", "terminated", "truncated", "done"):
        assert torch.equal(drawn["next", key], vector["next", key])
    assert vector["next", "reward"].std() > 0 and vector["next", "truncated"].sum() == 1


def test_gray_frames_have_one_channel(renderer: Renderer) -> None:
    env = make_env("dmc-pixels/walker-walk", pixels=PixelConfig(grayscale=True))
    renderer.asked = [(0, 0, 0)] * 199
    pixels = env.reset()["pixels"]
    assert pixels.shape == (1, 3, 84, 84) and pixels.unique().tolist() == [200]


def test_seeds_and_actions_are_those_of_the_vector_task(renderer: Renderer) -> None:
    pixels, vector = make_env("dmc-pixels/walker-walk"), make_env("dmc/walker-walk")
    assert pixels.action_spec == vector.action_spec
    assert task_spaces(pixels) == TaskSpaces(
        Box(0, 255, (9, 84, 84), np.uint8), task_spaces(vector).action, frames=3
    )
    assert not isinstance(task_spaces(pixels).action, Discrete)


def test_videos_are_larger_than_observations(renderer: Renderer) -> None:
    env = make_env("dmc-pixels/walker-walk", seed=0, render=True)
    assert render_frame(env).shape == (480, 480, 3)
    assert env.reset()["pixels"].shape == (1, 9, 84, 84)


def test_without_a_renderer_the_task_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "off")
    with pytest.raises(InputError, match=r"MuJoCo cannot render here .*apt-get install libegl1"):
        make_env("dmc-pixels/walker-walk")


def test_a_renderer_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("No OpenGL rendering backend is available.")

    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(Physics, "render", broken)
    with pytest.raises(InputError, match=r"MuJoCo cannot render here .*apt-get install libegl1"):
        make_env("dmc-pixels/walker-walk", seed=0)


def test_an_unknown_task_gets_its_nearest_name() -> None:
    with pytest.raises(InputError, match=r"names no known dm_control task.*dmc-pixels/walker-walk"):
        make_env("dmc-pixels/walker-wlk")
