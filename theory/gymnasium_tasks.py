"""Gymnasium's toy-text tables ``env.P[s][a] = [(p, s', r, done), ...]`` as arrays.

Read by duck typing, so Gymnasium need not be installed. The table's traps are handled here:
``done`` must mask (in Taxi and CliffWalking the rows of the terminal state itself keep paying),
a successor may be listed twice, and probabilities are rounded thirds. ``TabularMDP.from_gym`` is
the public way in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from theory.checks import ROW_SUM_TOLERANCE, Array, Bools, check_count, check_number
from theory.errors import InputError
from theory.exact.rationals import normalised, snap


@dataclass(frozen=True)
class Entry:
    """One outcome of an action: probability, next state, reward, and whether the run ends there."""

    probability: Fraction
    successor: int
    reward: Fraction
    done: bool


@dataclass(frozen=True)
class GymTable:
    """The table of an environment.

    Attributes:
        entries: ``entries[s][a]``, probabilities of each list summing to one.
        start: (S,) distribution of the first state; None if the environment does not tell.
    """

    entries: tuple[tuple[tuple[Entry, ...], ...], ...]
    start: tuple[Fraction, ...] | None

    def arrays(self, gamma: float) -> tuple[Array, Array, float, Bools, Array | None]:
        """Return ``P, r, gamma, terminal, start``, what ``TabularMDP`` takes.

        States entered by a done transition are terminal. If one of them is also entered by a
        transition that is not done, from a state that a run can visit, ending belongs to the
        transition, not the state: then done transitions lead to one more state, the last, instead.
        """
        entered = {entry.successor for entry in self._all() if entry.done}
        states, actions = len(self.entries), len(self.entries[0])
        extra = self._passes_through(entered)
        size = states + extra
        terminal = np.zeros(size, dtype=bool)
        terminal[[states] if extra else sorted(entered)] = True
        P, r = np.zeros((size, actions, size)), np.zeros((size, actions))
        for s, row in enumerate(self.entries):  # TabularMDP replaces the rows of terminal states
            for a, outcomes in enumerate(row):
                r[s, a] = sum((entry.probability * entry.reward for entry in outcomes), Fraction(0))
                for successor, probability in _summed(outcomes, states if extra else None).items():
                    P[s, a, successor] = probability
        start = None if self.start is None else np.array([float(p) for p in self.start] + [0.0] * extra)
        return P, r, gamma, terminal, start

    def _all(self) -> list[Entry]:
        return [entry for row in self.entries for outcomes in row for entry in outcomes]

    def _passes_through(self, entered: set[int]) -> bool:
        """Tell whether a run can enter one of these states and go on."""
        todo = [s for s in range(len(self.entries)) if self.start is None or self.start[s] > 0]
        todo = [s for s in todo if s not in entered] if self.start is None else todo
        seen = set(todo)
        if seen & entered:
            return True
        while todo:
            for entry in (entry for outcomes in self.entries[todo.pop()] for entry in outcomes):
                if entry.probability == 0 or entry.done:
                    continue
                if entry.successor in entered:
                    return True
                if entry.successor not in seen:
                    seen.add(entry.successor)
                    todo.append(entry.successor)
        return False


def read_table(env: Any, *, rationalize: bool) -> GymTable:
    """Read and check the table of an environment.

    Args:
        env: has a table ``P``, itself or as ``env.unwrapped``; states and actions count from 0.
        rationalize: take probabilities and rewards for the simple fractions they round.

    Raises:
        InputError: no table, an action that some state lacks, an outcome that is not four entries, a
            probability that is negative, NaN or does not sum to one, a reward that is no number, a successor
            that does not exist; the message names state and action.

    Example:
        >>> class Toy:
        ...     P = {0: {0: [(0.33333333333333337, 0, 1.0, False), (0.6666666666666666, 0, 1.0, False)]}}
        >>> [str(entry.probability) for entry in read_table(Toy(), rationalize=True).entries[0][0]]
        ['1/3', '2/3']
    """
    if isinstance(env, str):
        raise InputError(
            f"from_gym takes an environment, got the name {env!r}; pass gymnasium.make({env!r})."
        )
    inner = getattr(env, "unwrapped", env)
    table = getattr(inner, "P", None)
    if not isinstance(table, Mapping) or not table:
        raise InputError(
            f"from_gym needs an environment with a table P[state][action], such as FrozenLake-v1, "
            f"CliffWalking-v1 or Taxi-v4; {type(inner).__name__} has none."
        )
    convert = snap if rationalize else Fraction
    states, actions = len(table), max(_count_actions(s, row) for s, row in table.items())
    rows = tuple(
        tuple(_outcomes(table, s, a, states, convert) for a in range(actions)) for s in range(states)
    )
    return GymTable(rows, _start(inner, states, convert))


def _outcomes(
    table: Mapping[int, Any], s: int, a: int, states: int, convert: Callable[[float], Fraction]
) -> tuple[Entry, ...]:
    """Return the outcomes of one action, probabilities summing to one exactly."""
    where = f"state {s}, action {a}"
    try:
        found = table[s][a]
    except (KeyError, IndexError) as error:
        raise InputError(f"The table has nothing for {where}.") from error
    listed = [_outcome(outcome, states, where) for outcome in found]
    total = sum(p for p, *_ in listed)
    if abs(total - 1.0) > ROW_SUM_TOLERANCE["float64"]:
        raise InputError(f"Probabilities must sum to 1, got {total:.12g} at {where}.")
    exact = normalised([convert(p) for p, *_ in listed])
    return tuple(
        Entry(p, successor, convert(reward), done)
        for p, (_, successor, reward, done) in zip(exact, listed, strict=True)
    )


def _outcome(outcome: Any, states: int, where: str) -> tuple[float, int, float, bool]:
    """Return one outcome of the table, checked."""
    if not isinstance(outcome, Sequence) or len(outcome) != 4:
        raise InputError(
            f"An outcome is (probability, next state, reward, done), got {outcome!r} at {where}."
        )
    successor = check_count(f"Next state at {where}", outcome[1], 0)
    if successor >= states:
        raise InputError(f"Next state {successor} at {where} does not exist; there are {states}.")
    p = check_number(f"Probability at {where}", outcome[0], least=0.0)
    return p, successor, check_number(f"Reward at {where}", outcome[2]), bool(outcome[3])


def _count_actions(state: Any, row: Any) -> int:
    """Return the number of actions that the table has for one state."""
    if not isinstance(row, Mapping | Sequence):
        raise InputError(f"The table must map each action of state {state} to its outcomes, got {row!r}.")
    return len(row)


def _start(env: Any, states: int, convert: Callable[[float], Fraction]) -> tuple[Fraction, ...] | None:
    """Return the distribution of the first state, if the environment has one."""
    given = getattr(env, "initial_state_distrib", None)
    if given is None:
        return None
    first = [convert(check_number("initial_state_distrib", p, least=0.0)) for p in given]
    if len(first) != states or sum(first) == 0:
        raise InputError(f"initial_state_distrib must weigh each of the {states} states, got {len(first)}.")
    return tuple(normalised(first))


def _summed(outcomes: tuple[Entry, ...], end: int | None) -> dict[int, Fraction]:
    """Return the probability of each successor; done ones go to state ``end`` if there is one."""
    total: dict[int, Fraction] = {}
    for entry in outcomes:
        successor = end if end is not None and entry.done else entry.successor
        total[successor] = total.get(successor, Fraction(0)) + entry.probability
    return total
