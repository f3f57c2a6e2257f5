"""The report of a comparison: tables as Markdown and CSV, pictures as PNG, and all of it in one HTML file.

``write_report`` is the way in. Tables are made here; pictures in ``pictures``, the page in ``page``.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from uld_torchrl.experiments.comparison import Comparison
from uld_torchrl.experiments.page import html_page
from uld_torchrl.experiments.pictures import curves_figure, profile_figure
from uld_torchrl.experiments.published import SOURCES, aggregates, normalise
from uld_torchrl.experiments.statistics import (
    STATISTICS,
    Interval,
    aggregate,
    probability_of_improvement,
)

NAMES = {
    "mean": "mean",
    "median": "median",
    "iqm_runs": "IQM over runs",
    "iqm_tasks": "IQM over task means",
}
ENOUGH_SEEDS = 5
"""Runs of each variant from which on an improvement may be called decided."""


@dataclass(frozen=True)
class Table:
    """A table with a name for its file, a heading, and a sentence that says what its numbers are."""

    name: str
    heading: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """Return the table with heading and caption."""
        lines = [" | ".join(self.columns), " | ".join("---" for _ in self.columns)]
        body = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in self.rows]
        table = "\n".join(f"| {line} |" for line in [*lines, *body])
        return f"## {self.heading}\n\n{self.caption}\n\n{table}\n"

    def write_csv(self, folder: Path) -> None:
        """Write ``<name>.csv``."""
        with (folder / f"{self.name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([self.columns, *self.rows])


def write_report(comparison: Comparison, folder: Path, *, resamples: int = 2000) -> Path:
    """Write report.html, report.md, a CSV file for each table and PNG pictures; return the HTML file.

    Args:
        comparison: what is reported, see :func:`compare`.
        folder: where to; made if it is not there.
        resamples: of the bootstrap.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = tables(comparison, resamples)
    for table in found:
        table.write_csv(folder)
    pictures = {"learning curves": folder / "curves.png"}
    curves_figure(comparison, resamples).savefig(pictures["learning curves"], format="png")
    if comparison.on_one_scale:
        pictures["performance profile"] = folder / "profile.png"
        profile_figure(comparison).savefig(pictures["performance profile"], format="png")
    title = f"{', '.join(comparison.variants)} on {comparison.suite or _some(comparison.envs)}"
    notes = _notes(comparison)
    text = "\n".join(
        [f"# {title}\n", *(f"{note}\n" for note in notes), *(each.to_markdown() for each in found)]
    )
    (folder / "report.md").write_text(text, encoding="utf-8")
    page = html_page(title, notes, pictures, [(t.heading, t.caption, t.columns, t.rows) for t in found])
    (folder / "report.html").write_text(page, encoding="utf-8")
    return folder / "report.html"


def tables(comparison: Comparison, resamples: int = 2000) -> list[Table]:
    """Return the tables of a report; aggregates only where scores are on one scale."""
    found = [_scores(comparison, resamples)]
    if comparison.on_one_scale:
        found += [_aggregates(comparison, resamples)]
    if comparison.shared_envs() and len(comparison.variants) > 1:
        found += [_improvement(comparison, resamples)]
    found += [_costs(comparison), _commands(comparison)]
    return found + ([_left_out(comparison)] if comparison.left_out else [])


def _scores(comparison: Comparison, resamples: int) -> Table:
    rows = []
    for env in comparison.envs:
        step = comparison.step(env)
        cells = [_returns(comparison, env, variant, resamples) for variant in comparison.variants]
        others = [_published(comparison, env, method, step) for method in comparison.against]
        frames = next(record.frames_per_step for record in comparison.records if record.env == env)
        rows.append((env, str(step), str(step * frames), *cells, *others))
    return Table(
        "scores",
        "Returns",
        "Mean undiscounted return at the step that all runs have, with its 95 % bootstrap interval over "
        "seeds [low, high] and their number n. Published figures are at the same agent step where one is "
        "published, otherwise at the step given behind the @.",
        ("environment", "agent steps", "frames", *comparison.variants, *comparison.against),
        tuple(rows),
    )


def _returns(comparison: Comparison, env: str, variant: str, resamples: int) -> str:
    returns = comparison.returns(env, variant)
    if not len(returns) or not comparison.step(env):
        return ""
    return f"{_interval(aggregate({env: returns}, 'mean', resamples=resamples))} n={len(returns)}"


