"""What the agent of a run decides: which tasks it takes, its settings, and its stepper; ULD's or a peer's.

The loop is the same for all, in ``trainer``. Peers themselves are in ``uld_torchrl.peers``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gymnasium.spaces import Discrete
from torchrl.envs import EnvBase

from uld_torchrl.config import AgentConfig
from uld_torchrl.data import WindowReplayBuffer
from uld_torchrl.envs import EnvLike, task_spaces
from uld_torchrl.errors import InputError
from uld_torchrl.peers import PeerConfig, harness_config, metrics_of, name_of
from uld_torchrl.peers.networks import check_actions
from uld_torchrl.peers.stepper import make_stepper
from uld_torchrl.trainers.agent import Agent
from uld_torchrl.trainers.engines import Engine
from uld_torchrl.trainers.environments import check_images, with_lanes
from uld_torchrl.trainers.logs import METRICS
from uld_torchrl.trainers.stepper import ULDOptimizationStepper
from uld_torchrl.trainers.watchdog import Watchdog


def run_config(config: AgentConfig, env: EnvLike, peer: PeerConfig | None) -> AgentConfig:
    """Return the settings that the loop reads: of a peer's run those of ``run`` count.

    Example:
        >>> from uld_torchrl.peers import DQNConfig
        >>> run_config(AgentConfig(), "CartPole-v1", DQNConfig()).optim.batch_size
        128
    """
    return with_lanes(config if peer is None else harness_config(config.run, peer), env)


def check_task(env: EnvBase, config: AgentConfig, peer: PeerConfig | None) -> None:
    """Refuse a task that the agent cannot be trained on.

    Raises:
        InputError: images that are too small, any images for a peer, actions that a peer does not take.

    Example:
        >>> from uld_torchrl import make_env
        >>> check_task(make_env("CartPole-v1"), AgentConfig(), None)
    """
    if peer is None:
        return check_images(env, config)
    task = task_spaces(env)
    if task.frames is not None:
        raise InputError(
            f"agent {name_of(peer)} takes vectors, got images of shape {task.observation.shape}: take agent "
            "uld for pixels and Atari games."
        )
    check_actions(peer, isinstance(task.action, Discrete))


def run_metrics(peer: PeerConfig | None) -> Sequence[str]:
    """Return the columns of the run's metrics.csv.

    Example:
        >>> run_metrics(None)[-1]
        'reward_scale'
    """
    return list(METRICS) if peer is None else metrics_of(peer)


def make_run_stepper(
    agent: Agent,
    buffer: WindowReplayBuffer,
    config: AgentConfig,
    watchdog: Watchdog,
    tell: Callable[[str], None],
    engine: Engine | None,
) -> Any:
    """Make what updates the agent of a run: ULD's stepper, or that of the peer."""
    if agent.peer is not None:
        return make_stepper(agent.peer, agent.loss, agent.policy, buffer, watchdog)
    # Our replay makes no window that runs past a truncation; asking would make a GPU wait.
    agent.loss.check_windows = False
    total = config.total_updates
    return ULDOptimizationStepper(agent.loss, buffer, config.optim, watchdog, tell, engine, total)
