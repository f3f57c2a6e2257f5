"""What the benchmarks measure, put together as a run would: environment, agent, filled replay, stepper.

Nothing is timed here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchrl.envs import EnvBase

from uld_torchrl.config import AgentConfig, override
from uld_torchrl.data import WindowReplayBuffer
from uld_torchrl.envs import canonical_id, make_env
from uld_torchrl.trainers import ULDOptimizationStepper
from uld_torchrl.trainers.agent import Agent
from uld_torchrl.trainers.replay import make_run_replay

DEFAULT_ENV = "gym/HalfCheetah-v5"
_ENDLESS = 10**9  # a period that never begins


@dataclass(frozen=True)
class Parts:
    """The parts of a run without the run."""

    env_id: str
    env: EnvBase
    config: AgentConfig
    agent: Agent
    buffer: WindowReplayBuffer
    device: torch.device

    def stepper(self, config: AgentConfig | None = None) -> ULDOptimizationStepper:
        """Return a stepper with networks of its own that is within a period and never begins the next."""
        config = override(config or self.config, [f"optim.period={_ENDLESS}"])
        agent = Agent.for_env(self.env_id, self.env, config, self.device)
        agent.loss.check_windows = False
        stepper = ULDOptimizationStepper(
            agent.loss, self.buffer, config.optim, total_updates=config.total_updates
        )
        stepper.target_updater.counter = 1
        return stepper


def assemble(
    config: AgentConfig, env: str, device: torch.device | str, *, steps: int, lanes: int = 1
) -> Parts:
    """Make the environment, the agent, and a replay buffer that holds ``steps`` random time steps.

    Raises:
        InputError: see :func:`~uld_torchrl.make_env`.

    Example:
        >>> from uld_torchrl import preset
        >>> len(assemble(preset("debug"), "Pendulum-v1", "cpu", steps=32).buffer)
        32
    """
    device = torch.device(device)
    capacity = [f"replay.capacity={steps * lanes}", f"run.total_steps={steps * lanes}"]
    config = override(config, [f"run.num_envs={lanes}", *capacity])
    made = make_env(env, num_envs=lanes, seed=0, device=device, pixels=config.pixels, atari=config.atari)
    agent = Agent.for_env(canonical_id(env), made, config, device)
    buffer = make_run_replay(made, config, device, None)
    td = made.reset()
    for _ in range(steps):
        stepped, td = made.step_and_maybe_reset(made.rand_action(td))
        buffer.add(stepped)
    return Parts(canonical_id(env), made, config, agent, buffer, device)
