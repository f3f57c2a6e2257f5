"""The open episodes of a run's environments in its checkpoints, so that a resumed run repeats the whole one.

How an environment is brought back is in ``envs.tapes``; here is what a checkpoint keeps of it, and what
happens to lanes that cannot be brought back.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from uld_torchrl.data import WindowReplayBuffer
from uld_torchrl.envs import LaneState, lane_states, restart_lanes, restore_lanes
from uld_torchrl.errors import EnvironmentFault
from uld_torchrl.modules.held_noise import HeldNoise

_LOG = logging.getLogger(__name__)
_LOST = (
    "lane %d: the environment did not come back to where it was when its open episode was played again, so "
    "that is cut (marked as truncated) and a new one begins: from here on the run is another than without "
    "the stop. The environment depends on more than np_random and the actions of the episode."
)


def saved_lanes(env: EnvBase) -> list[dict[str, Any]] | None:
    """Return where the lanes are, as tensors and plain values; None if they cannot be brought back.

    Example:
        >>> from uld_torchrl import make_env
        >>> env = make_env("CartPole-v1", seed=0)
        >>> _ = env.rollout(3)
        >>> saved_lanes(env)[0]["actions"].shape
        torch.Size([3])
    """
    states = lane_states(env)
    return None if states is None else [_to_tensors(state.to_dict()) for state in states]


def _to_tensors(data: dict[str, Any]) -> dict[str, Any]:
    # An empty tensor cannot be mapped to a file.
    return {
        name: (torch.from_numpy(value) if value.size else None) if isinstance(value, np.ndarray) else value
        for name, value in data.items()
    }


def _to_state(data: Mapping[str, Any]) -> LaneState:
    actions = data["actions"]
    return LaneState.from_dict({**data, "actions": np.zeros(0) if actions is None else actions.cpu().numpy()})


class OpenEpisodes:
    """The open episodes of a run's environments: where these are, and the returns so far.

    Args:
        env: of :func:`~uld_torchrl.make_env`.
        device: of the returns.
        noise: that is held over steps of an episode, if any.

    Attributes:
        finished: returns of the episodes that ended since the list was last emptied.
        stepping: whether a step is under way, so that lanes and replay buffer may not be at the same place.

    Example:
        >>> from uld_torchrl import make_env
        >>> env = make_env("CartPole-v1", seed=0)
        >>> _ = env.rollout(3)
        >>> OpenEpisodes(env, "cpu").state_dict()["lanes"][0]["actions"].shape
        torch.Size([3])
    """

    def __init__(self, env: EnvBase, device: torch.device | str, noise: HeldNoise | None = None) -> None:
        self._env, self._noise = env, noise or HeldNoise(1)
        self._lanes: list[dict[str, Any]] | None = None
        self._returns = torch.zeros(env.batch_size, device=device)
        self.finished: list[float] = []
        self.stepping = False

    def state_dict(self) -> dict[str, Any]:
        """Return the episodes as tensors and plain values; ``lanes`` is None if they cannot come back."""
        return {
            "lanes": None if self.stepping else self._saved_lanes(),
            "returns": self._returns,
            "finished": self.finished,
            "noise": self._noise.state_dict(),
        }

    def _saved_lanes(self) -> list[dict[str, Any]] | None:
        try:
            return saved_lanes(self._env)
        except EnvironmentFault:  # a worker has died since the last step; the next one will say so
            return None

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Note what :meth:`state_dict` gave, for :meth:`begin`."""
        self._lanes, self.finished = state_dict["lanes"], list(state_dict["finished"])
        if self._lanes is not None:
            self._returns = state_dict["returns"].to(self._returns.device)
            if "noise" in state_dict:  # earlier versions saved none
                self._noise.load_state_dict(state_dict["noise"], self._returns.device)

    def begin(self, seed: int, buffer: WindowReplayBuffer) -> TensorDictBase:
        """Go on with the episodes that were saved; where that cannot be, begin new ones from ``seed``.

        The newest records of lanes that begin anew are marked as truncated.

        Returns:
            What to act on, [num_envs].
        """
        self._env.set_seed(seed)
        if self._lanes is None:
            buffer.mark_newest_truncated()
            return self._env.reset()
        td, same = restore_lanes(self._env, [_to_state(each) for each in self._lanes])
        for lane in torch.nonzero(~same).flatten().tolist():
            _LOG.warning(_LOST, lane)
        buffer.mark_newest_truncated(~same)
        self._returns[~same.to(self._returns.device)] = 0.0
        self._noise.forget(~same)
        return td

    def restart(self, seed: int, lanes: Sequence[int], buffer: WindowReplayBuffer) -> TensorDictBase:
        """Cut all episodes where they were before the vector step that failed, and begin new ones.

        Args:
            seed: of the new episodes.
            lanes: whose environments are made anew, see :func:`~uld_torchrl.envs.restart_lanes`.
            buffer: in which the newest record of every lane is marked as truncated.

        Returns:
            What to act on, [num_envs].

        Raises:
            EnvironmentFault: an environment failed again; nothing is marked then.
        """
        td = restart_lanes(self._env, seed, lanes)
        buffer.mark_newest_truncated()
        self._returns.zero_()
        self._noise.forget()
        self.stepping = False
        return td

    def count(self, result: TensorDictBase) -> int:
        """Add the rewards of a step, its ``next`` [num_envs]; return how many episodes it ended."""
        self._returns += result.get("reward").squeeze(-1)
        ended = result.get("done").squeeze(-1)
        self._noise.forget(ended)
        done = ended & ~self._env.seam
        if not bool(done.any()):
            return 0
        self.finished += self._returns[done].tolist()
        self._returns[done] = 0.0
        return int(done.sum())
