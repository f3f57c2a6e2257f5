"""Published figures: scores of others, and what normalises a return. Figures only, each with its source.

The tables are in ``figures/*.csv``. Nothing here is computed from our own runs.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uld_torchrl.errors import InputError, nearest

SOURCES = {
    "mrq_curves": "MR.Q (arXiv 2501.16142), mean and 95 % bootstrap interval over 10 seeds, recomputed from "
    "its public result files",
    "end_points": "as reported in MR.Q (arXiv 2501.16142), tables of appendix C; intervals where it has them",
    "aggregates": "MR.Q (arXiv 2501.16142), recomputed from its public result files; Atari over 55 games",
    "normalisation": "gym: random and TD3 (arXiv 1802.09477) scores; atari: random and human scores, as in "
    "MR.Q (arXiv 2501.16142, appendix B)",
}
"""Where the figures of each table come from. Steps are agent steps."""
METHODS = ("mrq", "td7", "tdmpc2", "dreamerv3", "ppo", "drqv2", "dqn", "rainbow")
"""Methods that :func:`points` knows: MR.Q with curves, the others with their end points."""


@dataclass(frozen=True)
class Point:
    """A published score: the mean return at a step, with its 95 % interval where there is one (else NaN)."""

    step: int
    mean: float
    low: float
    high: float


@cache
def _table(name: str) -> tuple[dict[str, str], ...]:
    text = (files("uld_torchrl.experiments") / "figures" / f"{name}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def points(env: str, method: str) -> list[Point]:
    """Return what a method is published to reach on an environment, by agent steps; empty if nothing is.

    Args:
        env: such as "gym/Ant-v4".
        method: one of :data:`METHODS`.

    Raises:
        InputError: an unknown method.

    Example:
        >>> from uld_torchrl.experiments import points
        >>> points("gym/Hopper-v4", "mrq")[-1].step, points("gym/Hopper-v4", "td7")[-1].mean
        (1000000, 3511.0)
    """
    if method not in METHODS:
        meant = nearest(method, list(METHODS), 1)
        hint = f" Did you mean {meant[0]}?" if meant else ""
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}.{hint}")
    if method == "mrq":
        rows = [row for row in _table("mrq_curves") if row["env"] == env]
    else:
        rows = [row for row in _table("end_points") if row["env"] == env and row["method"] == method]
    return [
        Point(int(row["step"]), *(_number(row[name]) for name in ("mean", "low", "high"))) for row in rows
    ]


def aggregates(suite: str, step: int) -> dict[str, Point]:
    """Return MR.Q's published aggregates of a suite at a step: "mean", "median", "iqm" (over runs).

    Empty where none are published.

    Example:
        >>> from uld_torchrl.experiments import aggregates
        >>> aggregates("gym5", 1_000_000)["mean"].mean
        1.4646
    """
    rows = [row for row in _table("aggregates") if row["suite"] == suite and int(row["step"]) == step]
    return {row["statistic"]: _point(row, "value") for row in rows}


def normaliser(env: str) -> tuple[float, float] | None:
    """Return the returns that count as 0 and as 1, or None where the field has none.

    DeepMind Control: 0 and 1000. Gym locomotion: random and TD3. Atari: random and human.

    Example:
        >>> from uld_torchrl.experiments import normaliser
        >>> normaliser("dmc/walker-run"), normaliser("gym/Ant-v4"), normaliser("gym/CartPole-v1")
        ((0.0, 1000.0), (-70.288, 3942.0), None)
    """
    if env.startswith(("dmc/", "dmc-pixels/")):
        return 0.0, 1000.0
    rows = [row for row in _table("normalisation") if row["env"] == env]
    return (float(rows[0]["zero"]), float(rows[0]["one"])) if rows else None


def normalise(env: str, returns: ArrayLike) -> NDArray[np.float64]:
    """Return normalised scores: (return - zero) / (one - zero); as they are where the field has no scale.

    Example:
        >>> from uld_torchrl.experiments import normalise
        >>> normalise("dmc/walker-run", [250.0, 500.0]).tolist()
        [0.25, 0.5]
    """
    values, scale = np.asarray(returns, dtype=np.float64), normaliser(env)
    if scale is None:
        return values
    zero, one = scale
    return (values - zero) / (one - zero)


def comparable(envs: Sequence[str]) -> bool:
    """Return whether scores of these environments are on one scale, so that a mean over them means something.

    Example:
        >>> from uld_torchrl.experiments import comparable
        >>> comparable(["dmc/walker-run", "dmc/dog-run"]), comparable(["CartPole-v1", "Pendulum-v1"])
        (True, False)
    """
    return len(set(envs)) == 1 or all(normaliser(env) is not None for env in envs)


def _point(row: dict[str, str], value: str) -> Point:
    return Point(int(row["step"]), _number(row[value]), _number(row["low"]), _number(row["high"]))


def _number(cell: str) -> float:
    return float(cell) if cell else float("nan")
