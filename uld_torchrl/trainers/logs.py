"""CSV files of a run, and the table of everything that is logged.

Rows are flushed as they are written. On resume, rows after the restored step are cut.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from uld_torchrl.trainers.files import replace_text

METRICS = {
    "step": "agent steps stored so far",
    "episodes": "training episodes finished so far",
    "episode_return": "mean undiscounted return of the training episodes finished since the last row; "
    "empty if none",
    "updates": "updates done so far",
    "loss_encoder": "encoder loss (mean of the last burst of encoder updates)",
    "dynamics_error": "its dynamics part: squared error of the predicted embeddings, summed over the horizon",
    "reward_error": "its reward part: two-hot cross-entropy, summed over the horizon, before its weight",
    "terminated_error": "its termination part: squared error, summed over the horizon, before its weight; "
    "not trained before a termination is seen",
    "reward_mae": "mean absolute error of the predicted reward, reward units",
    "loss_qvalue": "Huber loss of the value heads, in units of the reward scale",
    "loss_actor": "policy loss, in units of the reward scale",
    "value_grad_norm": "norm of the value gradient before clipping",
    "td_error_mean": "mean over the batch of max_i |Q_i - y|, in units of the reward scale",
    "pred_value": "mean predicted value, reward units",
    "target_value": "mean value target, reward units",
    "actor_value": "mean value of the policy's action, reward units",
    "pre_activation_sq": "mean squared pre-activation of the policy",
    "reward_scale": "mean absolute reward over the replay buffer at the last period, reward units",
}
"""Columns of metrics.csv and what they mean."""

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
}
"""Columns of timing.csv and what they mean."""


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
        writer.writerows(row for row in rows if int(row["step"]) <= (keep_until or 0))
        replace_text(path, text.getvalue())

    def append(self, row: Mapping[str, float | int | None]) -> None:
        """Add one row; a missing or None value leaves its cell empty."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(row)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the whole rows of a CSV file; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if _is_whole(row)]


def _is_whole(row: Mapping[str, str | None]) -> bool:
    # A crash may have cut the last row.
    return None not in row.values() and str(row.get("step")).isdigit()
