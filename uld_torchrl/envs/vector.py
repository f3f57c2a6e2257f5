"""A user's vector environment, stepped as it is, in the form of :class:`AgentVectorEnv`.

Its three ways of beginning episodes anew are turned into one: lanes wait for a masked reset. SAME_STEP: the
last observation is ``info["final_obs"]``. NEXT_STEP: the step between two episodes, whose action is ignored,
cannot be avoided; it comes out as a truncated step of reward 0, and ``seam`` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from uld_torchrl.envs.checks import check_drawable
from uld_torchrl.envs.faults import Where, as_float32, check_rewards, drawing, misbehaved, raised
from uld_torchrl.envs.lanes import AgentVectorEnv, StepResult, custom_name
from uld_torchrl.envs.spaces import TaskSpaces, action_writer, is_image, observation_reader, task_of
from uld_torchrl.errors import EnvironmentFault, InputError


class UserVectorEnv(AgentVectorEnv):
    """A vector environment that the user made.

    Args:
        env: with any ``AutoresetMode``.
        name: for messages.
        render: whether :meth:`draw` will be called.

    Raises:
        InputError: it does not say how it resets, or has spaces of an unsupported kind.

    Example:
        >>> import gymnasium
        >>> env = UserVectorEnv(gymnasium.make_vec("CartPole-v1", 3), "custom/CartPoleVectorEnv")
        >>> env.reset(seed=0)[0].shape
        (3, 4)
    """

    def __init__(self, env: VectorEnv, name: str | None = None, render: bool = False) -> None:
        task = task_of(env, "single_")
        _check_no_images(task, name or custom_name(env))
        super().__init__(env.num_envs, task, name or custom_name(env))
        if render:
            check_drawable(env.render_mode, self.name)
        self.render_mode = env.render_mode
        self._user, self._mode = env, _autoreset_mode(env, self.name)
        self.has_seams = self._mode is AutoresetMode.NEXT_STEP
        self._read, self._native = observation_reader(task.observation), action_writer(task.action)
        # What the environment said, and what was handed out: after a seam only the latter has ended.
        self._user_ended, self._ended = np.zeros((2, self.num_envs), np.bool_)
        self._now = np.zeros(self.observation_space.shape or (), np.float64)

    @property
    def objects(self) -> Sequence[Any]:
        """The user's environment."""
        return (self._user,)

    def _where(self, lane: int | None = None) -> Where:
        return Where(self.name, lane)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes in the lanes of ``options["reset_mask"]``, or in all of them."""
        mask = (options or {}).get("reset_mask")
        if mask is None:
            self._begin(seed)
        elif self._mode is AutoresetMode.DISABLED:
            begun = self._reset_user(options={"reset_mask": mask.copy()})
            self._now = np.where(mask[:, None], begun, self._now)
        elif not (mask & ~self._ended).any():
            pass  # these lanes have begun already, or will in the next step
        elif mask.all():
            self._begin(seed)
        else:
            raise InputError(
                f"{self.name} begins its episodes itself ({self._mode}): single lanes cannot be reset before "
                "their episode has ended; reset all, or use AutoresetMode.DISABLED."
            )
        return as_float32(self._now, self.task.observation, self._where, "reset()"), {}

    def _begin(self, seed: int | None) -> None:
        self._now = self._reset_user(seed=None if seed is None else int(seed))
        self._user_ended, self._ended, self.seam = np.zeros((3, self.num_envs), np.bool_)

    def _reset_user(self, **arguments: Any) -> np.ndarray:
        observations, _ = self._called("reset()", lambda: self._user.reset(**arguments))
        return self._vectors(observations, "reset()")

    def step(self, actions: np.ndarray) -> StepResult:
        """Step all lanes with actions [num_envs, m], or [num_envs] numbers of choices."""
        native = self._native(actions)
        observations, rewards, *flags, info = self._called("step()", lambda: self._user.step(native))
        self._now = last = self._vectors(observations, "step()")
        rewards = self._column(rewards, "reward", "fiub").astype(np.float64)
        terminated, truncated = (
            self._column(values, name, "biu").astype(np.bool_)
            for values, name in zip(flags, ("terminated", "truncated"), strict=True)
        )
        ended = terminated | truncated
        if self._mode is AutoresetMode.NEXT_STEP:
            self.seam = self._user_ended
            rewards[self.seam], terminated[self.seam], truncated[self.seam] = 0.0, False, True
        elif self._mode is AutoresetMode.SAME_STEP and ended.any():
            last = self._with_final(last, ended, info)
        self._user_ended, self._ended = ended, terminated | truncated
        check_rewards(rewards, self._where)
        return (
            as_float32(last, self.task.observation, self._where, "step()"),
            rewards,
            terminated,
            truncated,
            {},
        )

    def _called(self, call: str, function: Callable[[], Any]) -> tuple[Any, ...]:
        length = 5 if call == "step()" else 2
        try:
            result = function()
        except InputError:
            raise
        except Exception as error:
            raise raised(self._where(), call, error) from error
        if not isinstance(result, tuple) or len(result) != length:
            what = f"a tuple of {length} values is needed, got {result!r:.100}."
            raise misbehaved(self._where(), call, what)
        return result

    def _vectors(self, observations: Any, call: str) -> np.ndarray:
        try:
            return self._read(observations, (self.num_envs,)).copy()  # the environment may reuse its array
        except InputError as error:
            what = f"{error} It must fit observation_space at every step: changing shapes are not supported."
            raise misbehaved(self._where(), call, what) from error

    def _column(self, values: Any, name: str, kinds: str) -> np.ndarray:
        array = np.asarray(values)
        if array.shape != (self.num_envs,) or array.dtype.kind not in kinds:
            what = f"the {name} has the shape {array.shape} and dtype {array.dtype}; one for each of the "
            raise misbehaved(self._where(), "step()", f"{what}{self.num_envs} lanes is needed.")
        return array

    def _with_final(self, last: np.ndarray, ended: np.ndarray, info: Any) -> np.ndarray:
        """Return the observations [num_envs, n] with those at the end of an episode in place of new ones."""
        last = last.copy()
        for lane in np.flatnonzero(ended):
            try:
                last[lane] = self._read(_of_lane(info["final_obs"], lane), ())
            except (InputError, KeyError, IndexError, TypeError) as error:
                raise self._no_final(int(lane), error) from error
        return last

    def _no_final(self, lane: int, error: Exception) -> EnvironmentFault:
        return misbehaved(
            self._where(lane),
            "step()",
            "info['final_obs'] does not hold the last observation of the episode that has ended, which "
            f"AutoresetMode.SAME_STEP asks for ({type(error).__name__}: {error}).",
        )

    def draw(self) -> np.ndarray:
        """Draw the first lane, uint8 [height, width, 3]."""
        with drawing(self.name):
            frames = self._user.render()
        assert frames is not None
        return np.asarray(frames[0])

    def close_extras(self, **_: Any) -> None:
        """Close the user's environment."""
        self._user.close()


def _of_lane(batch: Any, lane: Any) -> Any:
    # Gymnasium's form is an array of objects, one a lane; others are batched like the observations.
    if isinstance(batch, Mapping):
        return {key: _of_lane(part, lane) for key, part in batch.items()}
    return batch[lane]


def _check_no_images(task: TaskSpaces, name: str) -> None:
    # It would have to be known of each frame whether it begins an episode, in each way of beginning one.
    if is_image(task.observation):
        raise InputError(
            f"{name} is a vector environment that observes images, which is not supported: the frames of two "
            "episodes would meet in one stack. Pass the environment's id, or a callable that makes one, with "
            "num_envs; or a SyncVectorEnv without wrappers."
        )


def _autoreset_mode(env: VectorEnv, name: str) -> AutoresetMode:
    mode = env.metadata.get("autoreset_mode", getattr(env.unwrapped, "autoreset_mode", None))
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise InputError(
            f"{name} must say in metadata['autoreset_mode'] how it begins new episodes (a "
            f"gymnasium.vector.AutoresetMode), got {mode!r}."
        ) from None
