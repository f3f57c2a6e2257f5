"""Train agents on tabular MDPs and hold them against the exact theory: a table, and a picture.

    python tests/benchmarks/train_tabular.py [--seeds 5] [--tasks chain garnet-20-3-3-0 ...] [--run-dir runs]

Each agent is trained as ``uld train tabular/<task> --preset tabular`` does it, and audited every 500 steps with
``uld_torchrl.diagnostics.AuditEvery``. Nothing is asserted here; runs that are finished are not trained again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import uld_torchrl
from theory.plots import save
from theory.plots.style import PALETTE, describe, new_figure
from uld_torchrl.diagnostics import AuditEvery
from uld_torchrl.trainers.logs import read_rows

TASKS = ("chain", "garnet-20-3-3-0", "frozenlake4x4-deterministic", "frozenlake4x4")
SHOWN = {
    "share of V*": lambda row: _number(row, "policy_value") / _number(row, "best_value"),
    "claimed / true": lambda row: _number(row, "claimed_value") / _number(row, "policy_value"),
    "value error": lambda row: _number(row, "value_error"),
    "n-step part": lambda row: _number(row, "n_step_part"),
    "the rest": lambda row: _number(row, "n_step_rest"),
    "R2 of Q^pi": lambda row: _number(row, "r2_true"),
    "by chance": lambda row: _number(row, "r2_random"),
}
AUDIT_EVERY = 500


@dataclass(frozen=True)
class Trained:
    """The rows of audits.csv of one task, a list for each seed."""

    task: str
    seeds: list[list[dict[str, str]]]

    def last(self, figure: str) -> np.ndarray:
        """Return a figure of the last audit, one number a seed."""
        return np.array([SHOWN[figure](rows[-1]) for rows in self.seeds])


def _number(row: dict[str, str], name: str) -> float:
    return float(row[name]) if row.get(name) else float("nan")


def train(task: str, seed: int, run_dir: Path) -> list[dict[str, str]]:
    """Train, or find trained, one agent; return its audits."""
    found = uld_torchrl.train(
        "tabular", f"tabular/{task}", seed=seed, run_dir=run_dir, callbacks=[AuditEvery(AUDIT_EVERY)]
    )
    return read_rows(found.path / "audits.csv")


def table(results: list[Trained]) -> str:
    """Return mean and standard deviation over seeds of each figure, as Markdown."""
    head = ["Task", "seeds", *SHOWN, "least share of V*"]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for result in results:
        cells = [f"{result.last(name).mean():.3f} ({result.last(name).std():.3f})" for name in SHOWN]
        worst = f"{result.last('share of V*').min():.4f}"
        lines.append(" | ".join([f"`{result.task}`", str(len(result.seeds)), *cells, worst]))
    return "\n".join(f"| {line} |" for line in lines)


def draw(results: list[Trained], path: Path) -> None:
    """Draw the value of the policy, and the parts of the critic's error, over training time."""
    figure, panels = new_figure(2, len(results), panel=(3.6, 3.1))
    for column, result in enumerate(results):
        steps = [int(row["step"]) for row in result.seeds[0]]
        top, bottom = panels[column], panels[len(results) + column]
        for rows in result.seeds:
            top.plot(steps, [SHOWN["share of V*"](row) for row in rows], color=PALETTE["blue"], linewidth=1)
            for name, colour in (("n-step part", "vermillion"), ("the rest", "green")):
                label = name if rows is result.seeds[0] else None
                values = [SHOWN[name](row) for row in rows]
                bottom.plot(steps, values, color=PALETTE[colour], linewidth=1, label=label)
        describe(top, "agent steps", "share of V*", result.task)
        describe(bottom, "agent steps", "D-norm [reward]", "the critic's error")
        bottom.set_yscale("log")
        bottom.legend(frameon=False, fontsize=8)
    save(figure, path)


def main() -> None:
    """Train, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--run-dir", type=Path, default=Path("runs"))
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = [
        Trained(task, [train(task, seed, given.run_dir) for seed in range(given.seeds)]) for task in given.tasks
    ]
    print(table(results))
    if given.picture:
        draw(results, given.picture)


if __name__ == "__main__":
    main()
