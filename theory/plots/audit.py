"""What audits show: over training time what got better and what did not, and for one audit how linear it is.

The split of one audit's value error is drawn by ``decomposition``, the probe's bounds by ``ladder``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from theory.audit.report import AuditReport
from theory.checks import Array
from theory.errors import InputError
from theory.plots.decomposition import PARTS
from theory.plots.style import PALETTE, describe, few_log_ticks, new_figure

ROUNDING = 1e-9  # of the largest; what is below is drawn there
Line = tuple[str, str, str, Callable[[AuditReport], float | None]]
"""Label, colour, line style, and the number of a report, None if there is none."""


def plot_audit_history(audits: Sequence[tuple[int, AuditReport]]) -> Figure:
    """Draw audits of one training run against the step, in six panels.

    The value error and its parts; the critic's error split into what n-step returns ask for and the rest; the
    greedy policy's share of the best value; R squared of the true value against random features; the probe's
    error under its bounds; the one-step dynamics loss above its noise floor. What an audit could not judge is
    a gap; a panel without any point says so.

    Args:
        audits: pairs of training step and report.

    Raises:
        InputError: no audit, or an entry that is no such pair.

    Example:
        >>> from theory import TabularMDP, audit_embeddings
        >>> mdp, one = TabularMDP.from_dense([[[1.0]]], [[1.0]], 0.5), np.ones((1, 1))
        >>> export = {"zs": one, "zsa": one[None], "zs_next_pred": one[None], "pi": one, "r_hat": one}
        >>> reports = [audit_embeddings({**export, "q": q * one, "v_at_pred": one}, mdp) for q in (1, 2)]
        >>> len(plot_audit_history([(1000, reports[0]), (2000, reports[1])]).axes)
        6
    """
    found = _in_order(audits)
    figure, panels = new_figure(3, 2, panel=(5.2, 4.3))
    _panel(panels[0], found, _value_lines(), "D-norm [reward]", "Value error by part", log=True)
    _panel(
        panels[1],
        found,
        _critic_lines(),
        "D-norm [reward]",
        "The critic's error: what n steps ask for",
        log=True,
    )
    _panel(panels[2], found, _acting_lines(), "share of V*", "Value from the start")
    _panel(panels[3], found, _linear_lines(), r"$R^2$ at the effective rank", "How linear values are in zsa")
    _panel(
        panels[4],
        found,
        _ladder_lines(),
        "largest [reward]",
        "Linear probe on zsa: error and bounds",
        log=True,
    )
    _panel(panels[5], found, _noise_lines(), "squared units of zs", "One-step dynamics loss", log=True)
    for axes in (panels[2], panels[3]):
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, -0.03), max(high, 1.03))
    return figure


def plot_audit_linearity(report: AuditReport) -> Figure:
    """Draw R squared of the first k components of zsa against k, for true and network's values.

    Args:
        report: its linearity must have been judged.

    Raises:
        InputError: it was not; the message says why.

    Example:
        >>> from theory import TabularMDP, audit_embeddings
        >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[1.0, 0.0]], 0.5)
        >>> pair = np.array([[0.5, 0.5]])
        >>> export = {"zs": np.ones((1, 1)), "zsa": [[[1.0], [2.0]]], "zs_next_pred": np.ones((1, 2, 1))}
        >>> report = audit_embeddings(export | dict.fromkeys(("q", "pi", "r_hat", "v_at_pred"), pair), mdp)
        >>> plot_audit_linearity(report).axes[0].get_xlabel()
        'principal components of zsa'
    """
    found = report.linearity
    if found is None:
        raise InputError(f"Linearity was not judged: {report.unjudged.get('linearity', 'no reason given')}")
    figure, (axes,) = new_figure(panel=(6.4, 4.4))
    k = np.arange(len(found.random))
    curves = {"true value": (found.true, "blue", "o"), "network's value": (found.network, "orange", "s")}
    for name, (curve, colour, marker) in curves.items():
        if curve is not None:
            axes.plot(k, curve.r2, color=PALETTE[colour], marker=marker, markersize=3.5, label=name)
    axes.plot(k, found.random, color=PALETTE["grey"], linestyle="--", label="k random features, on average")
    axes.axvline(
        found.effective_rank,
        color=PALETTE["black"],
        linestyle=":",
        label=f"effective rank {found.effective_rank:.3g}",
    )
    axes.set_ylim(-0.03, 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = f"How linear values are in zsa: rank {found.rank} of {found.dimension} columns, {found.rows} rows"
    describe(axes, "principal components of zsa", r"$R^2$, weighted by the data", title)
    axes.legend(fontsize=8, loc="lower right")
    return figure


def _in_order(audits: Sequence[tuple[int, AuditReport]]) -> list[tuple[int, AuditReport]]:
    """Return the audits by step."""
    given = list(audits)
    if not given:
        raise InputError("audits must hold at least one pair of step and report, got none.")
    for entry in given:
        if not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[1], AuditReport)):
            raise InputError(f"audits must hold pairs of step and AuditReport, got a {type(entry).__name__}.")
    return sorted(given, key=lambda entry: entry[0])


def _panel(
    axes: Axes,
    audits: list[tuple[int, AuditReport]],
    lines: Sequence[Line],
    y: str,
    title: str,
    log: bool = False,
) -> None:
    """Draw some numbers of every report against the step."""
    steps, drawn = np.array([step for step, _ in audits], dtype=np.float64), []
    for label, colour, style, number in lines:
        values = np.array([_number(number(report)) for _, report in audits])
        if not np.isnan(values).all():
            drawn.append((label, PALETTE[colour], style, values))
    floor = _floor([values for *_, values in drawn]) if log else -np.inf
    for label, colour, style, values in drawn:
        axes.plot(
            steps, np.maximum(values, floor), style, color=colour, marker="o", markersize=3.5, label=label
        )
    describe(axes, "training step", y, title)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    if not drawn:
        axes.text(0.5, 0.5, "not judged", ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    if log:
        _log_scale(axes, [values for *_, values in drawn], floor)
    axes.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _floor(drawn: Sequence[Array]) -> float:
    """Return the height at which what rounding could have made is drawn; 0 if nothing is positive."""
    return ROUNDING * max((float(np.nanmax(values)) for values in drawn), default=0.0)


def _log_scale(axes: Axes, values: Sequence[Array], floor: float) -> None:
    """Make the panel logarithmic, and say at which height errors are drawn that rounding could have made."""
    if floor <= 0.0:
        axes.text(0.5, 0.6, "zero everywhere", ha="center", transform=axes.transAxes)
        return
    if any((each <= floor).any() for each in values):
        axes.axhline(floor, color=PALETTE["grey"], linestyle="-.", linewidth=1, label="at or below rounding")
    axes.set_yscale("log")
    few_log_ticks(axes.yaxis)


def _value_lines() -> list[Line]:
    def of(name: str) -> Callable[[AuditReport], float | None]:
        return lambda report: None if report.value is None else report.value.parts[name].weighted

    error: Line = ("value error", "black", "-", lambda r: None if r.value is None else r.value.error.weighted)
    return [error, *((f"{name} part", colour, "-", of(name)) for name, colour in PARTS.items())]


def _critic_lines() -> list[Line]:
    def of(name: str) -> Callable[[AuditReport], float | None]:
        return lambda report: None if report.returns is None else report.returns.sizes[name].weighted

    return [
        (
            "value error",
            "black",
            "-",
            lambda r: None if r.returns is None or r.value is None else r.value.error.weighted,
        ),
        ("n-step part, not to be learned away", "vermillion", "-", of("n-step part")),
        ("rest", "sky", "-", of("rest")),
    ]


def _acting_lines() -> list[Line]:
    def share(whose: str) -> Callable[[AuditReport], float | None]:
        def number(report: AuditReport) -> float | None:
            worth = None if report.acting is None else getattr(report.acting, whose)
            return None if worth is None else worth.ratio

        return number

    return [
        ("greedy in the network's values", "green", "-", share("greedy")),
        ("exported policy", "purple", "--", share("exported")),
    ]


def _linear_lines() -> list[Line]:
    def r2(whose: str) -> Callable[[AuditReport], float | None]:
        def number(report: AuditReport) -> float | None:
            found = report.linearity
            curve = None if found is None else getattr(found, whose)
            return None if found is None or curve is None else float(curve.r2[found.at])

        return number

    def chance(report: AuditReport) -> float | None:
        return None if report.linearity is None else float(report.linearity.random[report.linearity.at])

    return [
        ("true value", "blue", "-", r2("true")),
        ("network's value", "orange", "-", r2("network")),
        ("as many random features", "grey", "--", chance),
    ]


def _ladder_lines() -> list[Line]:
    def bound(name: str) -> Callable[[AuditReport], float | None]:
        def number(report: AuditReport) -> float | None:
            ladder = None if report.probe is None else report.probe.findings.ladder
            return None if ladder is None else getattr(ladder, name)

        return number

    def error(report: AuditReport) -> float | None:
        return None if report.probe is None else report.probe.error

    bounds = {
        "S1": ("blue", "S1"),
        "S2": ("green", "S2"),
        "S25": ("orange", "S2.5"),
        "published": ("vermillion", "published"),
    }
    network: Line = (
        "network's error",
        "grey",
        "--",
        lambda r: None if r.value is None else r.value.error.largest,
    )
    lines: list[Line] = [(label, colour, "-", bound(name)) for name, (colour, label) in bounds.items()]
    return [*lines[::-1], ("error of the probe", "black", "-", error), network]


def _noise_lines() -> list[Line]:
    def of(name: str) -> Callable[[AuditReport], Any]:
        return lambda report: None if report.noise is None else getattr(report.noise, name)

    return [
        ("predicting a constant", "grey", "--", of("spread")),
        ("expected loss", "black", "-", of("loss")),
        ("noise floor", "vermillion", "-", of("mean_noise")),
        ("bias", "blue", "-", of("mean_bias")),
    ]
