"""``python -m theory lstd``: errors of LSTD on sampled transitions against their law."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

from theory import plots
from theory.commands.choices import add_problem_arguments, chosen_problem
from theory.commands.counts import whole_numbers
from theory.commands.output import Picture, add_output_argument, finish
from theory.lstd import LstdStudy, lstd_study, sizes_for_law
from theory.study_reports import lstd_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "lstd"
HELP = "sampled LSTD against its law: slope -1/2 and the constant"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the problem, the samples and where to write."""
    add_problem_arguments(parser)
    parser.add_argument(
        "--sizes", help="transitions a sample, with commas; default: five, large enough for the law"
    )
    parser.add_argument("--runs", type=int, default=200, help="samples of each size; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the samples; default: %(default)s")
    parser.add_argument(
        "--reward-std", type=float, default=0.0, help="Gaussian noise on the rewards; default: none"
    )
    add_output_argument(parser, NAME)


def run(parsed: Namespace) -> int:
    """Print or write the report; 1 if slope or constant are not those of the law."""
    given = None if parsed.sizes is None else whole_numbers("sizes", parsed.sizes)
    problem, name = chosen_problem(parsed)
    sizes = given or sizes_for_law(problem)
    study = lstd_study(problem, sizes, parsed.runs, parsed.seed, reward_std=parsed.reward_std)
    drawn = Picture("lstd.png", "Errors of LSTD against the sample size", partial(_draw, study))
    report = lstd_report(problem, study, name)
    return finish(report, NAME, parsed.output, [drawn], table=_table(study), series=_series(study))


def _series(study: LstdStudy) -> dict[str, object]:
    """Return the numbers for each size."""
    return {
        "sizes": study.sizes,
        "mean squared error": study.mse,
        "its standard error": study.mse_error,
        "N times it over the predicted trace": study.ratio,
        "curvature": study.curvature,
        "slope_ci": study.slope_ci,
        "singular runs": study.singular,
        "compared": study.used,
        "w": study.w,
    }


def _table(study: LstdStudy) -> str:
    """Return the errors as Markdown; nothing if there is no law."""
    if study.mse is None or study.mse_error is None or study.singular is None or study.used is None:
        return ""
    heads = "transitions | mean squared error | its standard error | N times it / trace | singular runs"
    lines = [f"| {heads} | compared |", "|---|---|---|---|---|---|"]
    for i, size in enumerate(study.sizes):
        ratio = "-" if study.ratio is None else f"{study.ratio[i]:.4f}"
        numbers = f"{study.mse[i]:.4g} | {study.mse_error[i]:.2g} | {ratio} | {study.singular[i]}"
        lines.append(f"| {size} | {numbers} | {'yes' if study.used[i] else 'no'} |")
    return "\n".join(lines)


def _draw(study: LstdStudy) -> Figure:
    return plots.plot_lstd(study)
