"""Random MDPs by size and branching (Garnet; Archibald, McKinnon and Thomas 1995), from splitmix64.

The same seed gives the same MDP on every machine. Structured worlds are in ``theory/worlds.py``.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from theory.checks import Array, check_count
from theory.errors import InputError
from theory.mdp import TabularMDP
from theory.splitmix import SplitMix64


def garnet(
    num_states: int,
    num_actions: int,
    branching: int,
    gamma: float,
    *,
    seed: int,
    num_terminal: int = 0,
    dense: bool = True,
) -> TabularMDP:
    """Return a random MDP: each action leads to ``branching`` distinct states.

    Probabilities are the spacings of sorted uniform numbers, rewards uniform in [-1, 1); the last
    ``num_terminal`` states are terminal, the start is uniform over the others.

    Raises:
        InputError: a size that is no whole number or below one, a branching above the number of states, or
            no live state.

    Example:
        >>> mdp = garnet(4, 2, 2, 0.9, seed=1)
        >>> mdp.P.shape, (mdp.P > 0).sum(axis=2).tolist()
        ((4, 2, 4), [[2, 2], [2, 2], [2, 2], [2, 2]])
    """
    sizes = {"num_states": num_states, "num_actions": num_actions, "branching": branching}
    num_states, num_actions, branching = (check_count(name, size) for name, size in sizes.items())
    if branching > num_states:
        raise InputError(f"branching must be at most the {num_states} states, got {branching}.")
    if check_count("num_terminal", num_terminal, 0) >= num_states:
        raise InputError(f"num_terminal must be from 0 to {num_states - 1}, got {num_terminal}.")
    stream = SplitMix64(seed)
    rows = num_states * num_actions
    successors = stream.subsets(rows, branching, num_states)
    index = (np.repeat(np.arange(rows), branching), successors.reshape(-1))
    spacings = _spacings(stream, rows, branching).reshape(-1)
    P = sparse.coo_array((spacings, index), shape=(rows, num_states)).tocsr()
    rewards = 2.0 * stream.uniform(num_states, num_actions) - 1.0
    terminal = np.arange(num_states) >= num_states - num_terminal
    transitions = P.toarray().reshape(num_states, num_actions, num_states) if dense else P
    return TabularMDP(transitions, rewards, gamma, terminal)


def _spacings(stream: SplitMix64, rows: int, branching: int) -> Array:
    """Return (rows, branching) positive probabilities, uniform on the simplex."""
    cuts = np.sort(stream.uniform(rows, branching - 1), axis=1)
    edges = np.concatenate([np.zeros((rows, 1)), cuts, np.ones((rows, 1))], axis=1)
    spacings = np.maximum(np.diff(edges, axis=1), 2.0**-53)  # two equal cuts would lose a successor
    return np.asarray(spacings / spacings.sum(axis=1, keepdims=True))
