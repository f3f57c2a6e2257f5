"""``python -m theory audit``: what a trained agent's embeddings, values and predictions amount to."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from theory import catalogue, plots
from theory.audit import AuditReport, audit_embeddings, read_export
from theory.commands.choices import CATALOGUE, DEFAULTS, GRIDS, MDPS, choose
from theory.commands.output import Picture, add_output_argument, finish
from theory.errors import InputError
from theory.mdp import TabularMDP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "audit"
HELP = "audit a trained agent's embeddings, values and predictions on a tabular MDP"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the exports, the MDP and where to write."""
    parser.add_argument(
        "exports", nargs="+", metavar="EXPORT.npz",
        help="arrays over states and actions; of several, which need a step each, the last is reported",
    )  # fmt: skip
    parser.add_argument(
        "--mdp",
        required=True,
        help=f"{', '.join(MDPS)}, or {CATALOGUE}NAME: the MDP of an entry of the catalogue",
    )
    parser.add_argument("--gamma", type=float, help="discount of the MDP; default: the export's, else 0.99")
    add_output_argument(parser, "report")


def run(parsed: Namespace) -> int:
    """Print or write the report on the last export; 1 if an equality fails."""
    mdp = _chosen_mdp(parsed, parsed.exports[0])
    found = [audit_embeddings(path, mdp, name=f"{path} on {parsed.mdp}") for path in parsed.exports]
    history = _history(parsed.exports, found) if len(found) > 1 else []
    last = history[-1][1] if history else found[0]
    pictures = audit_pictures(last, GRIDS.get(parsed.mdp, ()))
    if history:
        drawn = Picture("history.png", "The audits over training", partial(_draw_history, history))
        pictures.append(drawn)
    return finish(last, "report", parsed.output, pictures, table=_table(history))


def _chosen_mdp(parsed: Namespace, first: str) -> TabularMDP:
    """Return the MDP, with the discount asked for or that of the first export."""
    if parsed.mdp.startswith(CATALOGUE):
        if parsed.gamma is not None:
            raise InputError(
                f"--gamma is a part of {parsed.mdp} already, got {parsed.gamma!r}. Leave it out."
            )
        mdp = catalogue.load(parsed.mdp.removeprefix(CATALOGUE)).problem.mdp
        if mdp is None:
            raise InputError(f"--mdp {parsed.mdp} is a bare chain without states and actions.")
        return mdp
    make = choose("mdp", parsed.mdp, MDPS)
    if parsed.gamma is not None:
        return make(parsed.gamma)
    default = float(str(DEFAULTS["gamma"]))
    gamma = read_export(first, make(default)).gamma
    return make(default if gamma is None else gamma)


def _history(paths: Sequence[str], found: Sequence[AuditReport]) -> list[tuple[int, AuditReport]]:
    """Return the audits by training step."""
    steps = [report.step for report in found]
    for path, step in zip(paths, steps, strict=True):
        if step is None:
            raise InputError(f"{path} has no step; of several exports each needs one.")
    pairs = [(step, report) for step, report in zip(steps, found, strict=True) if step is not None]
    return sorted(pairs, key=lambda pair: pair[0])


def audit_pictures(report: AuditReport, grid: tuple[int, ...]) -> list[Picture]:
    """Return the pictures of one audit.

    Args:
        report: of the audit.
        grid: axes that the states count through; a map is drawn if there are two.

    Example:
        >>> from theory import TabularMDP, audit_embeddings
        >>> mdp, one = TabularMDP.from_dense([[[1.0]]], [[1.0]], 0.5), [[1.0]]
        >>> export = {"zs": one, "zsa": [one], "q": one, "pi": one, "r_hat": one, "zs_next_pred": [one]}
        >>> report = audit_embeddings({**export, "v_at_pred": one}, mdp)
        >>> [picture.file for picture in audit_pictures(report, ())]
        ['decomposition.png', 'linearity.png', 'bounds.png']
    """
    pictures = [
        Picture("decomposition.png", "What the network's value error consists of", partial(_parts, report)),
        Picture("linearity.png", "How linear values are in the embeddings", partial(_linearity, report)),
        Picture(
            "bounds.png", "The linear probe: every bound against its true error", partial(_bounds, report)
        ),
    ]
    if len(grid) == 2:
        drawn = partial(_parts_map, report, (grid[0], grid[1]))
        pictures.append(Picture("parts_map.png", "What the network's value error consists of where", drawn))
    return pictures


def _parts(report: AuditReport) -> Figure:
    if report.value is None or report.setting is None:
        raise InputError(report.unjudged["value"])
    return plots.plot_decomposition(report.value.split, report.setting.problem.labels)


def _parts_map(report: AuditReport, shape: tuple[int, int]) -> Figure:
    if report.value is None or report.setting is None:
        raise InputError(report.unjudged["value"])
    return plots.plot_decomposition_map(report.setting.problem, report.value.split, shape)


def _linearity(report: AuditReport) -> Figure:
    return plots.plot_audit_linearity(report)


def _bounds(report: AuditReport) -> Figure:
    found = None if report.probe is None else report.probe.findings
    if found is None or found.ladder is None or found.split is None:
        raise InputError("Returns are infinite, so there is no value error.")
    return plots.plot_bounds(found.ladder, found.split)


def _draw_history(history: list[tuple[int, AuditReport]]) -> Figure:
    return plots.plot_audit_history(history)


def _table(history: list[tuple[int, AuditReport]]) -> str:
    """Return the main numbers of each audit as Markdown; nothing for a single one."""
    if not history:
        return ""
    head = ["step", "verdict", "largest value error", "most of it", "greedy policy", "V*", "R^2", "by chance"]
    rows = [head, ["---"] * len(head), *(_row(step, report) for step, report in history)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(step: int, report: AuditReport) -> list[str]:
    value, acting, linearity = report.value, report.acting, report.linearity
    curve = None if linearity is None else linearity.true
    numbers = (
        None if value is None else value.error.largest,
        None if acting is None or acting.greedy is None else acting.greedy.value,
        None if acting is None else acting.best,
        None if linearity is None or curve is None else float(curve.r2[linearity.at]),
        None if linearity is None else float(linearity.random[linearity.at]),
    )
    error, *others = ["-" if number is None else f"{number:.6g}" for number in numbers]
    most = "-" if value is None or value.main_part is None else value.main_part
    return [str(step), report.verdict, error, most, *others]
