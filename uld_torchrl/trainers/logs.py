"""The tables of a run, the meaning of every column, and where their rows go.

CSV files always, TensorBoard and Weights & Biases on request through TorchRL's loggers. Rows are flushed as
they are written. On resume, CSV rows after the restored step are cut.
"""

from __future__ import annotations

import csv
import importlib
import io
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torchrl.record.loggers.common import Logger
from torchrl.record.loggers.tensorboard import TensorboardLogger
from torchrl.record.loggers.wandb import WandbLogger

from uld_torchrl.errors import InputError, one_of
from uld_torchrl.tables import read_numbers, read_rows, read_table
from uld_torchrl.trainers.files import flush, replace_text, writing
from uld_torchrl.trainers.run_dir import RunDir
from uld_torchrl.untrusted import brief, read_text, unreadable

LogTarget = Literal["tensorboard", "wandb"]
Row = Mapping[str, float | int | None]

METRICS = {
    "step": "agent steps stored so far",
    "episodes": "training episodes finished so far",
    "episode_return": "mean undiscounted return of the training episodes finished since the last row; "
    "empty if none",
    "updates": "updates done so far, those left out included",
    "skipped_updates": "updates left out so far because a loss, gradient or batch was not finite, each "
    "encoder update of a burst counted; zero unless the run has `--on-nonfinite skip`",
    "loss_encoder": "encoder loss (mean of the last burst of encoder updates)",
    "dynamics_error": "its dynamics part: squared error of the predicted embeddings, summed over the horizon",
    "reward_error": "its reward part: two-hot cross-entropy, summed over the horizon, before its weight",
    "terminated_error": "its termination part: squared error, summed over the horizon, before its weight; "
    "not trained before a termination is seen",
    "reward_mae": "mean absolute error of the predicted reward, reward units",
    "loss_qvalue": "Huber loss of the value heads, in units of the reward scale",
    "loss_actor": "policy loss, in units of the reward scale",
    "value_grad_norm": "norm of the value gradient before clipping",
    "td_error_mean": "mean over the batch of max_i abs(Q_i - y), in units of the reward scale",
    "pred_value": "mean predicted value, reward units",
    "target_value": "mean value target, reward units",
    "actor_value": "mean value of the policy's action, reward units",
    "pre_activation_sq": "mean squared pre-activation of the policy",
    "reward_scale": "mean absolute reward over the replay buffer at the last period, reward units",
}
"""Columns of metrics.csv and what they mean."""

PEER_METRICS = {
    **{name: METRICS[name] for name in ("step", "episodes", "episode_return", "updates", "skipped_updates")},
    "loss_qvalue": "squared error of the values, summed over the two of TD3 and SAC, reward units squared",
    "value_grad_norm": METRICS["value_grad_norm"],
    "td_error_mean": "mean over the batch of max_i abs(Q_i - y), reward units",
    "pred_value": METRICS["pred_value"],
    "target_value": METRICS["target_value"],
    "loss_actor": "policy loss: TD3 -Q_1, SAC temperature * log pi - min_i Q_i, reward units",
    "actor_value": METRICS["actor_value"],
    "temperature": "SAC's weight of the entropy",
    "entropy": "mean of -log pi over the batch",
    "epsilon": "DQN's probability of a random action",
}
"""Columns of metrics.csv of peers and what they mean; each has those that it uses."""

EVALUATION = {
    "step": "agent steps stored so far",
    "episode_return_mean": "mean undiscounted return over the evaluation episodes",
    "episode_return_std": "standard deviation over these episodes",
    "episode_length_mean": "mean length in agent steps",
    "episodes": "number of episodes",
}
"""Columns of eval.csv and what they mean."""

TIMING = {
    "step": "agent steps stored so far",
    "seconds": "wall-clock seconds since the start, over all sessions of the run",
    "steps_per_second": "agent steps per second since the last row, evaluation included",
    "checkpoint_seconds": "seconds that the checkpoints since the last row took; empty if there was none",
    "checkpoint_megabytes": "size of the last of these",
}
"""Columns of timing.csv and what they mean."""

LOGGED = {"train": METRICS, "eval": EVALUATION, "time": TIMING}
"""Everything that is logged: table -> column -> meaning; elsewhere than in CSV files as <table>/<column>."""


class CsvLog:
    """A CSV file with fixed columns that is appended to, and cut on resume.

    Args:
        path: the file. columns: their names; ``step`` comes first.
        keep_until: drop the rows of a later step that the file may hold; None: start anew.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "log.csv"
        >>> CsvLog(path, ["step", "x"]).append({"step": 1, "x": 0.5})
        >>> read_rows(path)
        [{'step': '1', 'x': '0.5'}]
    """

    def __init__(self, path: Path, columns: Sequence[str], *, keep_until: int | None = None) -> None:
        self.path, self.columns = path, list(columns)
        rows = [] if keep_until is None else read_rows(path)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        if unknown := [name for name in (rows or [{}])[0] if name not in self.columns]:
            raise InputError(
                f"{path} has columns that this version does not write ({brief(', '.join(unknown))}): move it "
                "away to go on, or use --fresh for a new run."
            )
        writer.writerows(row for row in rows if int(row["step"]) <= (keep_until or 0))
        replace_text(path, text.getvalue())

    def append(self, row: Row) -> None:
        """Add one row; a missing or None value leaves its cell empty."""
        with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(row)