def _published(comparison: Comparison, env: str, method: str, step: int) -> str:
    known = comparison.published(env).get(method, [])
    if not known:
        return ""
    point = next((each for each in known if each.step == step), known[-1])
    where = "" if point.step == step else f" @{point.step}"
    return _interval(Interval(point.mean, point.low, point.high)) + where


def _aggregates(comparison: Comparison, resamples: int) -> Table:
    rows = []
    for variant in comparison.variants:
        scores = comparison.scores(variant)
        cells = [aggregate(scores, name, resamples=resamples) for name in STATISTICS]
        rows.append(
            (variant, str(len(scores)), _seeds(comparison, variant), *(_interval(c, 3) for c in cells))
        )
    return Table(
        "aggregates",
        "Normalised scores over all environments",
        f"Over the environments that all variants have{_but(comparison)}, with 95 % stratified bootstrap "
        "intervals. "
        + SOURCES["normalisation"]
        + "; DeepMind Control: return / 1000; where the field has no scale, the return itself.",
        ("variant", "environments", "seeds", *NAMES.values()),
        (*rows, *_published_aggregates(comparison)),
    )


def _but(comparison: Comparison) -> str:
    out = sorted(set(comparison.shared_envs()) - set(comparison.aggregated_envs()))
    return f" but {' and '.join(out)}, which published aggregates leave out" if out else ""


