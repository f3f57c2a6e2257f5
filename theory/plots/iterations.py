"""Iterations: TD against its predicted rate, eigenvalues in the plane, target networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from theory.checks import Array
from theory.errors import InputError
from theory.plots.style import PALETTE, describe, new_figure
from theory.spectrum import Complex
from theory.stability import Stability
from theory.target_networks import TargetNetworks
from theory.trajectory import Trajectory
from theory.truncation import Truncation

VERDICTS = {"stable": ("blue", "o"), "unstable": ("vermillion", "X"), "boundary": ("black", "s")}
"""Colour and marker of a verdict."""


def plot_td_error(run: Trajectory, rollout: Truncation | None = None) -> Figure:
    r"""Draw the error of expected TD, the predicted :math:`\rho(I-\alpha A)^t`, and a rollout's, semilog.

    All are relative to their first value: the error of TD is in weights, that of the rollout in values.

    Args:
        run: (steps + 1,) errors.
        rollout: of the same problem; drawn if it has a solution.

    Raises:
        InputError: the run starts at the fixed point, so there is nothing to be relative to.

    Example:
        >>> from theory import Problem, td_trajectory
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> plot_td_error(td_trajectory(problem, step_size=0.5, steps=9)).axes[0].get_yscale()
        'log'
    """
    if not run.error[0] > 0.0:
        raise InputError("The run starts at the fixed point: there is no error to draw. Start elsewhere.")
    figure, (axes,) = new_figure()
    if rollout is not None and rollout.error is not None and rollout.error[0] > 0.0:
        missing = _positive(rollout.error / rollout.error[0])
        axes.plot(np.arange(len(missing)), missing, color=PALETTE["green"], label="rollout cut after t steps")
    steps, error = np.arange(len(run.error)), _positive(run.error / run.error[0])
    axes.plot(steps, error, color=PALETTE["blue"], label="expected TD")
    predicted = run.predicted_rate ** steps.astype(np.float64)
    label = rf"predicted, $\rho(I-\alpha A)^t$ with $\rho$ = {run.predicted_rate:.6g}"
    if run.predicted_rate > 0.0:  # else it ends with the first step: there is no curve
        axes.plot(steps, _positive(predicted), color=PALETTE["orange"], linestyle="--", label=label)
    axes.set(yscale="log", xlim=(0, max(len(error) - 1, 1)))
    observed = "" if run.observed_rate is None else f", observed rate {run.observed_rate:.6g}"
    describe(axes, "step t", "error relative to the first", f"TD error{observed}")
    axes.legend(fontsize=9, loc="best")
    return figure


def plot_eigenvalues(found: Stability, rollout_eigenvalues: Any, step_size: float | None = None) -> Figure:
    r"""Draw the eigenvalues that decide about TD, and those that decide about the rollout.

    On the left those of A, with the disc :math:`|1-\alpha\lambda|<1` at the given step size, or else at the
    best one and at the limit; on the right those of :math:`\gamma W_d` with the unit circle.

    Args:
        found: of the problem.
        rollout_eigenvalues: (k,) complex, of :math:`\gamma W_d`.
        step_size: positive.

    Raises:
        InputError: a step size that is not positive and finite.

    Example:
        >>> from theory import Problem, stability
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> plot_eigenvalues(stability(problem), [0.6]).axes[1].get_xlabel()
        'real part'
    """
    if step_size is not None and not 0.0 < step_size < np.inf:
        raise InputError(f"step_size must be positive and finite, got {step_size}.")
    figure, (left, right) = new_figure(2, panel=(4.4, 5.3))
    _draw_td_plane(left, found, step_size)
    values = np.asarray(rollout_eigenvalues, dtype=np.complex128)
    inside = "unit circle: the rollout converges inside"
    right.add_patch(_disc(0.0, 1.0, "blue"))
    right.plot([], [], color=PALETTE["blue"], label=inside)
    _draw_points(right, values, np.array([-1.0, 1.0]), np.array([-1.0, 1.0]))
    title = rf"Rollout {found.rollout}: $\rho(\gamma W_d)$ = {found.spectral_radius:.6g}"
    describe(right, "real part", "imaginary part", title)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower left", frameon=False)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower right", frameon=False)
    return figure


def _draw_td_plane(axes: Axes, found: Stability, step_size: float | None) -> None:
    """Draw the eigenvalues of A and the discs of the step sizes."""
    steps = {"step size": step_size}
    if step_size is None:
        steps = {"best step size": found.best_step_size, "largest step size": found.step_size_limit}
    reach = [0.0]
    for (name, alpha), colour in zip(steps.items(), ("blue", "orange"), strict=False):
        if alpha is None:
            continue
        axes.add_patch(_disc(1.0 / alpha, 1.0 / alpha, colour))
        label = rf"$|1-\alpha\lambda|<1$ at the {name} {alpha:.4g}"
        axes.plot([], [], color=PALETTE[colour], label=label)
        reach.append(2.0 / alpha)
    _draw_points(axes, np.asarray(found.eigenvalues), np.array(reach), np.array(reach) / 2.0)
    label = "an eigenvalue here: no step size converges"
    axes.axvspan(axes.get_xlim()[0], 0.0, color=f"{PALETTE['vermillion']}26", linewidth=0, label=label)
    least = float(np.real(found.eigenvalues).min(initial=np.inf))
    describe(axes, "real part", "imaginary part", rf"TD {found.td}: least real part of A {least:.4g}")


def _draw_points(axes: Axes, values: Complex, x: Array, y: Array) -> None:
    """Mark the eigenvalues and show everything, in equal units."""
    axes.scatter(
        values.real, values.imag, s=36, marker="x", color=PALETTE["vermillion"], zorder=3, label="eigenvalues"
    )
    across, up = np.concatenate([values.real, x]), np.concatenate([abs(values.imag), y])
    middle, half = (across.max() + across.min()) / 2.0, (max(np.ptp(across) / 2.0, up.max()) or 1.0) * 1.12
    axes.set(xlim=(middle - half, middle + half), ylim=(-half, half), aspect="equal")


def _disc(centre: float, radius: float, colour: str) -> Circle:
    return Circle((centre, 0.0), radius, facecolor=f"{PALETTE[colour]}1A", edgecolor=PALETTE[colour])


def plot_target_networks(found: TargetNetworks) -> Figure:
    """Draw the spectral radius against the inner steps for each frozen target, with the limit.

    Args:
        found: (m,) radii; below 1 the iteration converges.

    Example:
        >>> from theory import Problem
        >>> from theory.target_networks import target_network_radius
        >>> flip = Problem.from_chain([[0, 1], [1, 0]], [1, 0], [[1], [-3]], [0.9, 0.1], 0.9)
        >>> plot_target_networks(target_network_radius(flip, 0.1, [1, 10])).axes[0].get_xscale()
        'log'
    """
    figure, (axes,) = new_figure()
    axes.plot(found.inner_steps, found.radii, color=PALETTE["grey"], linewidth=1, zorder=1)
    for verdict, (colour, marker) in VERDICTS.items():
        chosen = np.array([given == verdict for given in found.verdicts], dtype=bool)
        if chosen.any():
            x, y = found.inner_steps[chosen], found.radii[chosen]
            axes.scatter(x, y, s=34, marker=marker, color=PALETTE[colour], label=verdict, zorder=2)
    axes.axhline(1.0, color=PALETTE["black"], linewidth=1)
    if found.limit_radius is not None:
        label = rf"limit $\rho(\gamma W_d)$ = {found.limit_radius:.6g}"
        axes.axhline(found.limit_radius, color=PALETTE["green"], linestyle="--", label=label)
    axes.set_xscale("log")
    if found.radii.max() > 20.0 * max(float(found.radii.min()), 1e-12):
        axes.set_yscale("log")
    title = f"Target network: converges below 1 (step size {found.step_size:.4g})"
    describe(axes, "inner steps K for each frozen target", "spectral radius per target", title)
    axes.legend(fontsize=9, loc="best")
    return figure


def _positive(values: Array) -> Array:
    """Return the values with NaN, which is not drawn, for those that have no logarithm."""
    return np.where((values > 0.0) & np.isfinite(values), values, np.nan)