def flush_tables(run: RunDir) -> None:
    """Wait until what was written so far is on the disk: a checkpoint takes it for granted."""
    for path in (*run.path.glob("*.csv"), *run.audit_files().values()):
        flush(path)


def forget_after(run: RunDir, step: int, *, looked: bool = True) -> None:
    """Drop audits, and rows of every CSV file, of steps that the run will do again.

    Also of those tables that this session will not write. If the run has not ``looked`` at itself at this
    step, only training metrics and times are kept of it.

    Example:
        >>> import tempfile
        >>> run = RunDir(Path(tempfile.mkdtemp()))
        >>> CsvLog(run.path / "probes.csv", ["step"]).append({"step": 30})
        >>> forget_after(run, 20)
        >>> read_rows(run.path / "probes.csv")
        []
    """
    seen = step if looked else step - 1
    for done, export in run.audit_files().items():
        if done > seen:
            export.unlink()
    for path in run.path.glob("*.csv"):
        columns, _ = read_table(path)
        if columns[:1] == ["step"]:
            CsvLog(path, columns, keep_until=step if path in (run.metrics, run.timing) else seen)


class RunLog:
    """Writes the rows of a run's tables to its CSV files, and to whatever else was asked for.

    Args:
        run: the run's directory; TensorBoard's and W&B's files go to folders in it.
        keep_until: see :class:`CsvLog`.
        log_to: "tensorboard", "wandb".
        metrics: columns of metrics.csv.

    Raises:
        InputError: an unknown target, or its package is not installed.

    Example:
        >>> import tempfile
        >>> log = RunLog(RunDir(Path(tempfile.mkdtemp())))
        >>> log.write("time", {"step": 1, "seconds": 0.5})
    """

    def __init__(
        self,
        run: RunDir,
        *,
        keep_until: int | None = None,
        log_to: Sequence[LogTarget] = (),
        metrics: Sequence[str] = tuple(METRICS),
    ) -> None:
        wanted = [log_to] if isinstance(log_to, str) else dict.fromkeys(log_to)
        read_numbers(run.evaluations, list(EVALUATION))  # refused now rather than in the end
        self._targets = [_target(name, run, keep_until) for name in wanted]
        paths = {"train": run.metrics, "eval": run.evaluations, "time": run.timing}
        columns = {table: list(LOGGED[table]) for table in paths} | {"train": list(metrics)}
        self._files = {
            table: CsvLog(path, columns[table], keep_until=keep_until) for table, path in paths.items()
        }

    def write(self, table: str, row: Row) -> None:
        """Append a row, which has a ``step``, to a table of ``LOGGED``."""
        self._files[table].append(row)
        for name, value in row.items():
            if name != "step" and value is not None:
                for target in self._targets:
                    target.log_scalar(f"{table}/{name}", float(value), step=int(row["step"] or 0))

    def close(self) -> None:
        """Let TensorBoard and W&B write what they hold back."""
        for target in self._targets:
            _CLOSE[type(target)](target.experiment)


def _target(name: str, run: RunDir, keep_until: int | None) -> Logger:
    one_of("log_to", name, _MAKE)
    try:
        return _MAKE[name](run, keep_until)
    except ImportError as error:
        raise InputError(
            f"log_to={name!r} needs a package that is missing ({error}): pip install 'uld-torchrl[{name}]'."
        ) from error


class _Tensorboard(TensorboardLogger):
    # TorchRL's, but for the purge: without it TensorBoard keeps the rows that a resumed run writes anew.
    def __init__(self, folder: Path, purge_step: int) -> None:
        self._purge_step = purge_step
        super().__init__(folder.name, log_dir=str(folder.parent))

    def _create_experiment(self) -> Any:
        importlib.import_module("tensorboard")
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        return writer(log_dir=str(Path(self.log_dir) / self.exp_name), purge_step=self._purge_step)


def _tensorboard(run: RunDir, keep_until: int | None) -> Logger:
    return _Tensorboard(run.path / "tensorboard", (keep_until or 0) + 1)


def _wandb(run: RunDir, keep_until: int | None) -> Logger:
    folder = run.path / "wandb"
    folder.mkdir(exist_ok=True)
    known = folder / "id.txt"  # so that a repeated command goes on in the same W&B run
    if not os.path.lexists(known):
        replace_text(known, secrets.token_hex(8))
    session = read_text(known, 1000).strip()
    if not re.fullmatch("[A-Za-z0-9_-]{1,128}", session):  # W&B makes names of files of it
        raise unreadable(known, f"it holds no W&B id, but {brief(repr(session), 50)}")
    name = "/".join(run.path.parts[-4:])
    return WandbLogger(name, project="uld-torchrl", save_dir=run.path, id=session)


_MAKE: dict[str, Any] = {"tensorboard": _tensorboard, "wandb": _wandb}
_CLOSE: dict[type, Any] = {
    _Tensorboard: lambda writer: writer.close(),
    WandbLogger: lambda session: session.finish(),
}
