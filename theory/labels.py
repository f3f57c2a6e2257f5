"""Labels of states and pairs: reading them, pushing distributions forward to classes, joining equal rows.

An abstraction is given by labels: equal labels, same class. Terminal states are outside all classes
here: nothing follows them, so a class of its own stands for them (the missing mass of a
pushforward), whatever label they were given. The theorem about labels is in ``abstraction``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from theory.checks import EPS, Array, Ints, any_array, check_shape
from theory.errors import InputError
from theory.mdp import TabularMDP

REWARD_NOISE = 64 * EPS  # rewards this close, relative to the larger, are the same number rounded twice


def class_codes(name: str, labels: Any, shape: tuple[int, ...], meaning: str) -> Ints:
    """Return labels of any sortable kind as whole numbers 0, 1, ... in order of first appearance.

    Raises:
        InputError: another shape, NaN, or labels of kinds that have no order (a number and None).

    Example:
        >>> class_codes("labels", ["b", "a", "b"], (3,), "(states,)").tolist()
        [0, 1, 0]
    """
    array = any_array(name, labels)
    check_shape(name, array, shape, meaning)
    if array.dtype.kind in "fc" and np.isnan(array).any():
        raise InputError(f"{name} must not be NaN, which equals nothing, itself included.")
    try:
        _, first, codes = np.unique(array, return_index=True, return_inverse=True)
    except TypeError as error:
        raise InputError(f"{name} must be of one kind, such as numbers or words: {error}.") from error
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.asarray(rank[codes.reshape(shape)], dtype=np.int64)


def live_rows(mdp: TabularMDP) -> Ints:
    """Return the row numbers ``s * A + a`` of the live pairs.

    Example:
        >>> live_rows(TabularMDP.from_dense([[[0, 1]], [[0, 1]]], [[1], [0]], 0.9, terminal=[False, True]))
        array([0])
    """
    actions = mdp.num_actions
    return (mdp.live_states()[:, None] * actions + np.arange(actions)).reshape(-1)


def pushforward(mdp: TabularMDP, codes: Ints) -> Array:
    """Return the probability of each class of live states after each live pair, (pairs, classes).

    What is missing to one is the probability of the end.

    Args:
        mdp: S states, L of them live.
        codes: (L,), the class of each live state, 0 to K - 1.

    Example:
        >>> mdp = TabularMDP.from_dense([[[0.5, 0.5]], [[0, 1]]], [[1], [0]], 0.9)
        >>> pushforward(mdp, np.array([0, 0])).tolist()
        [[1.0], [1.0]]
    """
    live = mdp.live_states()
    members = sparse.csr_array(
        (np.ones(len(live)), (live, codes)), shape=(mdp.num_states, int(codes.max()) + 1)
    )
    pushed = mdp.rows[live_rows(mdp)] @ members
    return np.asarray(pushed.todense() if sparse.issparse(pushed) else pushed, dtype=np.float64)


def class_means(values: Array, codes: Ints, weights: Array | None = None) -> Array:
    """Return the mean of each class, (classes, columns); a class without weight takes the plain mean.

    Example:
        >>> class_means(np.array([[1.0], [3.0], [5.0]]), np.array([0, 0, 1])).tolist()
        [[2.0], [5.0]]
    """
    weights = np.ones(len(codes)) if weights is None else weights
    mass = np.bincount(codes, weights)
    used = np.where(mass[codes] > 0.0, weights, 1.0)
    shape = (len(mass), len(codes))
    share = sparse.csr_array(
        (used / np.bincount(codes, used)[codes], (codes, np.arange(len(codes)))), shape=shape
    )
    return np.asarray(share @ values, dtype=np.float64)


def spread(values: Array, codes: Ints) -> float:
    """Return the largest difference of two of (n,) values in one class.

    Example:
        >>> spread(np.array([1.0, 3.0, 7.0]), np.array([0, 0, 1]))
        2.0
    """
    highest = np.full(int(codes.max()) + 1, -np.inf)
    lowest = -highest
    np.maximum.at(highest, codes, values)
    np.minimum.at(lowest, codes, values)
    return float((highest - lowest).max())


def join_equal(columns: Array, tolerance: Array, within: Ints, relative: Array | float = 0.0) -> Ints:
    """Return classes of rows that were together in ``within`` and agree in every column.

    Two numbers of a column agree if a chain of numbers that are there leads from one to the other in
    steps of at most the tolerance. Keys rounded to a grid would part two numbers on either side of a
    line of the grid, however close they are.

    Args:
        columns: (n, m).
        tolerance: (m,).
        within: (n,), classes to be refined.
        relative: (m,), added to the tolerance of a step times the larger of its two ends in modulus.

    Example:
        >>> join_equal(np.array([[0.3], [0.1 + 0.2], [0.4]]), np.array([1e-12]), np.zeros(3, dtype=int))
        array([0, 0, 1])
    """
    order = np.argsort(columns, axis=0, kind="stable")
    sorted_columns = np.take_along_axis(columns, order, axis=0)
    larger = np.maximum(abs(sorted_columns[:-1]), abs(sorted_columns[1:]))
    steps = np.diff(sorted_columns, axis=0) > tolerance + relative * larger
    ranks = np.vstack([np.zeros((1, columns.shape[1]), dtype=np.int64), np.cumsum(steps, axis=0)])
    codes = np.empty_like(ranks)
    np.put_along_axis(codes, order, ranks, axis=0)
    _, first, joined = np.unique(
        np.column_stack([within, codes]), axis=0, return_index=True, return_inverse=True
    )
    return class_codes("codes", first[joined.reshape(-1)], (len(within),), "(rows,)")
