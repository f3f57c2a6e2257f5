"""Experiments: suites of tasks, published figures, statistics. Nothing here imports torch.

What is trained and how is in ``trainers``; here is which runs make a study, and what their scores say.
"""

from uld_torchrl.experiments.published import (
    METHODS,
    SOURCES,
    Point,
    aggregates,
    comparable,
    normalise,
    normaliser,
    points,
)
from uld_torchrl.experiments.statistics import (
    STATISTICS,
    Interval,
    aggregate,
    performance_profile,
    probability_of_improvement,
)
from uld_torchrl.experiments.suites import SUITES, Suite, suite

__all__ = [
    "METHODS",
    "SOURCES",
    "STATISTICS",
    "SUITES",
    "Interval",
    "Point",
    "Suite",
    "aggregate",
    "aggregates",
    "comparable",
    "normalise",
    "normaliser",
    "performance_profile",
    "points",
    "probability_of_improvement",
    "suite",
]
