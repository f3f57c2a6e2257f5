"""The coarsest abstraction that theorem 3 allows: states that no experiment can tell apart.

Two states are bisimilar if every action pays the same in both and leads to the same distribution
over classes of bisimilar states. The coarsest such partition is found by splitting classes until
nothing splits any more. Comparison allows for rounding: 1/3 + 2/3 summed in another order must not
part two states. Rounding is relative: of rewards to the two that are compared, whatever is paid elsewhere,
of probabilities to one. Whether given labels are an abstraction is checked in ``abstraction``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.checks import EPS, Array, Ints, check_number
from theory.labels import REWARD_NOISE, class_codes, join_equal, live_rows, pushforward
from theory.mdp import TabularMDP


def coarsest_bisimulation(mdp: TabularMDP, *, tol: float = 0.0) -> Ints:
    """Return the class of each state, (S,), in the coarsest bisimulation; terminal states share one.

    Args:
        mdp: S states, A actions; takes S * A * classes numbers of memory.
        tol: rewards and probabilities this close are taken for equal, beyond rounding; closeness
            is passed on (a to b to c), so that a class may be wider than ``tol``. It takes one to join what
            sums that cancel leave, such as 0.1 + 0.2 - 0.3 and 0.

    Raises:
        InputError: ``tol`` is negative or no number.

    Example:
        >>> P = [[[0.0, 0.3, 0.7]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]
        >>> coarsest_bisimulation(TabularMDP.from_dense(P, [[0.0], [1.0], [1.0]], 0.9))
        array([0, 1, 1])
    """
    live, actions = mdp.live_states(), mdp.num_actions
    codes = np.zeros(len(live), dtype=np.int64)
    while True:
        signature, tolerance, relative = _signature(mdp, codes, tol)
        columns, each = signature.reshape(len(live), -1), (np.tile(x, actions) for x in (tolerance, relative))
        finer = join_equal(columns, next(each), codes, next(each))
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
        InputError: a wrong shape, or a ``tol`` that is negative or no number.

    Example:
        >>> mdp = TabularMDP.from_dense(np.ones((1, 2, 1)), [[1.0, 1.0]], 0.9)
        >>> coarsest_pair_labels(mdp, [0])
        array([[0, 0]])
    """
    states = class_codes("state_labels", state_labels, (mdp.num_states,), "(states,)")
    live = mdp.live_states()
    codes = class_codes("state_labels", states[live], (len(live),), "(states,)")
    signature, tolerance, relative = _signature(mdp, codes, tol)
    labels = np.full(mdp.r.size, -1, dtype=np.int64)
    rows = live_rows(mdp)
    labels[rows] = join_equal(signature, tolerance, np.zeros(len(rows), dtype=np.int64), relative)
    return class_codes("labels", labels.reshape(mdp.r.shape), mdp.r.shape, "(states, actions)")


def _signature(mdp: TabularMDP, codes: Ints, tol: float) -> tuple[Array, Array, Array]:
    """Return reward and next-class probabilities of each live pair, and how close counts as equal.

    Closeness is a distance for each column, and one relative to the numbers compared.
    """
    tol = check_number("tol", tol, least=0.0)
    rewards = mdp.r.reshape(-1)[live_rows(mdp)]
    columns = np.column_stack([rewards, pushforward(mdp, codes)])
    tolerance, relative = np.full(columns.shape[1], tol), np.zeros(columns.shape[1])
    tolerance[1:] += 64 * mdp.num_states * EPS
    relative[0] = REWARD_NOISE
    return columns, tolerance, relative
