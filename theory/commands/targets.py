"""``python -m theory targets``: whether learning with a target network converges, by its inner steps."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

from theory import plots
from theory.commands.choices import add_problem_arguments, chosen_problem
from theory.commands.counts import whole_numbers
from theory.commands.output import Picture, add_output_argument, finish
from theory.study_reports import target_network_report
from theory.target_networks import TargetNetworks, inner_step_limit, target_network_radius

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "targets"
HELP = "convergence with a target network against its inner steps"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the problem, the step size, the inner steps and where to write."""
    add_problem_arguments(parser)
    parser.add_argument(
        "--step-size", type=float, help="of the inner loop; default: half its limit, 1 / lambda_max(C)"
    )
    parser.add_argument(
        "--inner-steps",
        default="1,2,5,10,20,50,100,250,1000",
        help="steps for each frozen target, with commas; default: %(default)s (MR.Q takes 250)",
    )
    add_output_argument(parser, NAME)


def run(parsed: Namespace) -> int:
    """Print or write the report; 1 if the loops, run as they are written, have another radius."""
    steps = whole_numbers("inner-steps", parsed.inner_steps)
    problem, name = chosen_problem(parsed)
    alpha = parsed.step_size if parsed.step_size is not None else 0.5 * inner_step_limit(problem)
    found = target_network_radius(problem, alpha, steps)
    drawn = Picture("targets.png", "Spectral radius against inner steps", partial(_draw, found))
    series = {"inner steps": found.inner_steps, "radii": found.radii, "verdicts": list(found.verdicts)}
    report = target_network_report(problem, found, name)
    return finish(report, NAME, parsed.output, [drawn], table=_table(found), series=series)


def _table(found: TargetNetworks) -> str:
    """Return the radii as Markdown."""
    lines = ["| inner steps | spectral radius for each target | verdict |", "|---|---|---|"]
    for K, radius, verdict in zip(found.inner_steps, found.radii, found.verdicts, strict=True):
        lines.append(f"| {K} | {radius:.6g} | {verdict} |")
    return "\n".join(lines)


def _draw(found: TargetNetworks) -> Figure:
    return plots.plot_target_networks(found)
