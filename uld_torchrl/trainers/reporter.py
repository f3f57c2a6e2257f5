"""Reporter: the rows of a run's tables while it trains, its evaluations and its clock.

What the columns mean, and the files, is in ``logs``; when a row is due, is the trainer's part.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from uld_torchrl.trainers.agent import Agent
from uld_torchrl.trainers.checkpoints import Saved
from uld_torchrl.trainers.evaluation import Evaluation, eval_epsilon, evaluate, stream_seed
from uld_torchrl.trainers.logs import RunLog

_LOG = logging.getLogger(__name__)
_EVAL_ENV = 2  # purpose of the random stream derived from the run's seed
_SHOWN = {
    "episode_return": "return",
    "loss_encoder": "encoder",
    "loss_qvalue": "value",
    "loss_actor": "policy",
}


class Reporter:
    """Writes what a run has done to its log.

    Args:
        log: where rows go.
        agent: who is evaluated.
        eval_env: on what.
        seed: of the run; each evaluation draws from a stream of its own.
        seconds: wall-clock seconds of earlier sessions.
    """

    def __init__(self, log: RunLog, agent: Agent, eval_env: EnvBase, seed: int, seconds: float) -> None:
        self._log, self._agent, self._eval_env, self._seed = log, agent, eval_env, seed
        self.seconds = seconds
        self._checkpoints: list[Saved] = []
        self.begin(0)

    def begin(self, step: int) -> None:
        """Start the clock of a session."""
        self._clock, self._clock_step = time.monotonic(), step

    def metrics(
        self, counters: dict[str, int], returns: Sequence[float], losses: TensorDictBase | None
    ) -> Any:
        """Write a row of metrics.csv and of timing.csv.

        Args:
            counters: ``step``, ``episodes``, ``updates``, ``skipped_updates``.
            returns: of the episodes that ended since the last row.
            losses: metrics of the last update, None before the first.

        Returns:
            The figures that a progress bar shows, by their label.
        """
        row: dict[str, Any] = dict(counters)
        if returns:
            row["episode_return"] = float(np.mean(returns))
        if losses is not None:
            row |= {name: float(value) for name, value in losses.items()}
        self._log.write("train", row)
        self._time(counters["step"])
        return {label: row[name] for name, label in _SHOWN.items() if name in row}

    def _time(self, step: int) -> None:
        elapsed = time.monotonic() - self._clock
        self.seconds += elapsed
        rate = (step - self._clock_step) / max(elapsed, 1e-9)
        row = {"step": step, "seconds": round(self.seconds, 3), "steps_per_second": round(rate, 2)}
        if self._checkpoints:
            row["checkpoint_seconds"] = round(sum(saved.seconds for saved in self._checkpoints), 3)
            row["checkpoint_megabytes"] = round(self._checkpoints[-1].size / 1e6, 3)
            self._checkpoints = []
        self._log.write("time", row)
        self.begin(step)

    def saved(self, saved: Saved) -> None:
        """Tell of a checkpoint, and note it for the next row of timing.csv."""
        _LOG.info("%s", saved)
        self._checkpoints.append(saved)

    def evaluate(self, step: int, on_step: Callable[..., None] | None = None) -> Evaluation:
        """Play the episodes of an evaluation and write a row of eval.csv; ``on_step`` may cut it short."""
        config = self._agent.config
        result = evaluate(
            self._eval_env,
            self._agent.policy,
            seed=stream_seed(self._seed, _EVAL_ENV, step),
            episodes=config.run.eval_episodes,
            epsilon=eval_epsilon(self._agent.env_id, config),
            on_step=on_step,
        )
        row = {
            "step": step,
            "episode_return_mean": result.mean,
            "episode_return_std": result.std,
            "episode_length_mean": float(result.lengths.mean()),
            "episodes": len(result.returns),
        }
        self._log.write("eval", row)
        return result
