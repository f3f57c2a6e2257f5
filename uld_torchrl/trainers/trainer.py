"""ULDTrainer: the loop of one run: act, store, update, evaluate, save.

Our own and small, because ``torchrl.trainers.Trainer`` has no hook for two kinds of batches. The
update is in ``stepper``, files are in ``run_dir``, ``logs`` and ``checkpoints``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.checkpoint import GlobalRNGState
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from uld_torchrl.config import AgentConfig
from uld_torchrl.data import WindowReplayBuffer, make_replay_buffer
from uld_torchrl.envs import canonical_id, make_env
from uld_torchrl.errors import InputError
from uld_torchrl.trainers.agent import Agent
from uld_torchrl.trainers.checkpoints import RunCheckpoints
from uld_torchrl.trainers.evaluation import Evaluation, evaluate, stream_seed
from uld_torchrl.trainers.logs import EVALUATION, METRICS, TIMING, CsvLog, read_rows
from uld_torchrl.trainers.plots import plot_learning_curve
from uld_torchrl.trainers.progress import Progress
from uld_torchrl.trainers.run_dir import RunDir, record_session
from uld_torchrl.trainers.stepper import ULDOptimizationStepper

# Purposes of the random streams derived from the run's seed.
_TRAIN_ENV, _EVAL_ENV = 1, 2


@dataclass(frozen=True)
class TrainResult:
    """The last evaluation of a run: return (mean, standard deviation) and length over episodes."""

    step: int
    return_mean: float
    return_std: float
    length_mean: float
    path: Path


class ULDTrainer:
    """Train an agent on an environment, into a run directory; goes on from its last checkpoint.

    Training starts when more than ``random_steps`` agent steps are stored; from then on one update
    an agent step, ``num_envs`` a vector step. Evaluation uses environments and random streams of
    its own. Resuming is not exact yet: the open episode is cut, and marked as truncated.

    Args:
        env_id: see :func:`~uld_torchrl.make_env`.
        config: all settings.
        run: directory, from :func:`~uld_torchrl.trainers.open_run`.
        seed: of networks, environments, exploration and sampling.
        device: of networks and replay buffer.
        progress: show progress on standard error.

    Raises:
        InputError: unsupported spaces, a damaged checkpoint.

    Example:
        >>> import tempfile
        >>> from uld_torchrl.config import preset
        >>> from uld_torchrl.trainers import open_run
        >>> config = preset("debug")
        >>> run = open_run(Path(tempfile.mkdtemp()), "gym/CartPole-v1", "debug", 0, config)
        >>> trainer = ULDTrainer("CartPole-v1", config, run)
        >>> trainer.train().step
        300
    """

    def __init__(
        self,
        env_id: str,
        config: AgentConfig,
        run: RunDir,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        progress: bool = False,
    ) -> None:
        self.env_id, self.config, self.run = canonical_id(env_id), config, run
        self.seed, self.device, self.show_progress = seed, torch.device(device), progress
        self.step = self.episodes = 0
        self.seconds = 0.0
        _seed_everything(seed)
        self.env = self._make_env(config.run.num_envs)
        self.agent = Agent.for_env(self.env_id, self.env, config, self.device)
        self.buffer = self._make_buffer()
        self.stepper = ULDOptimizationStepper(self.agent.loss, self.buffer, config.optim)
        # Our replay makes no window that runs past a truncation; asking would make a GPU wait.
        self.agent.loss.check_windows = False
        self.checkpoints = RunCheckpoints(run.checkpoints, self._components())
        self._resume()

    def _make_env(self, num_envs: int) -> EnvBase:
        return make_env(self.env_id, num_envs=num_envs, device=self.device)

    def _make_buffer(self) -> WindowReplayBuffer:
        replay, run = self.config.replay, self.config.run
        # No more than the run can fill, and room for one window in each lane.
        useful = max(run.total_steps, self.config.loss.horizon * run.num_envs) + run.num_envs
        return make_replay_buffer(
            capacity=min(replay.capacity, useful),
            num_lanes=run.num_envs,
            horizon=self.config.loss.horizon,
            batch_size=self.config.optim.batch_size,
            alpha=replay.lap_alpha,
            min_priority=replay.lap_min_priority,
            device=self.device,
        )

    @staticmethod
    def check_env(env_id: str) -> None:
        """Make and drop one environment, so that a bad name leaves no run directory behind.

        Raises:
            InputError: an unknown name or unsupported spaces.
        """
        make_env(env_id).close()

    @cached_property
    def eval_env(self) -> EnvBase:
        """The environments of evaluation, one an episode; made when first needed."""
        return self._make_env(self.config.run.eval_episodes)

    # Saving and resuming

    def _components(self) -> dict[str, Any]:
        return {
            "loss": self.agent.loss,
            "stepper": self.stepper,
            "replay": self.buffer,
            "random": GlobalRNGState(),
            "progress": self,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the counters of the run."""
        return {"step": self.step, "episodes": self.episodes, "seconds": self.seconds}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the counters of the run."""
        self.step, self.episodes = int(state_dict["step"]), int(state_dict["episodes"])
        self.seconds = float(state_dict["seconds"])

    def _resume(self) -> None:
        restored = self.checkpoints.restore() is not None
        if restored:
            self.buffer.mark_newest_truncated()
        keep = self.step if restored else None
        self.metrics_log = CsvLog(self.run.metrics, list(METRICS), keep_until=keep)
        self.eval_log = CsvLog(self.run.evaluations, list(EVALUATION), keep_until=keep)
        self.timing_log = CsvLog(self.run.timing, list(TIMING), keep_until=keep)

    # The loop

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.run.total_steps

    def train(self) -> TrainResult:
        """Run until ``total_steps``, save the final model and the learning curve."""
        if not self.finished:
            self._loop()
            self.save()
        self._finish()
        return self._result()

    def _loop(self) -> None:
        record_session(self.run, self.config, self.step)
        self._begin()
        progress = Progress(self.config.run.total_steps, self.step, enabled=self.show_progress)
        try:
            while not self.finished:
                self._interact()
                self._learn()
                progress.update(self.config.run.num_envs, self._report())
        finally:
            progress.close()

    def _begin(self) -> None:
        self.env.set_seed(stream_seed(self.seed, _TRAIN_ENV, self.step))
        self._td = self.env.reset()
        self._episode_return = torch.zeros(self.env.batch_size, device=self.device)
        self._finished_returns: list[float] = []
        self._latest: TensorDictBase | None = None
        self._clock, self._clock_step = time.monotonic(), self.step

    def _interact(self) -> None:
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            warm_up = self.step < self.config.run.random_steps
            td = self.env.rand_action(self._td) if warm_up else self.agent.policy(self._td)
        stepped, self._td = self.env.step_and_maybe_reset(td)
        self.buffer.add(stepped)
        self.step += self.config.run.num_envs
        self._count_returns(stepped.get("next"))

    def _count_returns(self, result: TensorDictBase) -> None:
        self._episode_return += result.get("reward").squeeze(-1)
        done = result.get("done").squeeze(-1)
        if bool(done.any()):
            self._finished_returns += self._episode_return[done].tolist()
            self.episodes += int(done.sum())
            self._episode_return[done] = 0.0

    def _learn(self) -> None:
        if self.step <= self.config.run.random_steps or not self.buffer.can_sample():
            return
        for _ in range(self.config.run.num_envs):
            self._latest = self.stepper.step(None, self.buffer.sample())

    def _report(self) -> dict[str, float]:
        run = self.config.run
        figures: dict[str, float] = {}
        if self._due(run.log_every):
            figures |= self._log_metrics()
        if self._due(run.eval_every) or self.finished:
            figures["eval"] = self._evaluate().mean
        if self._due(run.checkpoint_every) and not self.finished:
            self.save()
        return figures

    def _due(self, every: int) -> bool:
        """Whether the last vector step reached or passed a multiple of ``every``."""
        return self.step // every != (self.step - self.config.run.num_envs) // every

    def _log_metrics(self) -> dict[str, float]:
        row: dict[str, Any] = {"step": self.step, "episodes": self.episodes, "updates": self.stepper.updates}
        if self._finished_returns:
            row["episode_return"] = float(np.mean(self._finished_returns))
        if self._latest is not None:
            row |= {name: float(value) for name, value in self._latest.items()}
        self.metrics_log.append(row)
        self._finished_returns = []
        self._log_time()
        shown = {
            "episode_return": "return",
            "loss_encoder": "encoder",
            "loss_qvalue": "value",
            "loss_actor": "policy",
        }
        return {label: row[name] for name, label in shown.items() if name in row}

    def _log_time(self) -> None:
        elapsed = time.monotonic() - self._clock
        self.seconds += elapsed
        rate = (self.step - self._clock_step) / max(elapsed, 1e-9)
        self.timing_log.append(
            {"step": self.step, "seconds": round(self.seconds, 3), "steps_per_second": round(rate, 2)}
        )
        self._clock, self._clock_step = time.monotonic(), self.step

    def _evaluate(self) -> Evaluation:
        seed = stream_seed(self.seed, _EVAL_ENV, self.step)
        result = evaluate(self.eval_env, self.agent.policy, seed=seed)
        self.eval_log.append(
            {
                "step": self.step,
                "episode_return_mean": result.mean,
                "episode_return_std": result.std,
                "episode_length_mean": float(result.lengths.mean()),
                "episodes": len(result.returns),
            }
        )
        return result

    def save(self) -> None:
        """Write a checkpoint."""
        self.checkpoints.save(self.step)

    def _finish(self) -> None:
        self.agent.save(self.run.model)
        plot_learning_curve([self.run.evaluations], self.run.curve, f"{self.env_id}, seed {self.seed}")

    def _result(self) -> TrainResult:
        rows = read_rows(self.run.evaluations)
        if not rows:
            raise InputError(f"{self.run.evaluations} has lost its rows; use --fresh for a new run.")
        last = rows[-1]
        mean, std, length = (
            float(last[f"episode_{name}"]) for name in ("return_mean", "return_std", "length_mean")
        )
        return TrainResult(self.step, mean, std, length, self.run.path)

    def close(self) -> None:
        """Free the environments."""
        self.env.close()
        if "eval_env" in self.__dict__:
            self.eval_env.close()


def _seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
