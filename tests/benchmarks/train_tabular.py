"""Train agents on tabular MDPs and hold them against the exact theory: a table, and a picture.

    python tests/benchmarks/train_tabular.py [--tasks chain ...] [--seeds 5] [--run-dir runs] [--picture FILE]

Preset ``small`` with the settings in ``SETTINGS`` and ``TASKS``. Finished runs are not trained again, so that
several processes may share the work. Nothing is asserted here. Where episodes began anywhere in training, the
share of V* is nevertheless that from the MDP's own start: of the policy, which is how the agent acts, and of
the greedy policy of its critic.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import theory
import uld_torchrl
from theory.plots import save
from theory.plots.style import PALETTE, describe, new_figure
from uld_torchrl.config import AgentConfig, override, preset
from uld_torchrl.diagnostics import AuditEvery
from uld_torchrl.envs import named_mdp
from uld_torchrl.gymnasium_ids import ANYWHERE
from uld_torchrl.tables import read_rows

SETTINGS = (
    *("model.z_s_dim=64", "model.z_a_dim=32", "model.z_sa_dim=64", "model.hidden_dim=64"),
    *("model.bin_range=1", "model.gumbel_tau=0.2", "loss.pre_activation_coeff=1e-2"),
    *("loss.value_loss=mse", "replay.lap_alpha=0", "loss.exploration_noise=1"),
    *("optim.batch_size=128", "optim.period=20", "optim.value_lr=1e-3", "optim.encoder_lr=3e-4"),
    *("run.random_steps=3000", "run.total_steps=8000", "run.eval_every=10000", "run.checkpoint_every=10000"),
)
"""Set for all tasks, the rest is preset ``small``; the README says why each group is needed."""
ONE_STEP = ("loss.n_steps=1", "loss.horizon=3")
"""Where actions matter at every step, returns over several steps of exploration are too low."""
TASKS: dict[str, tuple[str, ...]] = {
    "chain": (),
    "garnet-20-3-3-0": (*ONE_STEP, "loss.gamma=0.9", "run.total_steps=10000"),
    f"frozenlake4x4-deterministic{ANYWHERE}": ONE_STEP,
    f"frozenlake4x4{ANYWHERE}": (*ONE_STEP, "run.random_steps=10000", "run.total_steps=25000"),
}
"""Tasks, and further settings of each."""

SHARE, CRITIC = "policy's share of V*", "critic's share of V*"
COLUMNS = {
    SHARE: SHARE,
    CRITIC: CRITIC,
    "claimed V": "claimed_value",
    "true V": "policy_value",
    "critic's error": "value_error",
    "n-step part": "n_step_part",
    "rest": "n_step_rest",
    "R2 of Q^pi": "r2_true",
    "by chance": "r2_random",
}
"""Headings, and where they stand in audits.csv."""
AUDIT_EVERY = 1000
Row = dict[str, float]


@dataclass(frozen=True)
class Trained:
    """The audits of one task: a list of rows for each seed."""

    task: str
    seeds: list[list[Row]]

    def last(self, column: str) -> np.ndarray:
        """Return a figure of the last audit, one number a seed."""
        return np.array([rows[-1][column] for rows in self.seeds])


def train(task: str, seed: int, run_dir: Path) -> list[Row]:
    """Train, or find trained, one agent; return its audits."""
    config = override(preset("small"), [*SETTINGS, *TASKS[task]])
    found = uld_torchrl.train(
        config,
        f"tabular/{task}",
        name="tabular",
        seed=seed,
        run_dir=run_dir,
        callbacks=[AuditEvery(AUDIT_EVERY)],
    )
    rows = read_rows(found.path / "audits.csv")
    return [_row(row, found.path / "audits" / f"step-{row['step']}.npz", task, config) for row in rows]


def _row(row: dict[str, str], export: Path, task: str, config: AgentConfig) -> Row:
    own = named_mdp(task.removesuffix(ANYWHERE), config.loss.gamma)
    with np.load(export, allow_pickle=False) as arrays:
        acts, greedy = arrays["pi"], np.eye(own.num_actions)[arrays["q"].argmax(-1)]
    shares = {SHARE: _share(own, acts), CRITIC: _share(own, greedy)}
    return {name: float(cell) if cell else float("nan") for name, cell in row.items()} | shares


def _share(own: theory.TabularMDP, probs: np.ndarray) -> float:
    """Return what a policy is worth from the start, as a share of the best."""
    policy = theory.Policy(probs)
    value = (theory.certified_q(own, policy).value * policy.probs).sum(1)
    return float(own.start @ value) / float(own.start @ theory.optimal(own).v)


def table(results: list[Trained]) -> str:
    """Return mean and standard deviation over seeds of each figure, as Markdown."""
    head = ["Task", "seeds", f"least {SHARE}", f"least {CRITIC}", *COLUMNS]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for result in results:
        found = [result.last(column) for column in COLUMNS.values()]
        cells = [f"{each.mean():.3f} ({each.std():.3f})" for each in found]
        worst = [f"{result.last(name).min():.4f}" for name in (SHARE, CRITIC)]
        lines.append(" | ".join([f"`{result.task}`", str(len(result.seeds)), *worst, *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def draw(results: list[Trained], path: Path) -> None:
    """Draw, a line a seed, what the policy is worth and the parts of the critic's error, over training."""
    figure, panels = new_figure(len(results), 2, panel=(3.8, 3.2))
    for column, result in enumerate(results):
        top, bottom = panels[column], panels[len(results) + column]
        for number, rows in enumerate(result.seeds):
            steps = [row["step"] for row in rows]
            for name, colour in ((SHARE, "blue"), (CRITIC, "orange")):
                label = None if number else name.partition("'")[0]
                top.plot(steps, [row[name] for row in rows], color=PALETTE[colour], linewidth=1, label=label)
            for name, colour in (("n-step part", "vermillion"), ("rest", "green")):
                errors = [row[COLUMNS[name]] for row in rows]
                label = None if number else name
                bottom.plot(steps, errors, color=PALETTE[colour], linewidth=1, label=label)
        describe(top, "agent steps", "share of V* from the start", result.task)
        top.legend(frameon=False, fontsize=8)
        describe(bottom, "agent steps", "D-norm [reward]", "the critic's error")
        bottom.legend(frameon=False, fontsize=8)
    save(figure, path)


def main() -> None:
    """Train, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--run-dir", type=Path, default=Path("runs"))
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(given.seeds)
    results = [Trained(task, [train(task, seed, given.run_dir) for seed in seeds]) for task in given.tasks]
    print(table(results))
    if given.picture:
        draw(results, given.picture)


if __name__ == "__main__":
    main()
