"""Tabular MDPs as Gymnasium environments: any ``theory.TabularMDP``, its states observed as vectors.

Here: stepping, what is observed, a small picture. The names of MDPs are in ``tabular_names.py``, their ids in
Gymnasium's registry in ``gymnasium_ids.py``. This imports ``theory``, and is itself imported when the first
environment is made.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Sequence
from math import prod
from typing import Any, Literal, TypeAlias

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Discrete
from scipy import sparse

import theory
from uld_torchrl.envs.tabular_names import grid_of, hyphenated, named_mdp, unknown_name
from uld_torchrl.errors import InputError, one_of
from uld_torchrl.gymnasium_ids import registration

__all__ = ["StateObservation", "TabularEnv", "make_named", "named_mdp", "state_observations"]

StateObservation: TypeAlias = Literal["one_hot", "coordinates"] | np.ndarray
"""How a state is observed: by a name, or as its row of an array (S, n)."""

_KINDS = ("one_hot", "coordinates")
_PICTURE = 480  # pixels of the longer side, at most
_COLOURS = np.array([[235, 240, 245], [60, 60, 70], [215, 95, 0]], np.uint8)  # live, terminal, where it is
_LETTERS = np.array([".", "#", "o"])


class TabularEnv(gymnasium.Env[np.ndarray, np.int64]):
    """Step a tabular MDP.

    The reward of a step is the expected one, r(s, a): an MDP keeps no other. So all next states of a pair pay
    the same (FrozenLake pays 1/3 for each slippery step towards the goal, whether it arrives or not), and
    values are what they were. ``terminated`` says that the next state is terminal. The discount is not used.
    Next states are drawn by inversion from ``np_random`` alone, one number a step, with the probabilities of
    ``P`` up to the rounding of their sums. ``info["state"]`` is the state's number.

    There is no time limit in here, and episodes of a continuing MDP never end: make it with
    ``gymnasium.make("tabular/mdp", mdp=mdp, max_episode_steps=200)``, or wrap it in a ``TimeLimit``.

    Args:
        mdp: the MDP, or its name, see :func:`named_mdp`.
        observation: ``"one_hot"``, (S,); ``"coordinates"``, the position on each axis of ``grid`` in [0, 1];
            or an array (S, n) with a row for each state, terminal ones included. Always float32.
        grid: the axes that state numbers count through, the last one fastest; None: the known one of a
            named MDP, else one axis of length S.
        render_mode: None, "ansi" or "rgb_array".

    Raises:
        InputError: an unknown name, an observation of another kind or shape or with NaN, a grid of another
            size, an unknown render mode.

    Example:
        >>> env = TabularEnv("frozenlake4x4", "coordinates")
        >>> env.reset(seed=0, options={"state": 14})
        (array([1.        , 0.6666667], dtype=float32), {'state': 14})
        >>> env.step(2)[1:]
        (0.3333333333333333, False, False, {'state': 14})
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}

    def __init__(
        self,
        mdp: theory.TabularMDP | str,
        observation: StateObservation = "one_hot",
        *,
        grid: Sequence[int] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None:
            one_of("render_mode", render_mode, self.metadata["render_modes"])
        self.mdp, self.grid = _resolved(mdp, grid)
        self.render_mode = render_mode
        self._table = _table(self.mdp, observation, self.grid)
        self._draw_next, self._draw_first = _RowSampler(self.mdp.rows), _RowSampler(self.mdp.start[None])
        self._state: int | None = None
        self.action_space = Discrete(self.mdp.num_actions)
        self.observation_space = _space(self._table, self.mdp.num_states, observation)

    @property
    def state(self) -> int:
        """The number of the present state.

        Raises:
            ResetNeeded: no episode has begun.
        """
        if self._state is None:
            raise ResetNeeded("Call reset() first: no episode of this TabularEnv has begun.")
        return self._state

    @property
    def observations(self) -> np.ndarray:
        """What is observed in each state, float32 (S, n)."""
        return np.eye(self.mdp.num_states, dtype=np.float32) if self._table is None else self._table.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode, in state ``options["state"]`` if given.

        Raises:
            InputError: another option, or a state that does not exist or is terminal.
        """
        super().reset(seed=seed)
        if options:
            self._state = self._chosen(options)
        else:
            self._state = self._draw_first(0, self.np_random.random())
        return self._observe(self._state), {"state": self._state}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take an action; after the end of an episode nothing changes and 0 is paid.

        Raises:
            InputError: no such action.
            ResetNeeded: no episode has begun.
        """
        pair = self.state, _index("action", action, self.mdp.num_actions)
        row = pair[0] * self.mdp.num_actions + pair[1]
        state = self._state = self._draw_next(row, self.np_random.random())
        ended = bool(self.mdp.terminal[state])
        return self._observe(state), float(self.mdp.r[pair]), ended, False, {"state": state}

    def render(self) -> str | np.ndarray | None:
        """Draw the grid: live states ``.``, terminal ones ``#``, the present one ``o``; or it in colours."""
        if self.render_mode is None:
            return None
        kinds = self.mdp.terminal.astype(np.intp)
        kinds[self.state] = 2
        cells = kinds.reshape(-1, self.grid[-1])
        if self.render_mode == "ansi":
            return "\n".join("".join(line) for line in _LETTERS[cells])
        side = max(2, _PICTURE // max(cells.shape) // 2 * 2)  # films need even sizes
        return _COLOURS[cells].repeat(side, axis=0).repeat(side, axis=1)

    def _observe(self, state: int) -> np.ndarray:
        if self._table is not None:
            return self._table[state].copy()
        one_hot = np.zeros(self.mdp.num_states, np.float32)
        one_hot[state] = 1.0
        return one_hot

    def _chosen(self, options: dict[str, Any]) -> int:
        if set(options) != {"state"}:
            raise InputError(f"options may hold 'state' alone, got {', '.join(map(str, options))}.")
        state = _index("options['state']", options["state"], self.mdp.num_states)
        if self.mdp.terminal[state]:
            raise InputError(f"options['state'] must not be terminal, got {state}: nothing would follow.")
        return state


class _RowSampler:
    """Draws a column from a row of probabilities, given a uniform number from [0, 1)."""

    def __init__(self, rows: Any) -> None:
        table = sparse.csr_array(rows)  # a TabularMDP stores no zeros
        self._columns, self._ends = table.indices, table.indptr
        # Row by row: one sum over all rows would round them all to the size of its end.
        self._sums = np.concatenate([np.cumsum(row) for row in np.split(table.data, self._ends[1:-1])])

    def __call__(self, row: int, uniform: float) -> int:
        # The last column takes what rounding left between the whole sum and 1.
        first, last = self._ends[row], self._ends[row + 1] - 1
        return int(self._columns[bisect_right(self._sums, uniform, first, last)])


def state_observations(
    mdp: theory.TabularMDP | str,
    observation: StateObservation = "one_hot",
    *,
    grid: Sequence[int] | None = None,
) -> np.ndarray:
    """Return what a :class:`TabularEnv` of the same arguments observes in each state, float32 (S, n).

    Raises:
        InputError: see :class:`TabularEnv`.

    Example:
        >>> state_observations("riverswim", "coordinates").shape
        (6, 1)
        >>> state_observations(named_mdp("frozenlake4x4"), "coordinates", grid=(4, 4)).shape
        (16, 2)
    """
    mdp, axes = _resolved(mdp, grid)
    table = _table(mdp, observation, axes)
    return np.eye(mdp.num_states, dtype=np.float32) if table is None else table


def make_named(name: str, render: bool = False) -> gymnasium.Env:
    """Make the environment ``tabular/<name>``, whether it is in Gymnasium's registry or not.

    Raises:
        InputError: an unknown name; nearest names are given.

    Example:
        >>> make_named("garnet-5-2-2-0").observation_space.shape
        (5,)
    """
    if name == "mdp":
        raise InputError(
            "tabular/mdp stands for an MDP of yours, and cannot be made from the name alone. Pass the "
            "environment itself: gymnasium.make('tabular/mdp', mdp=mdp)."
        )
    try:
        spec = EnvSpec(**registration(hyphenated(name)))
    except gymnasium.error.Error:  # such as a space in the name
        raise unknown_name(name) from None
    mode: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
    return gymnasium.make(spec, disable_env_checker=True, **mode)


def _resolved(
    mdp: theory.TabularMDP | str, grid: Sequence[int] | None
) -> tuple[theory.TabularMDP, tuple[int, ...]]:
    """Return the MDP and the axes of its states."""
    if isinstance(mdp, str):
        grid = grid_of(mdp) if grid is None else grid
        mdp = named_mdp(mdp)
    if not isinstance(mdp, theory.TabularMDP):
        raise InputError(
            f"mdp must be a theory.TabularMDP or a name such as 'frozenlake4x4', got a {type(mdp).__name__}."
        )
    if grid is None:
        return mdp, (mdp.num_states,)
    try:
        axes = tuple(operator.index(length) for length in grid)
    except TypeError:
        raise InputError(f"grid must be lengths such as (4, 4), got {grid!r}.") from None
    if prod(axes) != mdp.num_states or min(axes, default=0) < 1:
        raise InputError(f"grid must have as many cells as the MDP has states, {mdp.num_states}; got {axes}.")
    return mdp, axes


def _table(mdp: theory.TabularMDP, observation: Any, axes: tuple[int, ...]) -> np.ndarray | None:
    """Return the observations of all states, float32 (S, n); None for one-hot ones, which would be (S, S)."""
    if not isinstance(observation, str):
        return _embedding(observation, mdp.num_states)
    if one_of("observation", observation, _KINDS) == "one_hot":
        return None
    positions = np.stack(np.unravel_index(np.arange(mdp.num_states), axes), axis=1)
    return (positions / np.maximum(np.array(axes) - 1, 1)).astype(np.float32)


def _embedding(given: Any, num_states: int) -> np.ndarray:
    wanted = f"observation must be 'one_hot', 'coordinates' or an array ({num_states}, n) of real numbers"
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise InputError(f"{wanted}; got what makes no array ({error}).") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"{wanted}; got a {type(given).__name__} of dtype {array.dtype}.")
    if array.ndim != 2 or len(array) != num_states or array.shape[1] == 0:
        raise InputError(
            f"{wanted}, a row for each state, terminal ones included; got the shape {array.shape}."
        )
    with np.errstate(over="ignore"):
        table = array.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(wrong):
        raise InputError(
            f"observation must be finite in float32; that of state {wrong[0]} is {array[wrong[0]]}."
        )
    return table


def _space(table: np.ndarray | None, num_states: int, observation: Any) -> Box:
    if table is None:
        return Box(0.0, 1.0, (num_states,), np.float32)
    if isinstance(observation, str):
        return Box(0.0, 1.0, table.shape[1:], np.float32)
    bound = float(np.abs(table).max()) or 1.0  # one for all: Gymnasium warns of an entry without room
    return Box(-bound, bound, table.shape[1:], np.float32)


def _index(name: str, value: Any, count: int) -> int:
    try:
        index = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be a whole number from 0 to {count - 1}, got {value!r}.") from None
    if not 0 <= index < count:
        raise InputError(f"{name} must be from 0 to {count - 1}, got {index}.")
    return index
