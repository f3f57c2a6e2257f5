"""``python -m theory sweep``: the value error against the number of features, for one kind or several."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from theory import plots
from theory.commands.choices import add_problem_arguments, chosen_setting, number, setting_name
from theory.commands.output import Picture, add_output_argument, finish
from theory.errors import InputError
from theory.interpolation import FEATURE_KINDS, FeatureSweep, SweepPoint, feature_sweep
from theory.report import Condition, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "sweep"
HELP = "value error against the number of features"
ROUNDING = 1e-9  # of the size of the values; ill-conditioned random features leave so much
MOST_ROWS = 64  # swept one by one unless --dims says otherwise


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the setting, the features, their numbers and where to write."""
    add_problem_arguments(parser, features=False)
    parser.add_argument(
        "--features",
        default="random,svd,krylov",
        help=f"one or more of {', '.join(FEATURE_KINDS)}, with commas",
    )
    parser.add_argument(
        "--dims", help=f"such as 1:44, 4:64:4 or 1,2,8; default: all numbers, up to {MOST_ROWS} of them"
    )
    parser.add_argument("--seed", type=int, default=0, help="of random features")
    add_output_argument(parser, NAME)


def run(parsed: Namespace) -> int:
    """Print or write the sweep; 1 if TD beats the best possible error anywhere."""
    kinds = parsed.features.split(",")
    for kind in kinds:
        if kind not in FEATURE_KINDS:
            raise InputError(
                f"--features must be one or more of {', '.join(FEATURE_KINDS)}, with commas; got {kind!r}."
            )
    mdp, policy, weights = chosen_setting(parsed)
    rows = len(mdp.live_states()) * mdp.num_actions
    dims = _dims(parsed.dims, rows)
    sweeps = [feature_sweep(mdp, policy, weights, kind, dims, seed=parsed.seed) for kind in kinds]
    report = sweep_report(sweeps, f"{parsed.mdp} ({setting_name(parsed, weights)})")
    drawn = Picture("sweep.png", "Error against features", partial(_draw, sweeps))
    return finish(report, NAME, parsed.output, [drawn], table=_table(sweeps), series=_curves(sweeps))


def sweep_report(sweeps: Sequence[FeatureSweep], name: str) -> Report:
    """Check what must hold of every sweep: no weights beat the projection, and more features fit no worse."""
    worst = max(_below_best(sweep) for sweep in sweeps)
    grows = max(_growth(sweep) for sweep in sweeps)
    missing = sum(point.kind != "unique" for sweep in sweeps for point in sweep.points)
    allowed = ROUNDING * max(sweep.size_D for sweep in sweeps)
    conditions = (
        Condition(
            "TD is never better than the projection", worst <= allowed, worst, allowed, allowed - worst,
            "the projection is the best in the D-norm",
        ),
        Condition(
            "more features fit no worse", grows <= allowed, grows, allowed, allowed - grows,
            "the spans are nested; that TD does no worse with more features is not claimed, and false",
        ),
        Condition(
            "TD has a unique fixed point everywhere", missing == 0, float(missing), 0.0, -float(missing),
            "the number of points without"
            + ("; see catalogue tsitsiklis_van_roy_singular" if missing else ""),
        ),
    )  # fmt: skip
    holds = worst <= allowed and grows <= allowed
    best = {f"least error, {sweep.features}": _least(sweep) for sweep in sweeps}
    size = {"rows": sweeps[0].rows, "D-norm of the values": sweeps[0].size_D}
    theorem = f"TD against the projection on {name}"
    return Report(theorem, "pass" if holds else "fail", max(worst, grows), allowed, conditions, size | best)


def _below_best(sweep: FeatureSweep) -> float:
    """Return by how much TD beats the projection, at most; zero if it never does."""
    gaps = [point.best_D - point.error_D for point in sweep.points if point.error_D is not None]
    return max([0.0, *gaps])


def _growth(sweep: FeatureSweep) -> float:
    """Return by how much the best error grows with the number of features, at most."""
    best = [point.best_D for point in sorted(sweep.points, key=lambda point: point.d)]
    return max([0.0, *(later - earlier for earlier, later in pairwise(best))])


def _least(sweep: FeatureSweep) -> float | None:
    return min((point.error_D for point in sweep.points if point.error_D is not None), default=None)


def _curves(sweeps: Sequence[FeatureSweep]) -> dict[str, list[dict[str, object]]]:
    """Return every number of every sweep."""
    return {sweep.features: [asdict(point) for point in sweep.points] for sweep in sweeps}


def _table(sweeps: Sequence[FeatureSweep]) -> str:
    """Return the errors in the D-norm as Markdown, and where ranks fall short of d."""
    heads = [f"{sweep.features}: {name}" for sweep in sweeps for name in ("TD", "best")]
    lines = [f"| d | {' | '.join(heads)} |", "|" + "---|" * (1 + len(heads))]
    for points in zip(*(sweep.points for sweep in sweeps), strict=True):
        cells = [cell for point in points for cell in (_td_cell(point), _cell(point.best_D))]
        lines.append(f"| {points[0].d} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _td_cell(point: SweepPoint) -> str:
    """Return the error of TD, and the rank where the kind has run out of features."""
    return _cell(point.error_D) + (f" (rank {point.rank})" if point.rank < point.d else "")


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _draw(sweeps: Sequence[FeatureSweep]) -> Figure:
    return plots.plot_feature_sweep(sweeps)


def _dims(text: str | None, rows: int) -> list[int]:
    """Return the numbers of features that --dims names, each from 1 to the number of rows."""
    if text is None:
        return list(range(1, min(rows, MOST_ROWS) + 1))
    parts = [number("dims", text, part, int) for part in text.replace(",", ":").split(":")]
    if ":" in text and "," not in text and len(parts) in (2, 3):
        if len(parts) == 3 and parts[2] < 1:
            raise InputError(f"--dims {text}: the step must be at least 1.")
        found = list(range(parts[0], parts[1] + 1, parts[2] if len(parts) == 3 else 1))
    elif ":" not in text:
        found = parts
    else:
        raise InputError(f"--dims must be FIRST:LAST, FIRST:LAST:STEP or numbers with commas; got {text!r}.")
    if not found or min(found) < 1 or max(found) > rows:
        raise InputError(f"--dims must be numbers from 1 to the {rows} live rows, in order; got {text!r}.")
    return found
