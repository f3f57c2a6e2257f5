"""The audit of a run over its training time: what ``uld audit`` writes.

Exports that :class:`~uld_torchrl.diagnostics.AuditEvery` left are read, the final model is added, each is
audited by ``theory``, and the last one is reported in full. Nothing is trained here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import theory
from theory import AuditReport, TabularMDP, plots
from theory.commands.audit import audit_pictures
from theory.commands.output import Picture
from theory.npz import read_npz
from theory.report import plain
from uld_torchrl.diagnostics.export import PolicyName, export_embeddings
from uld_torchrl.diagnostics.figures import AUDIT_COLUMNS, Row, audit_row
from uld_torchrl.diagnostics.mdps import mdp_of_env
from uld_torchrl.diagnostics.pictures import plot_values
from uld_torchrl.envs.registry import env_of_file
from uld_torchrl.envs.tabular_names import grid_of, named_mdp
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import Agent, RunDir, load
from uld_torchrl.trainers.files import replace_text
from uld_torchrl.untrusted import brief, read_json, unreadable

_SHOWN = (
    "step",
    "pairs_visited",
    "best_value",
    "greedy_value",
    "policy_value",
    "claimed_value",
    "value_error",
    "n_step_part",
    "effective_rank",
    "r2_true",
    "r2_random",
)
"""Columns in report.md; report.json has all of them."""


@dataclass(frozen=True, eq=False)
class RunAudit:
    """The audit of a run.

    Attributes:
        report: of the last export.
        rows: the figures of every export, in the columns of ``AUDIT_COLUMNS``.
        path: the folder with report.md, report.json and the pictures.
    """

    report: AuditReport
    rows: list[Row]
    path: Path


def audit_run(
    path: Path | str,
    *,
    mdp: TabularMDP | str | None = None,
    policy: PolicyName = "greedy",
    observations: Any = None,
    device: torch.device | str = "cpu",
) -> RunAudit:
    """Audit a finished run on its tabular MDP and write ``<run>/audit``: report.md, report.json, pictures.

    The discount is the agent's. If the last of the run's exports is not of the final model, that is exported
    too, without visits: these are in a replay buffer that the run has given back.

    Args:
        path: run directory.
        mdp: the MDP, or its name as in ``python -m theory``; None: the one of the run's environment.
        policy: of the final model, if it is exported here.
        observations: what the agent sees in each state, likewise; see
            :func:`~uld_torchrl.diagnostics.export_embeddings`.
        device: where its networks run.

    Raises:
        InputError: no such run, no model in it yet, an environment that is not tabular, exports that do not
            fit the MDP or cannot be read.

    Example:
        >>> import tempfile
        >>> from uld_torchrl import train
        >>> run = train("debug", "tabular/riverswim", run_dir=tempfile.mkdtemp(), progress=False)
        >>> found = audit_run(run.path)
        >>> found.report.verdict, (found.path / "report.md").exists(), [row["step"] for row in found.rows]
        ('pass', True, [300])
    """
    run, agent = RunDir(Path(path)), load(path, device)
    mdp = _mdp(agent, mdp)
    exports = {step: _read(file) for step, file in run.audit_files().items()}
    final = _step_of_model(run)
    if final not in exports:
        exports[final] = {**export_embeddings(agent, mdp, policy, observations=observations), "step": final}
    reports, rows = [], []
    for step, arrays in sorted(exports.items()):
        reports.append(_audited(f"{agent.env_id} at step {step}", arrays, mdp))
        rows.append(audit_row(reports[-1], arrays, mdp))
    folder = run.path / "audit"
    _write(folder, agent.env_id, reports, rows)
    return RunAudit(reports[-1], rows, folder)


def _mdp(agent: Agent, given: TabularMDP | str | None) -> TabularMDP:
    gamma = agent.config.loss.gamma
    if given is None:
        return mdp_of_env(env_of_file(agent.env_id, "name its MDP (uld audit --mdp)"), gamma)
    return named_mdp(given, gamma) if isinstance(given, str) else given


def _step_of_model(run: RunDir) -> int:
    path = run.model / "config.json"
    step = read_json(path).get("step")
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise unreadable(path, f"its step is {brief(repr(step))}")
    return step


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_npz(file)
    except theory.InputError as error:
        raise InputError(f"{error} Delete it to audit the others.") from error


def _audited(name: str, arrays: Mapping[str, Any], mdp: TabularMDP) -> AuditReport:
    try:
        return theory.audit_embeddings(arrays, mdp, name=name)
    except theory.InputError as error:
        raise InputError(f"{name}: {error}") from error


def _write(folder: Path, env_id: str, reports: Sequence[AuditReport], rows: Sequence[Row]) -> None:
    folder.mkdir(exist_ok=True)
    for picture in folder.glob("*.png"):  # one of an earlier audit would be taken for this one's
        picture.unlink()
    drawn = [_drawn(folder, picture) for picture in _drawings(env_id, reports, rows)]
    text = [reports[-1].to_markdown(), "## Over training time", _table(rows), "## Pictures", *drawn]
    replace_text(folder / "report.md", "\n\n".join(text) + "\n")
    data = {"last": json.loads(reports[-1].to_json()), "over_training_time": plain(list(rows))}
    replace_text(folder / "report.json", json.dumps(data, allow_nan=False, indent=1) + "\n")


def _drawings(env_id: str, reports: Sequence[AuditReport], rows: Sequence[Row]) -> list[Picture]:
    """Return the pictures: curves over training time, then the last audit."""
    over_time: list[Picture] = []
    if len(rows) > 1:
        history = [(int(report.step or 0), report) for report in reports]
        over_time = [
            Picture(
                "values.png", "Values from the start, true and claimed", partial(plot_values, rows, env_id)
            ),
            Picture(
                "history.png", "The audits over training time", partial(plots.plot_audit_history, history)
            ),
        ]
    grid = grid_of(env_id.removeprefix("tabular/")) or ()
    return [*over_time, *audit_pictures(reports[-1], grid)]


def _drawn(folder: Path, picture: Picture) -> str:
    """Write a picture and return the Markdown that shows it, or says why there is none."""
    try:
        plots.save(picture.draw(), folder / picture.file)
    except theory.InputError as error:
        return f"{picture.caption}: not drawn. {error}"
    return f"![{picture.caption}]({picture.file})\n\n*{picture.caption}*"


def _table(rows: Sequence[Row]) -> str:
    columns = [name for name in _SHOWN if any(row.get(name) is not None for row in rows)]
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
    meanings = [f"- {name}: {AUDIT_COLUMNS[name]}" for name in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n" + "\n".join(meanings)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
