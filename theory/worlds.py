"""Small MDPs that everybody knows, built from their rules: no simulator is needed.

FrozenLake and CliffWalking follow Gymnasium's toy-text tasks (a test compares them with its
tables); RiverSwim differs between papers, so its table is stated here in full. Taxi comes from
Gymnasium only (``TabularMDP.from_gym``); bare chains such as Baird's star are catalogue problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from theory.checks import check_count, check_number
from theory.errors import InputError
from theory.mdp import TabularMDP

FROZEN_LAKE = {
    "4x4": ("SFFF", "FHFH", "FFFH", "HFFG"),
    "8x8": (
        "SFFFFFFF",
        "FFFFFFFF",
        "FFFHFFFF",
        "FFFFFHFF",
        "FFFHFFFF",
        "FHHFFFHF",
        "FHFFHFHF",
        "FFFHFFFG",
    ),
}
LAKE_STEPS = ((0, -1), (1, 0), (0, 1), (-1, 0))  # left, down, right, up
CLIFF_STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


def frozen_lake(
    map_name: str = "4x4", gamma: float = 0.99, *, slippery: bool = True, desc: Sequence[str] | None = None
) -> TabularMDP:
    """Return FrozenLake: reach G for a reward of one, falling into H ends the run without.

    On slippery ice a step goes in the wanted direction or in one of the two at right angles to it,
    each with probability 1/3; against the edge one stays. Actions: left, down, right, up.

    Raises:
        InputError: an unknown map; a ``desc`` that is no rows of one length of its four letters, or has no S.

    Example:
        >>> frozen_lake().live_states().tolist()
        [0, 1, 2, 3, 4, 6, 8, 9, 10, 13, 14]
    """
    grid = _lake(map_name, desc)
    width, letters = len(grid[0]), "".join(grid)
    turns = (-1, 0, 1) if slippery else (0,)
    rows = []
    for s, letter in enumerate(letters):
        for action in range(4) if letter in "SF" else ():
            after = [_step(s, LAKE_STEPS[(action + turn) % 4], len(grid), width) for turn in turns]
            for t in sorted(set(after)):
                chance = float(Fraction(after.count(t), len(turns)))
                rows.append((s, action, t, chance, float(letters[t] == "G")))
    start = np.array([letter == "S" for letter in letters]) / letters.count("S")
    terminal = np.array([letter in "HG" for letter in letters])
    return TabularMDP.from_transitions(rows, gamma, terminal=terminal, start=start, shape=(len(letters), 4))


def _lake(map_name: str, desc: Sequence[str] | None) -> tuple[str, ...]:
    """Return the rows of a map: that of ``desc`` if given, else the named one."""
    if desc is None:
        if map_name not in list(FROZEN_LAKE):
            raise InputError(f"map_name must be one of {', '.join(FROZEN_LAKE)}; got {map_name!r}.")
        return FROZEN_LAKE[map_name]
    grid = tuple(desc)
    letters = "".join(grid) if all(isinstance(row, str) for row in grid) else ""
    if len({len(row) for row in grid if letters}) != 1 or "S" not in letters or set(letters) - set("SFHG"):
        raise InputError(f"desc must be rows of one length of the letters S, F, H, G with an S, got {grid}.")
    return grid


def cliff_walking(gamma: float = 1.0) -> TabularMDP:
    """Return CliffWalking (Sutton and Barto, example 6.6): 4 by 12, each step costs 1, the cliff 100.

    Falling leads back to the start, state 36; the goal is state 47. Actions: up, right, down, left.

    Example:
        >>> mdp = cliff_walking()
        >>> len(mdp.live_states()), len(mdp.live_states(reachable_from="start"))
        (47, 37)
    """
    rows = []
    for s in range(47):
        for action, step in enumerate(CLIFF_STEPS):
            t = _step(s, step, 4, 12)
            fell = 36 < t < 47
            rows.append((s, action, 36 if fell else t, 1.0, -100.0 if fell else -1.0))
    states = np.arange(48)
    return TabularMDP.from_transitions(
        rows, gamma, terminal=states == 47, start=(states == 36).astype(float), shape=(48, 4)
    )


def river_swim(num_states: int = 6, gamma: float = 0.99) -> TabularMDP:
    """Return RiverSwim (Strehl and Littman 2008): swimming right, against the current, pays at the far end.

    Action 0 drifts left for sure and pays 0.005 at the left end. Action 1 advances with probability
    0.35, stays with 0.6 and falls back with 0.05; at the left end it advances with 0.6 and stays with
    0.4, at the right end it stays with 0.6 and falls back with 0.4 and pays 1. Papers differ in these.

    Raises:
        InputError: ``num_states`` is no whole number or below three.

    Example:
        >>> river_swim().P[1, 1].tolist()
        [0.05, 0.6, 0.35, 0.0, 0.0, 0.0]
    """
    num_states = check_count("num_states", num_states, 3)
    last = num_states - 1
    P, r = np.zeros((num_states, 2, num_states)), np.zeros((num_states, 2))
    for s in range(num_states):
        P[s, 0, max(s - 1, 0)] = 1.0
        if 0 < s < last:
            P[s, 1, s - 1 : s + 2] = 0.05, 0.6, 0.35
    P[0, 1, :2] = 0.4, 0.6
    P[last, 1, -2:] = 0.4, 0.6
    r[0, 0], r[last, 1] = 0.005, 1.0
    return TabularMDP.from_dense(P, r, gamma, start=np.eye(num_states)[0])


def random_walk(
    num_states: int = 5, gamma: float = 1.0, *, left: float = 0.0, right: float = 1.0
) -> TabularMDP:
    """Return the random walk of Sutton and Barto, example 6.2, as an MDP with one action.

    States 1 to ``num_states`` are live, 0 and ``num_states + 1`` terminal; a step goes left or right
    with probability 1/2, and leaving pays ``left`` or ``right``. It starts in the middle.

    Raises:
        InputError: ``num_states`` is no whole number or zero, or a reward is no number.

    Example:
        >>> random_walk().r[:, 0].tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0]
    """
    last = check_count("num_states", num_states) + 1
    pays = {0: check_number("left", left), last: check_number("right", right)}
    rows = [(s, 0, t, 0.5, pays.get(t, 0.0)) for s in range(1, last) for t in (s - 1, s + 1)]
    states = np.arange(last + 1)
    start = (states == (last + 1) // 2).astype(float)
    return TabularMDP.from_transitions(
        rows, gamma, terminal=(states == 0) | (states == last), start=start, shape=(last + 1, 1)
    )


def _step(s: int, step: tuple[int, int], height: int, width: int) -> int:
    """Return the cell after a step; against the edge the same cell."""
    row = min(max(s // width + step[0], 0), height - 1)
    return row * width + min(max(s % width + step[1], 0), width - 1)
