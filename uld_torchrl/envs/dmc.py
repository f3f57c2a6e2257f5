"""dm_control's suite as Gymnasium environments, so that one path leads to TorchRL from both.

Here: loading by ``<domain>-<task>``, action repeat, dm_control's own flat observation or a camera's image,
episodes that only ever truncate. Not here: action scaling and float32 (``spaces.py``), stacks of frames
(``images.py``), lanes (``lanes.py``).
Importing this module imports dm_control, and with it the renderer that ``MUJOCO_GL`` names.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
from dm_control import suite
from dm_control.rl.control import FLAT_OBSERVATION_KEY, Environment
from gymnasium.spaces import Box

from uld_torchrl.envs.rendering import renderer_needed, require_renderer
from uld_torchrl.envs.silence import without_harmless_warnings

ACTION_REPEAT = 2
FRAME_SIZE = 480
TASK_NAMES = tuple(f"{domain}-{task}" for domain, task in suite.ALL_TASKS)


class DMControlTask(gymnasium.Env[np.ndarray, np.ndarray]):
    """Run a task of the dm_control suite, each action ``ACTION_REPEAT`` times.

    Rewards of the repeats are summed; an episode has 1000 dm_control steps, so 500 of these. Its end is
    a truncation, never a termination: the suite's tasks have no terminal states. The observation
    is dm_control's own flat one, in dm_control's order.

    Args:
        name: ``<domain>-<task>``, one of ``TASK_NAMES``.

    Example:
        >>> task = DMControlTask("cartpole-swingup")
        >>> observation, _ = task.reset(seed=0)
        >>> observation.shape, task.action_space.shape
        ((5,), (1,))
    """

    render_mode = "rgb_array"

    def __init__(self, name: str) -> None:
        self._name = name
        self._env = self._load(seed=None)
        spec = self._env.action_spec()
        # MuJoCo writes an actuator without limits as +-mjMAXVAL (lqr).
        unbounded = np.abs([spec.minimum, spec.maximum]) >= mujoco.mjMAXVAL
        low, high = np.where(unbounded, np.array([[-np.inf], [np.inf]]), [spec.minimum, spec.maximum])
        self.action_space = Box(low, high, dtype=np.float64)
        shape = self._env.observation_spec()[FLAT_OBSERVATION_KEY].shape
        self.observation_space = Box(-np.inf, np.inf, shape, np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; with a seed, load the task anew, since some tasks draw their model from it."""
        if seed is not None:
            self._env.physics.free()
            self._env = self._load(seed)
        with renderer_needed():  # quadruped makes its rendering contexts here
            time_step = self._env.reset()
        return time_step.observation[FLAT_OBSERVATION_KEY], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply one action ``ACTION_REPEAT`` times, or until the episode ends."""
        reward = 0.0
        for _ in range(ACTION_REPEAT):
            time_step = self._env.step(action)
            reward += time_step.reward
            if time_step.last():
                break
        return time_step.observation[FLAT_OBSERVATION_KEY], reward, False, time_step.last(), {}

    def get_random_state(self) -> dict[str, Any]:
        """Return the state of the task's generator, for a replay of the open episode."""
        return dict(self._env.task.random.get_state(legacy=False))

    def set_random_state(self, state: dict[str, Any]) -> None:
        """Set what :meth:`get_random_state` returned."""
        key = np.asarray(state["state"]["key"], np.uint32)
        self._env.task.random.set_state({**state, "state": {**state["state"], "key": key}})

    def render(self) -> np.ndarray:
        """Draw the current state, uint8 [480, 480, 3]."""
        return self.draw(FRAME_SIZE)

    def draw(self, size: int) -> np.ndarray:
        """Draw the current state, uint8 [size, size, 3]."""
        camera = 2 if self._name.startswith("quadruped") else 0  # camera 0 does not follow the quadruped
        return self._env.physics.render(size, size, camera_id=camera)

    def close(self) -> None:
        """Free the simulation."""
        self._env.physics.free()

    def _load(self, seed: int | None) -> Environment:
        domain, _, task = self._name.partition("-")
        flat = {"flat_observation": True}
        with without_harmless_warnings():
            return suite.load(domain, task, task_kwargs={"random": seed}, environment_kwargs=flat)


class CameraObservation(gymnasium.ObservationWrapper[np.ndarray, np.ndarray, np.ndarray]):
    """Observe a task by its camera instead of its numbers: one image a step, after the repeated actions.

    Gymnasium's ``AddRenderObservation`` would observe in the size of videos.

    Args:
        task: of the suite.
        size: height and width of the image.

    Raises:
        InputError: nothing can be drawn here.

    Example:
        >>> camera = CameraObservation(DMControlTask("cartpole-swingup"), 84)  # doctest: +SKIP
        >>> camera.reset(seed=0)[0].shape  # doctest: +SKIP
        (84, 84, 3)
    """

    def __init__(self, task: DMControlTask, size: int) -> None:
        super().__init__(task)
        self._task, self._size = task, size
        self.skips_rendering = False
        self.observation_space = Box(0, 255, (size, size, 3), np.uint8)
        require_renderer()

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Return the image, uint8 [size, size, 3]; a black one, at no cost, while :attr:`skips_rendering`."""
        if self.skips_rendering:
            return np.zeros((self._size, self._size, 3), np.uint8)
        with renderer_needed():
            return self._task.draw(self._size)
