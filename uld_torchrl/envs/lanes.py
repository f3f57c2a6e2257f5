"""The lanes of one process: environments stepped one after the other, as a Gymnasium vector environment.

Differs from Gymnasium's ``SyncVectorEnv`` in: 1. an environment that raises or returns nonsense is reported
with its lane; 2. observations and actions have the agent's form; 3. infos are dropped, since nothing reads
them and collecting them costs more than the rest. Workers run the same class; nothing here imports torch.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from uld_torchrl.envs.checks import check_distinct, check_drawable, check_remade, check_same_spaces
from uld_torchrl.envs.faults import (
    Where,
    as_float32,
    check_rewards,
    drawing,
    flag,
    misbehaved,
    not_made,
    number,
    raised,
)
from uld_torchrl.envs.images import WrongFrame, stacked_task
from uld_torchrl.envs.spaces import (
    TaskSpaces,
    action_writer,
    check_spaces,
    observation_reader,
    vector_length,
)
from uld_torchrl.envs.tapes import LaneState, Tape, restore_random_state, unseen
from uld_torchrl.errors import InputError

_LOG = logging.getLogger(__name__)
Maker = Callable[[], gymnasium.Env]
StepResult = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


def lane_seeds(seed: int | None, num_envs: int) -> list[int] | list[None]:
    """Return the seeds of the lanes: ``seed`` itself for lane 0, seeds drawn from it for the others.

    Gymnasium's own rule, seed + lane, would make lane 1 of seed 0 the same as lane 0 of seed 1. Without a
    seed none has one.

    Example:
        >>> lane_seeds(7, 3)[0], len(set(lane_seeds(7, 3)))
        (7, 3)
    """
    if seed is None:
        return [None] * num_envs
    others = np.random.SeedSequence(seed).generate_state(num_envs - 1)
    return [int(seed), *others.tolist()]


class AgentVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """A vector environment in the agent's form: float32 or uint8, actions in [-1, 1] or from 0 on.

    Lanes that have ended are begun anew by ``reset(options={"reset_mask": mask})``. ``seam`` [num_envs]
    says in which lanes the last step was not one of an episode but the one between two episodes.

    Example:
        >>> lanes = Lanes([lambda: gymnasium.make("Pendulum-v1")], "custom/PendulumEnv")
        >>> lanes.action_space, lanes.task.action
        (Box(-1.0, 1.0, (1, 1), float32), Box(-2.0, 2.0, (1,), float32))
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}
    autoreset_mode = AutoresetMode.DISABLED

    def __init__(self, num_envs: int, task: TaskSpaces, name: str) -> None:
        check_spaces(task, name)
        self.num_envs, self.task, self.name = num_envs, task, name
        self.seam = np.zeros(num_envs, np.bool_)
        self.single_observation_space = _agent_observations(task)
        self.single_action_space = _agent_actions(task.action)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    has_seams = False
    """Whether there can be steps between two episodes."""

    @property
    def objects(self) -> Sequence[Any]:
        """The environments of this process that are stepped."""
        return ()

    def states(self) -> list[LaneState] | None:
        """Return where each lane is, for :meth:`restore`; None if that cannot be known."""
        return None

    def remake(self, lanes: Sequence[int]) -> None:
        """Make the environments of these lanes anew, but for objects of the user; then reset all lanes.

        Raises:
            EnvironmentFault: that failed.
        """

    def restore(self, states: Sequence[LaneState]) -> tuple[np.ndarray, np.ndarray]:
        """Bring each lane back to where it was; where that fails, begin a new episode.

        Returns:
            The observations now, and whether it succeeded, bool [num_envs].
        """
        raise NotImplementedError

    def draw(self) -> np.ndarray:
        """Draw the first lane, uint8 [height, width, 3]."""
        raise NotImplementedError


def _agent_observations(task: TaskSpaces) -> Box:
    if task.frames is not None:
        assert isinstance(task.observation, Box)
        return task.observation
    return Box(-np.inf, np.inf, (vector_length(task.observation),), np.float32)


def _agent_actions(space: Space[Any]) -> Space[Any]:
    # TorchRL's one-hot encoding counts from 0 and knows nothing of a start.
    if isinstance(space, Discrete):
        return Discrete(space.n)
    return Box(-1.0, 1.0, (vector_length(space),), np.float32)


