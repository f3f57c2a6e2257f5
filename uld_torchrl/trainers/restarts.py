"""How often a session begins environments anew that raised, misbehaved or died, and with which seeds.

The vector step in which an environment fails counts as not made: nothing of it is stored or counted, and all
lanes begin new episodes. How environments are made anew is in ``uld_torchrl.envs``, what becomes of the open
episodes in ``episodes``.
"""

from __future__ import annotations

import logging

from tensordict import TensorDictBase

from uld_torchrl.data import WindowReplayBuffer
from uld_torchrl.errors import EnvironmentFault
from uld_torchrl.trainers.callbacks import same_random_state
from uld_torchrl.trainers.episodes import OpenEpisodes
from uld_torchrl.trainers.evaluation import stream_seed

_LOG = logging.getLogger(__name__)
_RESTART = 3  # purpose of the random stream derived from the run's seed
_BEGUN_ANEW = (
    "seed %d, after step %d: %s Its environment is begun anew, and the open episodes of all lanes are cut "
    "(marked as truncated) before the step that failed. Restarts left in this session: %d."
)


class Restarts:
    """The restarts that are left to a session.

    Args:
        episodes: the run's open ones.
        limit: number of restarts.
        seed: of the run.

    Example:
        >>> from uld_torchrl import make_env
        >>> from uld_torchrl.data import make_replay_buffer
        >>> restarts = Restarts(OpenEpisodes(make_env("CartPole-v1"), "cpu"), limit=1, seed=0)
        >>> buffer, fault = make_replay_buffer(capacity=100), EnvironmentFault("gym/CartPole-v1: no wheels.")
        >>> restarts.after(fault, 7, buffer)["observation"].shape
        torch.Size([1, 4])
        >>> restarts.after(fault, 8, buffer)
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.EnvironmentFault: gym/CartPole-v1: no wheels. This session has had its 1 restart...
    """

    def __init__(self, episodes: OpenEpisodes, limit: int, seed: int) -> None:
        self._episodes, self._limit, self._left, self._seed = episodes, limit, limit, seed
        self._step, self._tries = -1, 0

    def after(self, fault: EnvironmentFault, step: int, buffer: WindowReplayBuffer) -> TensorDictBase:
        """Begin anew after a fault in the vector step after agent step ``step``.

        Returns:
            What to act on, [num_envs].

        Raises:
            EnvironmentFault: no restart is left.
        """
        lanes: set[int] = set()
        while True:
            self._take_one(fault, step)
            lanes |= set(fault.lanes)  # those that the last attempt did not come to are still faulty
            seed = stream_seed(self._seed, _RESTART, step, self._tries)
            try:
                with same_random_state():
                    return self._episodes.restart(seed, sorted(lanes), buffer)
            except EnvironmentFault as again:
                fault = again

    def _take_one(self, fault: EnvironmentFault, step: int) -> None:
        if not self._limit:
            raise fault
        if not self._left:
            had = f"This session has had its {self._limit} restart(s) of environments (env_restarts)."
            raise EnvironmentFault(f"{fault} {had}", fault.lanes) from fault
        self._left -= 1
        # Counted by step, not by session: a resumed run takes the same seeds.
        self._step, self._tries = step, self._tries + 1 if step == self._step else 0
        _LOG.warning(_BEGUN_ANEW, self._seed, step, fault, self._left)
