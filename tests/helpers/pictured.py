"""What the tests of ``theory.plots`` draw: small problems and studies, computed once."""

from __future__ import annotations

from functools import cache

from theory import (
    BoundLadder,
    Features,
    Policy,
    Problem,
    ValueErrorSplit,
    Weights,
    bounds,
    frozen_lake,
    optimal,
    random_walk,
    river_swim,
    value_error,
)
from theory.catalogue import load
from theory.interpolation import FeatureSweep, feature_sweep
from theory.n_step import n_step_fixed_point

FLIP = Problem.from_chain([[0, 1], [1, 0]], [1, 0], [[1], [-3]], [0.9, 0.1], 0.9)
SMALL = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
FAIR = Problem.from_chain([[0.5, 0.5]] * 2, [1, 0], [[1, 0], [0, 1]], [0.5, 0.5], 0.5)


@cache
def lake() -> Problem:
    mdp = frozen_lake(gamma=0.95)
    return Problem(mdp, Policy.uniform(mdp), Features.random(mdp, 8, seed=0), Weights.uniform(mdp))


@cache
def ladder_and_split() -> tuple[BoundLadder, ValueErrorSplit]:
    return bounds(lake()), value_error(lake())


@cache
def sweeps() -> tuple[FeatureSweep, ...]:
    walk = random_walk(9, 0.95)
    setting = (walk, Policy.uniform(walk), Weights.uniform(walk))
    return tuple(feature_sweep(*setting, kind, range(1, 10)) for kind in ("random", "krylov"))


def n_steps() -> list[object]:
    mdp = river_swim(6, 0.9)
    problem = Problem(mdp, Policy.uniform(mdp), Features.random(mdp, 4, seed=1), Weights.uniform(mdp))
    return [n_step_fixed_point(problem, n, behaviour=optimal(mdp).policy) for n in (8, 1, 3)]


def three_cycle() -> Problem:
    return load("three_cycle").problem
