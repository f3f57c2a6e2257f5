"""A finite Markov decision process as arrays: transitions, expected rewards, ends, starts.

All states are in the arrays, terminal ones too; a terminal state is stored as a self-loop that pays
nothing, whatever rows it came with. Rows of the theorems (live states only, transitions into
terminal states removed) are cut in ``theory/problem.py``; Gymnasium's tables are read in
``theory/gymnasium_tasks.py``; nothing is solved here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from theory import gymnasium_tasks
from theory.checks import (
    Array,
    Bools,
    Ints,
    Matrix,
    any_array,
    as_array,
    as_matrix,
    check_count,
    check_gamma,
    check_non_negative,
    check_shape,
    frozen,
    row_sums,
    row_tolerance,
)
from theory.errors import InputError
from theory.exact.mdp import ExactMDP, exact_mdp
from theory.graphs import reachable

INDEX = ("state", "action", "next state")
LARGEST_INDEX = 2.0**53  # beyond it floats are not all the whole numbers


@dataclass(frozen=True, init=False, eq=False)
class TabularMDP:
    """States, actions, transitions, expected rewards, a discount, terminal states and a start.

    Attributes:
        P: (S, A, S) dense, or ``csr_array`` (S*A, S) with row ``s * A + a``; rows sum to one.
        r: (S, A), expected reward of an action, what the last step pays included.
        gamma: discount in [0, 1].
        terminal: (S,), True where nothing follows; such a state loops on itself and pays 0.
        start: (S,), distribution of the first state; uniform over the live states unless given.

    Raises:
        InputError: a wrong shape, NaN, a negative probability, a row that does not sum to one (the
            message names state and action), gamma outside [0, 1], a start in a terminal state, no
            live state.

    Example:
        >>> mdp = TabularMDP.from_dense([[[0, 1]], [[0, 1]]], [[1], [0]], 0.9, terminal=[False, True])
        >>> mdp.num_states, mdp.num_actions, mdp.live_states()
        (2, 1, array([0]))
    """

    P: Matrix
    r: Array
    gamma: float
    terminal: Bools
    start: Array

    def __init__(self, P: Any, r: Any, gamma: float, terminal: Any = None, start: Any = None) -> None:
        rewards = as_array("r", r, lambda index: _pair(*index) if len(index) == 2 else str(index))
        if rewards.ndim != 2 or 0 in rewards.shape:
            raise InputError(f"r must have shape (states, actions), neither zero, got {rewards.shape}.")
        ends = _check_terminal(terminal, len(rewards))
        fields = {
            "P": _check_transitions(P, ends, rewards.shape),
            "r": frozen(np.where(ends[:, None], 0.0, rewards)),
            "gamma": check_gamma(gamma),
            "terminal": ends,
            "start": _check_start(start, ends),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dense(
        cls, P: Any, r: Any, gamma: float, *, terminal: Any = None, start: Any = None
    ) -> TabularMDP:
        """Take (S, A, S) transitions and (S, A) or (S, A, S) rewards; the latter are averaged.

        Raises:
            InputError: see the class.

        Example:
            >>> TabularMDP.from_dense([[[1.0]]], [[[5.0]]], 0.5).r
            array([[5.]])
        """
        rewards = as_array("r", r)
        if rewards.ndim == 3:
            transitions = as_array("P", P)
            check_shape("r", rewards, transitions.shape, "(states, actions, states)")
            rewards = np.asarray((transitions * rewards).sum(axis=2))
        return cls(P, rewards, gamma, terminal, start)

    @classmethod
    def from_transitions(
        cls,
        rows: Iterable[Sequence[Any]],
        gamma: float,
        *,
        terminal: Any = None,
        start: Any = None,
        shape: tuple[int, int] | None = None,
        dense: bool = True,
    ) -> TabularMDP:
        """Collect ``(state, action, next_state, probability, reward)`` rows; repeated ones are summed.

        Args:
            rows: the transitions; the expected reward is the sum of probability times reward.
            gamma: discount in [0, 1].
            terminal: (S,) flags; their rows may be missing.
            start: (S,) distribution.
            shape: (states, actions); counted from the rows if None.
            dense: store ``P`` densely; False keeps a ``csr_array``.

        Raises:
            InputError: a row of another length, an index that is negative, too large or no whole number, a
                probability below zero; see also the class.

        Example:
            >>> rows = [(0, 0, 0, 0.25, 4.0), (0, 0, 0, 0.25, 0.0), (0, 0, 1, 0.5, 0.0)]
            >>> mdp = TabularMDP.from_transitions(rows, 0.9, terminal=[False, True])
            >>> mdp.P[0, 0], mdp.r[0, 0]
            (array([0.5, 0.5]), np.float64(1.0))
        """
        table = _transition_table(rows)
        if shape is None:
            S, A = int(table[:, (0, 2)].max()) + 1, int(table[:, 1].max()) + 1
        else:
            S, A = _check_sizes(shape)
        index = table[:, :3].astype(np.int64).T
        for name, given, limit in zip(INDEX, index, (S, A, S), strict=True):
            _check_index(name, given, limit)
        pair, (chance, reward) = index[0] * A + index[1], table[:, 3:].T
        P = sparse.coo_array((chance, (pair, index[2])), shape=(S * A, S)).tocsr()
        rewards = np.bincount(pair, chance * reward, minlength=S * A).reshape(S, A)
        return cls(P.toarray().reshape(S, A, S) if dense else P, rewards, gamma, terminal, start)

    @classmethod
    def from_gym(cls, env: Any, gamma: float, *, rationalize: bool = True) -> TabularMDP:
        """Read the table ``P[s][a]`` of a Gymnasium toy-text environment.

        A state entered by a transition marked done is terminal, whatever its own rows pay; repeated
        successors are summed. With ``rationalize``, probabilities such as 0.33333333333333337 are
        taken for the fraction they round, and rows sum to one exactly before they become floats.

        Raises:
            InputError: no such table, or a probability that cannot be one.

        Example:
            >>> class Toy:
            ...     P = {0: {0: [(0.5, 0, 0.0, False), (0.5, 1, 1.0, True)]}, 1: {0: [(1.0, 1, 7.0, True)]}}
            >>> mdp = TabularMDP.from_gym(Toy(), 1.0)
            >>> mdp.terminal, mdp.r[:, 0]
            (array([False,  True]), array([0.5, 0. ]))
        """
        return cls(*gymnasium_tasks.read_table(env, rationalize=rationalize).arrays(gamma))

    @property
    def num_states(self) -> int:
        """Number of states, terminal ones included."""
        return len(self.r)

    @property
    def num_actions(self) -> int:
        """Number of actions."""
        return int(self.r.shape[1])

    @property
    def rows(self) -> Matrix:
        """``P`` with one row a state-action pair: (S*A, S), dense or sparse."""
        return self.P if sparse.issparse(self.P) else self.P.reshape(-1, self.num_states)

    def live_states(self, reachable_from: Any = None) -> Ints:
        """Return the states that are not terminal, in order; or only those that can be reached.

        Args:
            reachable_from: ``"start"`` for the support of :attr:`start`, one state, several states,
                or (S,) flags or probabilities; None for all. Any action may be taken on the way.

        Raises:
            InputError: a state that does not exist, or an argument of another kind.

        Example:
            >>> mdp = TabularMDP.from_dense([[[0, 1]], [[0, 1]]], [[0], [0]], 0.9)
            >>> mdp.live_states(reachable_from=1)
            array([1])
        """
        if reachable_from is None:
            return np.flatnonzero(~self.terminal)
        sources = self._sources(reachable_from) & ~self.terminal
        return np.flatnonzero(reachable(self.state_graph(), sources) & ~self.terminal)

    def state_graph(self) -> sparse.csr_array:
        """Return (S, S), positive where some action leads from one state to another; terminal ones loop.

        Example:
            >>> TabularMDP.from_dense([[[0, 1]], [[1, 0]]], [[0], [0]], 0.9).state_graph().toarray()
            array([[0., 1.],
                   [1., 0.]])
        """
        edges = sparse.coo_array(self.rows)
        states = edges.row // self.num_actions
        keep = edges.data > 0.0
        S = self.num_states
        return sparse.coo_array((edges.data[keep], (states[keep], edges.col[keep])), shape=(S, S)).tocsr()

    def to_exact(self) -> ExactMDP:
        """Return the MDP in fractions: each float becomes the simple fraction it rounds, if there is one.

        Rows of probabilities are divided by their sum, so that they sum to one exactly.

        Example:
            >>> TabularMDP.from_dense([[[1.0]]], [[0.1]], 0.9).to_exact().gamma
            Fraction(9, 10)
        """
        return exact_mdp(self.rows, self.r, self.gamma, self.terminal.tolist(), self.start)

    def _sources(self, wanted: Any) -> Bools:
        """Return (S,) flags of the states meant by ``reachable_from``."""
        if isinstance(wanted, str) and wanted == "start":
            return self.start > 0.0
        array = any_array("reachable_from", wanted)
        if array.dtype.kind in "bf" and array.shape == (self.num_states,):
            return np.asarray(_check_sources(array) > 0.0)
        if array.dtype.kind not in "iu":
            raise InputError(
                "reachable_from must be 'start', a state, states, or one flag or probability for each of "
                f"the {self.num_states} states; got {wanted!r}."
            )
        flags = np.zeros(self.num_states, dtype=bool)
        _check_index("state", array.reshape(-1), self.num_states)
        flags[array] = True
        return flags


def _pair(state: int, action: int) -> str:
    return f"state {state}, action {action}"


def _check_terminal(terminal: Any, states: int) -> Bools:
    """Return (S,) flags, at least one of them False."""
    flags = np.zeros(states, dtype=bool) if terminal is None else any_array("terminal", terminal)
    check_shape("terminal", flags, (states,), "(states,)")
    if flags.dtype != np.bool_:
        raise InputError(f"terminal must hold True or False for each state, got {flags.dtype}.")
    if flags.all():
        raise InputError("Every state is terminal; at least one must be live.")
    flags.setflags(write=False)
    return flags


def _check_start(start: Any, terminal: Bools) -> Array:
    """Return (S,) probabilities; uniform over the live states if not given."""
    if start is None:
        return frozen(np.where(terminal, 0.0, 1.0 / np.count_nonzero(~terminal)))
    array = as_array("start", start, lambda index: f"state {index[0]}")
    check_shape("start", array, terminal.shape, "(states,)")
    if array.min() < 0.0:
        state = int(np.argmin(array))
        raise InputError(f"start must not be negative, got {array[state]:.6g} at state {state}.")
    total = float(array.sum())
    if abs(total - 1.0) > row_tolerance(start):
        raise InputError(f"start must sum to 1, got {total:.12g}.")
    ended = np.flatnonzero(terminal & (array > 0.0))
    if len(ended):
        raise InputError(
            f"start gives state {ended[0]} probability, which is terminal: nothing would follow."
        )
    return frozen(array / total)


def _check_transitions(P: Any, terminal: Bools, shape: tuple[int, ...]) -> Matrix:
    """Return ``P`` checked, terminal rows replaced by self-loops, rows divided by their sum."""
    states, actions = shape
    tolerance = row_tolerance(P)
    if not sparse.issparse(P):
        P = as_array("P", P, lambda index: _pair(*index[:2]) if len(index) > 1 else str(index))
        check_shape("P", P, (states, actions, states), "(states, actions, states)")
        P = P.reshape(-1, states)
    rows = as_matrix("P", P, lambda row: _pair(*divmod(row, actions)))
    check_shape("P", rows, (states * actions, states), "(states * actions, states)")
    check_non_negative("P", rows, lambda row: _pair(*divmod(row, actions)))
    ends = np.repeat(terminal, actions)
    sums = np.where(ends, 1.0, row_sums(rows))
    wrong = np.flatnonzero(np.abs(sums - 1.0) > tolerance)
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"Probabilities must sum to 1, got {sums[row]:.12g} at {_pair(*divmod(row, actions))}; "
            "a transition that ends the run needs a terminal state to go to."
        )
    rows = _with_loops(rows, ends, sums, actions)
    return rows if sparse.issparse(rows) else frozen(rows.reshape(states, actions, states))


def _with_loops(rows: Matrix, ends: Bools, sums: Array, actions: int) -> Matrix:
    """Divide live rows by their sums and replace the rows of terminal states by self-loops."""
    scale = np.where(ends, 0.0, 1.0 / sums)
    at = np.flatnonzero(ends)
    if sparse.issparse(rows):
        loops = sparse.csr_array((np.ones(len(at)), (at, at // actions)), shape=rows.shape)
        looped = sparse.csr_array(sparse.diags_array(scale) @ rows + loops)
        looped.eliminate_zeros()
        return looped
    dense = rows * scale[:, None]
    dense[at, at // actions] = 1.0
    return np.asarray(dense)


def _transition_table(rows: Iterable[Sequence[Any]]) -> Array:
    """Return the rows as (count, 5): whole numbers in the first three columns, no negative probability."""
    listed = list(rows)
    for number, row in enumerate(listed):
        if not isinstance(row, Sequence | np.ndarray) or len(row) != 5:
            raise InputError(
                f"A transition is (state, action, next_state, probability, reward); row {number} is {row!r}."
            )
    if not listed:
        raise InputError("from_transitions needs at least one transition.")
    table = as_array("rows", listed, lambda index: f"row {index[0]}")
    for column, name in enumerate(INDEX):
        given = table[:, column]
        wrong = np.flatnonzero((given != np.floor(given)) | (abs(given) > LARGEST_INDEX))
        if len(wrong):
            raise InputError(f"{name} must be a whole number, got {given[wrong[0]]} at row {wrong[0]}.")
    if table[:, 3].min() < 0.0:  # two of one pair may sum to what looks right
        least = int(table[:, 3].argmin())
        raise InputError(f"A probability must not be negative, got {table[least, 3]:.6g} at row {least}.")
    return table


def _check_index(name: str, index: Ints, limit: int) -> None:
    """Raise unless every index lies in range(limit)."""
    bad = index[(index < 0) | (index >= limit)]
    if len(bad):
        raise InputError(f"{name} {bad[0]} does not exist; there are {limit}, numbered from 0.")


def _check_sizes(shape: Sequence[int]) -> tuple[int, int]:
    """Return the numbers of states and of actions."""
    if len(shape) != 2:
        raise InputError(f"shape must be (states, actions), got {shape!r}.")
    return check_count("states of shape", shape[0]), check_count("actions of shape", shape[1])


def _check_sources(array: Any) -> Array:
    """Return (S,) flags or probabilities as numbers that are not negative."""
    sources = as_array("reachable_from", array, lambda index: f"state {index[0]}")
    if sources.min() < 0.0:
        state = int(sources.argmin())
        raise InputError(f"reachable_from must not be negative, got {sources[state]:.6g} at state {state}.")
    return sources
