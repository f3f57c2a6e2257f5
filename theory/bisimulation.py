"""The coarsest abstraction that theorem 3 allows: states that no experiment can tell apart.

Two states are bisimilar if every action pays the same in both and leads to the same distribution
over classes of bisimilar states. The coarsest such partition is found by splitting classes until
nothing splits any more. Comparison allows for rounding: 1/3 + 2/3 summed in another order must not
part two states. Whether given labels are an abstraction is checked in ``abstraction``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.checks import Array, Ints
from theory.errors import InputError
from theory.labels import EPS, class_codes, join_equal, live_rows, pushforward
from theory.mdp import TabularMDP


def coarsest_bisimulation(mdp: TabularMDP, *, tol: float = 0.0) -> Ints:
    """Return the class of each state, (S,), in the coarsest bisimulation; terminal states share one.

    Args:
        mdp: S states, A actions; takes S * A * classes numbers of memory.
        tol: rewards and probabilities this close are taken for equal, beyond rounding; closeness
            is passed on (a to b to c), so that a class may be wider than ``tol``.

    Raises:
        InputError: ``tol`` is negative.

    Example:
        >>> P = [[[0.0, 0.3, 0.7]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]
        >>> coarsest_bisimulation(TabularMDP.from_dense(P, [[0.0], [1.0], [1.0]], 0.9))
        array([0, 1, 1])
    """
    live, actions = mdp.live_states(), mdp.num_actions
    codes = np.zeros(len(live), dtype=np.int64)
    while True:
        signature, tolerance = _signature(mdp, codes, tol)
        finer = join_equal(signature.reshape(len(live), -1), np.tile(tolerance, actions), codes)
        if finer.max() == codes.max():
            break
        codes = finer
    labels = np.full(mdp.num_states, -1, dtype=np.int64)
    labels[live] = codes
    return class_codes("labels", labels, labels.shape, "(states,)")


def coarsest_pair_labels(mdp: TabularMDP, state_labels: Any, *, tol: float = 0.0) -> Ints:
    """Return the class of each pair, (S, A): equal reward and equal distribution over state classes.

    Pairs of different actions may share a class. All pairs of terminal states share one.

    Args:
        mdp: S states, A actions.
        state_labels: (S,), such as those of :func:`coarsest_bisimulation`.
        tol: as there.

    Raises:
        InputError: a wrong shape.

    Example:
        >>> mdp = TabularMDP.from_dense(np.ones((1, 2, 1)), [[1.0, 1.0]], 0.9)
        >>> coarsest_pair_labels(mdp, [0])
        array([[0, 0]])
    """
    states = class_codes("state_labels", state_labels, (mdp.num_states,), "(states,)")
    live = mdp.live_states()
    codes = class_codes("state_labels", states[live], (len(live),), "(states,)")
    signature, tolerance = _signature(mdp, codes, tol)
    labels = np.full(mdp.r.size, -1, dtype=np.int64)
    rows = live_rows(mdp)
    labels[rows] = join_equal(signature, tolerance, np.zeros(len(rows), dtype=np.int64))
    return class_codes("labels", labels.reshape(mdp.r.shape), mdp.r.shape, "(states, actions)")


def _signature(mdp: TabularMDP, codes: Ints, tol: float) -> tuple[Array, Array]:
    """Return reward and next-class probabilities of each live pair, and how close counts as equal."""
    if not tol >= 0.0:
        raise InputError(f"tol must not be negative, got {tol}.")
    rewards = mdp.r.reshape(-1)[live_rows(mdp)]
    columns = np.column_stack([rewards, pushforward(mdp, codes)])
    noise = 64 * mdp.num_states * EPS
    tolerance = np.full(columns.shape[1], tol + noise)
    tolerance[0] = tol + noise * abs(rewards).max()
    return columns, tolerance
