"""Reporter: the rows of a run's tables while it trains, its evaluations and its clock.

What the columns mean, and the files, is in ``logs``; when a row is due, is the trainer's part.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from uld_torchrl.trainers.agent import Agent
from uld_torchrl.trainers.evaluation import Evaluation, eval_epsilon, evaluate, stream_seed
from uld_torchrl.trainers.logs import RunLog

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
        self.begin(0)

    def begin(self, step: int) -> None:
        """Start the clock of a session."""
        self._clock, self._clock_step = time.monotonic(), step

    def metrics(
        self, counters: dict[str, int], returns: Sequence[float], losses: TensorDictBase | None
    ) -> Any:
        """Write a row of metrics.csv and of timing.csv.

        Args:
            counters: ``step``, ``episodes``, ``updates``.
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
        self._log.write(
            "time", {"step": step, "seconds": round(self.seconds, 3), "steps_per_second": round(rate, 2)}
        )
        self.begin(step)

    def evaluate(self, step: int) -> Evaluation:
        """Play the episodes of an evaluation and write a row of eval.csv."""
        config = self._agent.config
        result = evaluate(
            self._eval_env,
            self._agent.policy,
            seed=stream_seed(self._seed, _EVAL_ENV, step),
            episodes=config.run.eval_episodes,
            epsilon=eval_epsilon(self._agent.env_id, config),
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