def _published_aggregates(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return a row for each published method with scores at the same steps on all of the environments."""
    envs, rows = comparison.aggregated_envs(), []
    for method in comparison.against:
        means = {env: _mean_at(comparison, env, method) for env in envs}
        if any(math.isnan(mean) for mean in means.values()):
            continue
        scores = {env: normalise(env, [mean]) for env, mean in means.items()}
        found = {name: aggregate(scores, name) for name in ("mean", "median", "iqm_tasks")}
        if method == "mrq":
            found |= _published_intervals(comparison)
        cells = [_interval(found[name], 3) if name in found else "" for name in STATISTICS]
        rows.append((f"{method} (published)", str(len(envs)), "", *cells))
    return rows


def _published_intervals(comparison: Comparison) -> dict[str, Interval]:
    """Return MR.Q's aggregates as published, if these are a whole suite at one step."""
    steps = {comparison.step(env) for env in comparison.shared_envs()}
    if comparison.suite is None or len(steps) != 1:
        return {}
    known, names = aggregates(comparison.suite, steps.pop()), {"iqm": "iqm_runs"}
    return {names.get(key, key): Interval(p.mean, p.low, p.high) for key, p in known.items()}


def _mean_at(comparison: Comparison, env: str, method: str) -> float:
    step = comparison.step(env)
    found = [point.mean for point in comparison.published(env).get(method, []) if point.step == step]
    return found[0] if found else float("nan")


def _improvement(comparison: Comparison, resamples: int) -> Table:
    base, *others = comparison.variants
    rows = []
    for variant in others:
        ours, theirs = comparison.scores(variant), comparison.scores(base)
        found = probability_of_improvement(ours, theirs, resamples=resamples)
        fewest = min(len(runs) for scores in (ours, theirs) for runs in scores.values())
        rows.append((variant, _interval(found, 3), _decided(found, fewest)))
    return Table(
        "improvement",
        f"Probability of improvement over {base}",
        "The chance that a run of the variant beats one of the other, averaged over environments, with its "
        "95 % stratified bootstrap interval; decided means that the interval leaves out one half. On one "
        "environment, of two variants that do not differ, it does so in 33 % of cases with two runs each, "
        "in 20 % with three and in 10 % with five, instead of 5 %: below five nothing is called decided.",
        ("variant", "P(better)", "decided"),
        tuple(rows),
    )


def _decided(found: Interval, fewest: int) -> str:
    if fewest < ENOUGH_SEEDS:
        return "too few seeds"
    return "yes" if found.low > 0.5 or found.high < 0.5 else "no"


def _costs(comparison: Comparison) -> Table:
    rows = []
    for env in comparison.envs:
        for variant in comparison.variants:
            runs = comparison.of(env, variant)
            if runs:
                hours = np.array([run.seconds for run in runs]) / 3600
                rates = [run.steps[-1] / run.seconds for run in runs if run.seconds > 0]
                rate = f"{np.mean(rates):.1f}" if rates else "not known"
                sizes = {run.parameters for run in runs if run.parameters is not None}
                size = str(max(sizes)) if sizes else "not known"
                spent = "not known" if np.isnan(hours).all() else f"{np.nanmean(hours):.2f}"
                rows.append((env, variant, str(len(runs)), spent, rate, size))
    return Table(
        "costs",
        "Time and size",
        "Mean wall-clock hours of a run on the machine it ran on, with whatever ran beside it; agent steps "
        "per second over the whole run, evaluations included; parameters without those of the targets.",
        ("environment", "variant", "runs", "hours", "steps/s", "parameters"),
        tuple(rows),
    )


def _commands(comparison: Comparison) -> Table:
    rows = [
        (record.env, record.variant, str(record.seed), record.command, record.versions.replace("\n", ", "))
        for record in comparison.records
    ]
    return Table(
        "commands",
        "Repeating a run",
        "The command of each run, and the versions that its last session ran on.",
        ("environment", "variant", "seed", "command", "versions"),
        tuple(rows),
    )


def _left_out(comparison: Comparison) -> Table:
    return Table(
        "left_out",
        "Left out",
        "Runs that were found but could not be used.",
        ("run", "reason"),
        tuple((str(path), why) for path, why in comparison.left_out.items()),
    )


def _notes(comparison: Comparison) -> list[str]:
    notes = ["Steps are agent steps; frames are agent steps times the action repeat."]
    if not comparison.on_one_scale:
        notes.append(
            "No aggregate is given: these environments' returns have no common scale, or no common step."
        )
    if comparison.against:
        notes.append(
            f"Published figures: {SOURCES['mrq_curves']}; the others {SOURCES['end_points']}. They "
            "were measured on other machines, with other versions, and are not runs of this code."
        )
    listed = (_withheld(comparison), _held_back(comparison), _uneven(comparison), _few(comparison))
    return notes + [note for note in listed if note]


def _withheld(comparison: Comparison) -> str:
    """Say where published figures are left out, as they are of another protocol."""
    found = {env: comparison.unlike_published(env) for env in comparison.envs} if comparison.against else {}
    odd = [f"{env} ({', '.join(fields)})" for env, fields in found.items() if fields]
    told = "No published figures, as these runs have other settings than the published protocol"
    return f"{told} (published -> here): {_some(odd)}." if odd else ""


def _held_back(comparison: Comparison) -> str:
    """Name the runs that end first, where others have gone on: all are compared at their last common step."""
    found = []
    for env in comparison.envs:
        short = comparison.shortest(env)
        if short is not None:
            last = max(record.steps[-1] for record in comparison.records if record.env == env)
            ends = f"{short.name} ends at step {short.steps[-1]}, others at up to {last}"
            found.append(f"{ends}, all are compared at step {comparison.step(env)}")
    return f"Held back by a shorter run: {_some(found, '; ')}." if found else ""


def _uneven(comparison: Comparison) -> str:
    """Name the variants with other numbers of seeds on some environments, whose pooled IQM leans to those."""
    odd = [
        variant
        for variant in comparison.variants
        if len({len(comparison.of(env, variant)) for env in comparison.aggregated_envs()}) > 1
    ]
    told = "Environments have different numbers of seeds"
    why = "the IQM over runs counts an environment by its runs; the other aggregates count each the same"
    return f"{told} for {', '.join(odd)}: {why}." if odd and comparison.on_one_scale else ""


def _few(comparison: Comparison) -> str:
    few = [variant for variant in comparison.variants if min(_counts(comparison, variant)) < ENOUGH_SEEDS]
    return f"Fewer than five seeds: {', '.join(few)}; intervals of so few are too narrow." if few else ""


def _seeds(comparison: Comparison, variant: str) -> str:
    counts = _counts(comparison, variant)
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)}-{max(counts)}"


def _counts(comparison: Comparison, variant: str) -> set[int]:
    return {len(comparison.of(env, variant)) for env in comparison.envs} - {0}


def _interval(found: Interval, digits: int | None = None) -> str:
    if digits is None:
        digits = 1 if abs(found.value) >= 10 else 3
    value = f"{found.value:.{digits}f}"
    return value if math.isnan(found.low) else f"{value} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _some(names: Sequence[str], between: str = ", ") -> str:
    return between.join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
