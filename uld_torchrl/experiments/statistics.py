"""Statistics over tasks and seeds: IQM, stratified bootstrap, profiles, probability of improvement.

As recommended by "Deep RL at the edge of the statistical precipice" (arXiv 2108.13264). Scores are a mapping
from task to the scores of its runs, normalised before (``published.normalise``). The resampling is SciPy's
(``scipy.stats.bootstrap``), which draws each task's runs by themselves: that is the stratification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap, trim_mean

from uld_torchrl.errors import InputError, one_of

Scores = Mapping[str, ArrayLike]
"""Task -> scores of its runs (runs,)."""
Array = NDArray[np.float64]
RESAMPLES = 2000


def _task_means(*runs: Array, axis: int = -1) -> Array:
    return np.stack([each.mean(axis=axis) for each in runs], axis=-1)


def _mean(*runs: Array, axis: int = -1) -> Array:
    return _task_means(*runs, axis=axis).mean(-1)


def _median(*runs: Array, axis: int = -1) -> Array:
    return np.median(_task_means(*runs, axis=axis), axis=-1)


def _iqm_runs(*runs: Array, axis: int = -1) -> Array:
    return np.asarray(trim_mean(np.concatenate(runs, axis=axis), 0.25, axis=axis))


def _iqm_tasks(*runs: Array, axis: int = -1) -> Array:
    return np.asarray(trim_mean(_task_means(*runs, axis=axis), 0.25, axis=-1))


STATISTICS: dict[str, Callable[..., Array]] = {
    "mean": _mean,
    "median": _median,
    "iqm_runs": _iqm_runs,
    "iqm_tasks": _iqm_tasks,
}
"""Mean and median are over task means. The interquartile mean leaves out the lowest and highest quarter
(rounded down, as ``scipy.stats.trim_mean``): of all runs pooled, or of the task means."""


@dataclass(frozen=True)
class Interval:
    """A statistic and its 95 % interval; NaN bounds where a task has a single run."""

    value: float
    low: float
    high: float


def aggregate(
    scores: Scores, statistic: str = "iqm_runs", *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return a statistic of the scores with a 95 % interval from the stratified bootstrap (percentiles).

    Args:
        scores: task -> scores of its runs.
        statistic: one of :data:`STATISTICS`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: an unknown statistic, no task, a task without runs, or scores that are not finite.

    Example:
        >>> from uld_torchrl.experiments import aggregate
        >>> found = aggregate({"a": [0.0, 1.0], "b": [2.0, 3.0]}, "mean")
        >>> found.value, found.low <= 1.5 <= found.high
        (1.5, True)
    """
    function = STATISTICS[one_of("statistic", statistic, tuple(STATISTICS))]
    return _interval(_checked(scores), function, resamples, seed)


def _interval(runs: list[Array], function: Callable[..., Array], resamples: int, seed: int) -> Interval:
    value = float(function(*runs))
    if min(map(len, runs)) < 2:
        return Interval(value, float("nan"), float("nan"))
    low, high = _bootstrap(runs, function, resamples, seed)
    return Interval(value, float(low), float(high))


def _bootstrap(runs: list[Array], function: Callable[..., Array], resamples: int, seed: int) -> Any:
    found = bootstrap(
        tuple(runs),
        function,
        n_resamples=resamples,
        vectorized=True,
        axis=-1,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    return found.confidence_interval


def curve_interval(curves: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Array, Array]:
    """Return the 95 % bootstrap interval of the mean over runs, at each step of their curves.

    Args:
        curves: scores (runs, steps), at least two runs.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        Lower and upper bounds, (steps,) each; NaN for a single run.

    Example:
        >>> low, high = curve_interval([[0.0, 1.0], [0.0, 3.0]])
        >>> low.tolist(), high.tolist()
        ([0.0, 1.0], [0.0, 3.0])
    """
    runs = np.asarray(curves, dtype=np.float64)
    if len(runs) < 2:
        return np.full(runs.shape[1], np.nan), np.full(runs.shape[1], np.nan)
    found = bootstrap(
        (runs,),
        np.mean,
        n_resamples=resamples,
        axis=0,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    return found.confidence_interval.low, found.confidence_interval.high


def performance_profile(scores: Scores, levels: Sequence[float] | Array) -> Array:
    """Return the share of runs above each level, a task counting as much as another (levels,).

    Example:
        >>> from uld_torchrl.experiments import performance_profile
        >>> performance_profile({"a": [0.0, 1.0], "b": [2.0, 3.0]}, [0.5, 2.5]).tolist()
        [0.75, 0.25]
    """
    taus = np.asarray(levels, dtype=np.float64)
    return np.mean([(runs > taus[:, None]).mean(-1) for runs in _checked(scores)], axis=0)


def probability_of_improvement(
    ours: Scores, theirs: Scores, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean over tasks of P(a run of ours beats one of theirs), with its interval; ties count half.

    Args:
        ours: task -> scores of its runs.
        theirs: the same tasks.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: other tasks, or scores that cannot be used.

    Example:
        >>> from uld_torchrl.experiments import probability_of_improvement
        >>> probability_of_improvement({"a": [1.0, 2.0]}, {"a": [0.0, 2.0]}).value
        0.625
    """
    if set(ours) != set(theirs):
        odd = ", ".join(sorted(set(ours) ^ set(theirs)))
        raise InputError(f"both must have the same tasks; only one has {odd}.")
    tasks = sorted(ours)
    runs = [
        *_checked({task: ours[task] for task in tasks}),
        *_checked({task: theirs[task] for task in tasks}),
    ]
    return _interval(runs, _improvement, resamples, seed)


def _improvement(*runs: Array, axis: int = -1) -> Array:
    half = len(runs) // 2
    wins = []
    for x, y in zip(runs[:half], runs[half:], strict=True):
        difference = np.moveaxis(x, axis, -1)[..., :, None] - np.moveaxis(y, axis, -1)[..., None, :]
        wins.append((0.5 + 0.5 * np.sign(difference)).mean((-2, -1)))
    return np.mean(wins, axis=0)


def _checked(scores: Scores) -> list[Array]:
    if not scores:
        raise InputError("scores must hold at least one task, got none.")
    runs = {task: np.asarray(given, dtype=np.float64) for task, given in scores.items()}
    for task, each in runs.items():
        if each.ndim != 1 or not len(each):
            raise InputError(f"scores of {task} must be a list of at least one run, got shape {each.shape}.")
        if not np.isfinite(each).all():
            raise InputError(f"scores of {task} must be finite, got {each.tolist()}.")
    return list(runs.values())
