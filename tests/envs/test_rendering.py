"""The choice of renderer, frames, and what is said where nothing can draw."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from uld_torchrl.envs import choose_renderer, make_env, render_frame
from uld_torchrl.envs.rendering import renderer_needed
from uld_torchrl.errors import InputError

needs_renderer = pytest.mark.skipif(choose_renderer() == "off", reason="no renderer: apt-get install libegl1")


@pytest.fixture
def headless(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.setenv(name, "")  # so that the variable is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")
    return monkeypatch


@pytest.mark.parametrize(
    ("has_egl", "has_osmesa", "expected"),
    [(True, True, "egl"), (True, False, "egl"), (False, True, "osmesa"), (False, False, "off")],
)
def test_without_display_the_first_that_works_is_chosen(
    headless: pytest.MonkeyPatch, has_egl: bool, has_osmesa: bool, expected: str
) -> None:
    headless.setattr("uld_torchrl.envs.rendering._egl_has_device", lambda: has_egl)
    headless.setattr("uld_torchrl.envs.rendering._has_osmesa", lambda: has_osmesa)
    assert choose_renderer() == os.environ["MUJOCO_GL"] == expected


@pytest.mark.parametrize(("name", "value"), [("DISPLAY", ":0"), ("WAYLAND_DISPLAY", "wayland-0")])
def test_a_display_leaves_the_choice_to_mujoco(headless: pytest.MonkeyPatch, name: str, value: str) -> None:
    headless.setenv(name, value)
    assert choose_renderer() is None and "MUJOCO_GL" not in os.environ


def test_the_users_choice_stands(headless: pytest.MonkeyPatch) -> None:
    headless.setenv("MUJOCO_GL", "glfw")
    assert choose_renderer() == "glfw"


@needs_renderer
@pytest.mark.parametrize("env_id", ["HalfCheetah-v4", "dmc/cartpole-swingup"])
def test_frames_show_the_first_lane_and_move(env_id: str) -> None:
    env = make_env(env_id, num_envs=2, seed=0, render=True)
    env.reset()
    before = render_frame(env)
    env.rollout(10, auto_reset=True)
    after = render_frame(env)
    assert before.dtype == np.uint8 and before.shape == (480, 480, 3)
    assert before.std() > 5 and (before != after).any()
    env.close()


@needs_renderer
def test_drawing_does_not_change_the_observations() -> None:
    drawn = make_env("dmc/cartpole-swingup", seed=0, render=True)
    plain = make_env("dmc/cartpole-swingup", seed=0)
    assert (drawn.reset()["observation"] == plain.reset()["observation"]).all()
    drawn.close()


def test_frames_need_render() -> None:
    with pytest.raises(InputError, match="render=True"):
        render_frame(make_env("CartPole-v1", seed=0))


def test_a_missing_drawing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_pygame(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pygame"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pygame)
    with pytest.raises(InputError, match=r"CartPole-v1 cannot be drawn.*pip install"):
        make_env("CartPole-v1", render=True)


def test_an_environment_that_cannot_draw_is_refused() -> None:
    class Blind(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        action_space = gymnasium.spaces.Discrete(2)

        def __init__(self, render_mode: str | None = None) -> None:
            self.render_mode = render_mode

    gymnasium.register("Blind-v0", Blind)
    try:
        with pytest.raises(InputError, match=r"gym/Blind-v0 cannot be drawn"):
            make_env("Blind-v0", render=True)
    finally:
        del gymnasium.registry["Blind-v0"]


def test_other_errors_pass_through() -> None:
    with pytest.raises(RuntimeError, match="unrelated"), renderer_needed():
        raise RuntimeError("unrelated")


WITHOUT_DRIVER = """
from uld_torchrl.envs import make_env
from uld_torchrl.errors import InputError

make_env("dmc/cartpole-swingup", seed=0).rollout(3)
for env_id in ("dmc/cartpole-swingup", "HalfCheetah-v4"):
    try:
        make_env(env_id, render=True)
    except InputError as error:
        assert "apt-get install libegl1" in str(error), error
    else:
        raise AssertionError(env_id)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the choice is made on Linux")
def test_a_machine_without_a_graphics_driver_trains_and_says_how_to_draw() -> None:
    hidden = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment["__EGL_VENDOR_LIBRARY_FILENAMES"] = "/dev/null"
    environment["LD_LIBRARY_PATH"] = ""
    command = [sys.executable, "-c", WITHOUT_DRIVER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
