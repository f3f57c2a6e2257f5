"""Stationary policies: one distribution over actions for every state.

Policies that look at features or at history are not here; a policy of an aggregated state space is
written out over the states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from theory.checks import (
    Array,
    any_array,
    as_array,
    check_count,
    check_number,
    check_shape,
    frozen,
    row_tolerance,
)
from theory.errors import InputError

if TYPE_CHECKING:
    from theory.mdp import TabularMDP


@dataclass(frozen=True, init=False, eq=False)
class Policy:
    """Probabilities of actions, one row a state.

    Attributes:
        probs: (S, A), non-negative, rows sum to one (terminal states have a row too; it is not used).

    Raises:
        InputError: a wrong shape, NaN, a negative entry or a row that does not sum to one; the
            message names the state.

    Example:
        >>> Policy([[0.25, 0.75]]).probs
        array([[0.25, 0.75]])
    """

    probs: Array

    def __init__(self, probs: Any) -> None:
        array = as_array("probs", probs, lambda index: f"state {index[0]}")
        if array.ndim != 2 or 0 in array.shape:
            raise InputError(f"probs must have shape (states, actions), neither zero, got {array.shape}.")
        if array.min() < 0.0:
            s, a = np.argwhere(array < 0.0)[0]
            raise InputError(f"probs must not be negative, got {array[s, a]:.6g} at state {s}, action {a}.")
        sums = array.sum(axis=1)
        wrong = np.flatnonzero(np.abs(sums - 1.0) > row_tolerance(probs))
        if len(wrong):
            raise InputError(f"probs must sum to 1, got {sums[wrong[0]]:.12g} at state {wrong[0]}.")
        object.__setattr__(self, "probs", frozen(array / sums[:, None]))

    @classmethod
    def uniform(cls, mdp: TabularMDP) -> Policy:
        """Return the policy that takes every action with the same probability.

        Example:
            >>> from theory import TabularMDP
            >>> Policy.uniform(TabularMDP.from_dense([[[1.0], [1.0]]], [[0, 0]], 0.9)).probs
            array([[0.5, 0.5]])
        """
        return cls(np.full(mdp.r.shape, 1.0 / mdp.num_actions))

    @classmethod
    def greedy(cls, q: Any) -> Policy:
        """Return the policy that takes an action of largest value; the first one on ties.

        Args:
            q: (S, A) action values.

        Raises:
            InputError: a wrong shape or NaN.

        Example:
            >>> Policy.greedy([[0.0, 2.0], [1.0, 1.0]]).probs
            array([[0., 1.],
                   [1., 0.]])
        """
        return cls.epsilon_greedy(q, 0.0)

    @classmethod
    def epsilon_greedy(cls, q: Any, epsilon: float) -> Policy:
        """Return the greedy policy that takes a uniformly random action with probability ``epsilon``.

        Raises:
            InputError: a wrong shape, NaN, or epsilon no number in [0, 1].

        Example:
            >>> Policy.epsilon_greedy([[0.0, 2.0]], 0.5).probs
            array([[0.25, 0.75]])
        """
        values = as_array("q", q, lambda index: f"state {index[0]}")
        if values.ndim != 2 or 0 in values.shape:
            raise InputError(f"q must have shape (states, actions), neither zero, got {values.shape}.")
        epsilon = check_number("epsilon", epsilon, least=0.0, most=1.0)
        probs = np.full(values.shape, epsilon / values.shape[1])
        probs[np.arange(len(values)), values.argmax(axis=1)] += 1.0 - epsilon
        return cls(probs)

    @classmethod
    def from_actions(cls, actions: Any, num_actions: int | None = None) -> Policy:
        """Return the policy that takes one given action in each state.

        Args:
            actions: (S,) action numbers.
            num_actions: how many actions there are; the largest number plus one if None.

        Raises:
            InputError: not whole numbers, or an action that does not exist.

        Example:
            >>> Policy.from_actions([1, 0]).probs
            array([[0., 1.],
                   [1., 0.]])
        """
        chosen = any_array("actions", actions)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or len(chosen) == 0:
            raise InputError(f"actions must be one whole number a state, got {actions!r}.")
        count = int(chosen.max()) + 1 if num_actions is None else check_count("num_actions", num_actions)
        bad = np.flatnonzero((chosen < 0) | (chosen >= count))
        if len(bad):
            raise InputError(f"Action {chosen[bad[0]]} at state {bad[0]} does not exist; there are {count}.")
        return cls(np.eye(count)[chosen])

    def mix(self, other: Policy, weight: float) -> Policy:
        """Return the policy that follows ``other`` with probability ``weight`` at each step, else this one.

        Raises:
            InputError: no policy, other states or actions, or a weight that is no number in [0, 1].

        Example:
            >>> Policy([[1.0, 0.0]]).mix(Policy([[0.0, 1.0]]), 0.25).probs
            array([[0.75, 0.25]])
        """
        if not isinstance(other, Policy):
            raise InputError(f"other must be a Policy, got {type(other).__name__}.")
        check_shape("other", other.probs, self.probs.shape, "(states, actions)")
        weight = check_number("weight", weight, least=0.0, most=1.0)
        return Policy((1.0 - weight) * self.probs + weight * other.probs)