class Lanes(AgentVectorEnv):
    """Environments in this process, one a lane, the first of them lane ``first_lane`` of the whole.

    Args:
        makers: each makes one environment.
        name: of the environment, for messages; None: ``custom/<class>`` of what the first maker makes.
        first_lane: number of the first of these lanes.
        render: whether :meth:`draw` will be called.
        given: whether the environments are the user's objects, which are never made anew.

    Raises:
        InputError: spaces of an unsupported kind, or that differ between lanes; an environment that was
            made twice.

    Example:
        >>> lanes = Lanes([lambda: gymnasium.make("CartPole-v1")] * 2, "gym/CartPole-v1")
        >>> lanes.reset(seed=0)[0].shape
        (2, 4)
    """

    def __init__(
        self,
        makers: Sequence[Maker],
        name: str | None = None,
        first_lane: int = 0,
        render: bool = False,
        given: bool = False,
    ) -> None:
        self.envs = [maker() for maker in makers]
        self._makers, self._first_lane, self._given = makers, first_lane, given
        name = name or custom_name(self.envs[0])
        tasks = {lane: stacked_task(env) for lane, env in enumerate(self.envs)}
        super().__init__(len(self.envs), task := tasks[0], name)
        check_distinct(self.envs, name)
        check_same_spaces(tasks, name)
        if render:
            check_drawable(self.envs[0].render_mode, name)
        self.render_mode = self.envs[0].render_mode
        self._lanes = [_Lane(env, self._where(lane), task) for lane, env in enumerate(self.envs)]
        self._rows = np.zeros(self.observation_space.shape or (), np.uint8 if task.frames else np.float64)

    @property
    def objects(self) -> Sequence[Any]:
        """The environments, one a lane."""
        return self.envs

    def _where(self, lane: int) -> Where:
        return Where(self.name, self._first_lane + lane)

    def reset(
        self, *, seed: int | list[int] | list[None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes, in the lanes of ``options["reset_mask"]`` or in all; one seed, or one a lane."""
        mask = (options or {}).get("reset_mask", [True] * self.num_envs)
        seeds = seed if isinstance(seed, list) else lane_seeds(seed, self.num_envs)
        for row, lane, chosen, own in zip(self._rows, self._lanes, mask, seeds, strict=True):
            if chosen:
                row[:] = lane.reset(own)
        return self._observations("reset()"), {}

    def step(self, actions: np.ndarray) -> StepResult:
        """Step every lane with its action [num_envs, m], or [num_envs] numbers of choices."""
        rewards = np.empty(self.num_envs, np.float64)
        terminated, truncated = np.empty((2, self.num_envs), np.bool_)
        for index, lane in enumerate(self._lanes):
            self._rows[index], rewards[index], terminated[index], truncated[index] = lane.step(actions[index])
        check_rewards(rewards, self._where)
        return self._observations("step()"), rewards, terminated, truncated, {}

    def _observations(self, call: str) -> np.ndarray:
        if self.task.frames is not None:
            return self._rows.copy()
        return as_float32(self._rows, self.task.observation, self._where, call)

    def states(self) -> list[LaneState]:
        """Return where each lane is."""
        return [lane.state() for lane in self._lanes]

    def remake(self, lanes: Sequence[int]) -> None:
        """Make the environments of these lanes anew, but for objects of the user; then reset all lanes."""
        for lane in () if self._given else lanes:
            self._remake(lane - self._first_lane)

    def _remake(self, lane: int) -> None:
        where = self._where(lane)
        with suppress(Exception):  # it has failed before
            self.envs[lane].close()
        self.envs[lane] = gymnasium.Env()  # if the next one cannot be made, nothing is closed twice
        try:
            env = self._makers[lane]()
            check_remade(self.task, stacked_task(env))
            check_distinct([*self.envs, env], self.name)
        except Exception as error:
            raise not_made(where, error) from error
        self.envs[lane], self._lanes[lane] = env, _Lane(env, where, self.task)

    def restore(self, states: Sequence[LaneState]) -> tuple[np.ndarray, np.ndarray]:
        """Play each lane's open episode again; a lane that does not come out the same begins a new one."""
        same = [lane.restore(state) for lane, state in zip(self._lanes, states, strict=True)]
        for row, lane in zip(self._rows, self._lanes, strict=True):
            row[:] = lane.last
        return self._observations("reset()"), np.array(same)

    def draw(self) -> np.ndarray:
        """Draw the first lane, uint8 [height, width, 3]."""
        with drawing(self.name):
            return np.asarray(self.envs[0].render())

    def close_extras(self, **_: Any) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()


class _Lane:
    """One environment, its results turned into plain numbers or into a fault."""

    def __init__(self, env: gymnasium.Env, where: Where, task: TaskSpaces) -> None:
        self._env, self._where = env, where
        # Frames are looked at before they are stacked.
        self._read = _as_it_is if task.frames is not None else observation_reader(task.observation)
        self._native = action_writer(task.action)
        self._tape, self._stacked = Tape(env), task.frames or 1
        self.last = np.zeros(0)

    def state(self) -> LaneState:
        """Return where the environment is."""
        return self._tape.state(self.last)

    def restore(self, state: LaneState) -> bool:
        """Play the open episode again; begin a new one, and return False, if it comes out differently."""
        try:
            if self._played_again(state):
                return True
        except Exception as error:  # whatever it does, a new episode is the way out
            _LOG.info("%s: the open episode cannot be played again: %s", self._where, error)
        self.reset(None)
        return False

    def _played_again(self, state: LaneState) -> bool:
        ahead = len(state.actions) + 1
        with unseen(self._env, self._stacked) as left:
            left(ahead + (state.before is not None))
            self.reset(state.seed)
            if state.before is not None:
                restore_random_state(self._env, json.loads(state.before))
                left(ahead)
                self.reset(None)
            for done, action in enumerate(state.actions):
                left(ahead - 1 - done)
                self.step(action)
        return np.array_equal(self.last, state.observation) and self.state().after == state.after

    def reset(self, seed: int | None) -> np.ndarray:
        self._tape.begins(seed)
        try:
            result = self._env.reset(seed=seed)
        except WrongFrame as error:
            raise self._misfit(error, "reset()") from error
        except InputError:
            raise
        except Exception as error:
            raise raised(self._where, "reset()", error) from error
        try:
            observation, _ = result
        except (TypeError, ValueError):
            raise self._malformed(result, "reset()", "(observation, info)") from None
        self.last = self._vector(observation, "reset()")
        return self.last

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        try:
            result = self._env.step(self._native(action))
        except WrongFrame as error:
            raise self._misfit(error, "step()") from error
        except InputError:
            raise
        except Exception as error:
            raise raised(self._where, "step()", error) from error
        try:
            observation, reward, terminated, truncated, _ = result
        except (TypeError, ValueError):
            wanted = "(observation, reward, terminated, truncated, info)"
            raise self._malformed(result, "step()", wanted) from None
        self._tape.goes_on(action)
        self.last = self._vector(observation, "step()")
        return (
            self.last,
            number(reward, self._where),
            flag(terminated, "terminated", self._where),
            flag(truncated, "truncated", self._where),
        )

    def _malformed(self, result: Any, call: str, wanted: str) -> InputError:
        given = f"a {type(result).__name__}"
        if isinstance(result, (tuple, list)):
            given += f" of {len(result)} values"
        return misbehaved(self._where, call, f"{given} was returned; Gymnasium's form is {wanted}.")

    def _vector(self, observation: Any, call: str) -> np.ndarray:
        try:
            return self._read(observation, ())
        except InputError as error:
            raise self._misfit(error, call) from error

    def _misfit(self, error: InputError, call: str) -> InputError:
        what = f"{error} It must fit observation_space at every step: changing shapes are not supported."
        return misbehaved(self._where, call, what)


def _as_it_is(observation: np.ndarray, lead: tuple[int, ...]) -> np.ndarray:
    return observation


def custom_name(env: Any) -> str:
    """Return ``custom/<class>`` for an environment given as an object; letters, digits and ``._-`` only.

    Example:
        >>> custom_name(gymnasium.make("CartPole-v1"))
        'custom/CartPoleEnv'
    """
    return "custom/" + re.sub(r"[^A-Za-z0-9._-]", "-", type(env.unwrapped).__name__)
