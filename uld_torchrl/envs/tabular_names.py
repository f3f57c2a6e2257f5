"""Tabular MDPs by name: ``frozenlake4x4``, ``chain``, ``garnet-S-A-B-SEED``, ``catalogue-NAME``, ...

Colons and hyphens mean the same: ``theory`` writes ``catalogue:sign_flip``, in Gymnasium's ids a colon would
stand after a module's name. How an MDP is stepped is in ``tabular.py``; the lists of names, which must do
without ``theory``, are in ``gymnasium_ids.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import theory
from theory.chains import LEAK
from theory.commands.choices import GRIDS
from uld_torchrl.errors import InputError, nearest
from uld_torchrl.gymnasium_ids import ANYWHERE, NAMES

GAMMA = 0.99
MAX_DENSE = 10**7  # entries of P; above it transitions are sparse
MAX_OUTCOMES = 10**8  # of a Garnet; they would take gigabytes
_FORMS = ("garnet-STATES-ACTIONS-BRANCHING-SEED", "catalogue-NAME")


def named_mdp(name: str, gamma: float | None = None) -> theory.TabularMDP:
    """Return the MDP of a name; colons may stand for hyphens.

    ``frozenlake4x4``, ``frozenlake4x4-deterministic``, ``frozenlake8x8``, ``cliffwalking``, ``riverswim``,
    ``randomwalk`` (19 states, one action) and ``garnet-STATES-ACTIONS-BRANCHING-SEED`` are those of
    ``theory``. ``chain`` is ten states in a row, begun at the left end: action 0 goes left (or stays at the
    end), action 1 right, each the other way with probability 0.1; stepping off the right end pays 1.

    ``catalogue-NAME`` is a problem of ``theory.catalogue``, by its name or by an id that no other has. A bare
    chain there becomes an MDP of one action: its rows are the states, in order, one terminal state follows
    if any run ends, and the start is distributed as the problem's data weights, so that the first
    transitions of episodes are the data that the problem speaks of.

    ``<name>-anywhere`` is the same MDP, begun in any state that is not terminal, all equally likely
    (exploring starts): where rewards are far from the start, random actions hardly find them.

    Args:
        name: of the MDP, without ``tabular/``.
        gamma: discount; None: 0.99, or the catalogue's own.

    Raises:
        InputError: an unknown name (nearest names are given), sizes or a gamma that cannot be.

    Example:
        >>> named_mdp("frozenlake4x4").num_states, named_mdp("garnet:20:3:3:0").num_actions
        (16, 3)
        >>> named_mdp("catalogue-sign_flip").P[:, 0].tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    if not isinstance(name, str):
        raise InputError(f"name must be a string such as 'frozenlake4x4', got {name!r}.")
    plain = hyphenated(name).removesuffix(ANYWHERE)
    try:
        mdp = _plainly_named(name, plain, gamma)
    except theory.InputError as error:
        raise InputError(f"tabular/{name}: {error}") from error
    return mdp if plain == hyphenated(name) else _begun_anywhere(mdp)


def _plainly_named(name: str, plain: str, gamma: float | None) -> theory.TabularMDP:
    kind, _, rest = plain.partition("-")
    if kind == "garnet":
        return _garnet(name, rest, GAMMA if gamma is None else gamma)
    if kind == "catalogue":
        return _from_catalogue(name, rest, gamma)
    make = _WORLDS.get(plain)
    if make is None:
        raise unknown_name(name)
    return make(GAMMA if gamma is None else gamma)


def _begun_anywhere(mdp: theory.TabularMDP) -> theory.TabularMDP:
    live = np.asarray(~mdp.terminal, np.float64)
    return theory.TabularMDP(mdp.P, mdp.r, mdp.gamma, mdp.terminal, live / live.sum())


def hyphenated(name: str) -> str:
    """Return a name in the form that Gymnasium's ids allow.

    Example:
        >>> hyphenated("garnet:20:3:3:0")
        'garnet-20-3-3-0'
    """
    return name.replace(":", "-")


def grid_of(name: str) -> tuple[int, ...] | None:
    """Return the axes that the states of a named MDP count through, the last one fastest; None: a line.

    Example:
        >>> grid_of("frozenlake4x4-deterministic"), grid_of("riverswim")
        ((4, 4), None)
    """
    return GRIDS.get(hyphenated(name).removesuffix(ANYWHERE).removesuffix("-deterministic"))


def _chain(gamma: float) -> theory.TabularMDP:
    length, slip = 10, 0.1
    rows = [
        (s, action, max(s + step, 0), slip if slips else 1.0 - slip, float(s + step == length))
        for s in range(length)
        for action, towards in enumerate((-1, 1))
        for slips, step in enumerate((towards, -towards))
    ]
    states = np.arange(length + 1)
    start = (states == 0).astype(float)
    return theory.TabularMDP.from_transitions(rows, gamma, terminal=states == length, start=start)


_WORLDS: dict[str, Callable[[float], theory.TabularMDP]] = {
    "frozenlake4x4": lambda gamma: theory.frozen_lake("4x4", gamma),
    "frozenlake4x4-deterministic": lambda gamma: theory.frozen_lake("4x4", gamma, slippery=False),
    "frozenlake8x8": lambda gamma: theory.frozen_lake("8x8", gamma),
    "cliffwalking": theory.cliff_walking,
    "riverswim": lambda gamma: theory.river_swim(6, gamma),
    "randomwalk": lambda gamma: theory.random_walk(19, gamma),
    "chain": _chain,
}


def _garnet(name: str, sizes: str, gamma: float) -> theory.TabularMDP:
    numbers = sizes.split("-")
    if len(numbers) != 4 or not all(number.isdecimal() for number in numbers):
        raise InputError(f"tabular/{name}: a Garnet is named {_FORMS[0]}, such as garnet-20-3-3-0.")
    states, actions, branching, seed = map(int, numbers)
    if states * actions * branching > MAX_OUTCOMES:
        raise InputError(f"tabular/{name}: states * actions * branching must be at most {MAX_OUTCOMES:,}.")
    dense = states * states * actions <= MAX_DENSE
    return theory.garnet(states, actions, branching, gamma, seed=seed, dense=dense)


def _from_catalogue(name: str, entry: str, gamma: float | None) -> theory.TabularMDP:
    problem = theory.catalogue.load(_entry_name(name, entry)).problem
    mdp = _from_chain(problem) if problem.mdp is None else problem.mdp
    if gamma is None:
        return mdp
    return theory.TabularMDP(mdp.P, mdp.r, gamma, mdp.terminal, mdp.start)


def _entry_name(name: str, wanted: str) -> str:
    """Return the name of the entry of that name or id."""
    known = theory.catalogue.names()
    if wanted in known:
        return wanted
    named = [entry for entry in known if theory.catalogue.load(entry).id == wanted]
    if not named:
        raise unknown_name(name)
    if len(named) > 1:
        raise InputError(f"tabular/{name}: {len(named)} problems have this id: {', '.join(named)}.")
    return named[0]


def _from_chain(problem: Any) -> theory.TabularMDP:
    """Return the MDP of one action whose states are the rows of a bare chain."""
    P = problem.dense_P
    ends = 1.0 - P.sum(axis=1)
    ends[ends <= LEAK] = 0.0
    mortal = int(ends.any())
    size = len(P) + mortal
    table = np.zeros((size, 1, size))
    table[: len(P), 0, : len(P)] = P
    if mortal:
        table[: len(P), 0, -1] = ends
    pad = np.zeros(mortal)
    rewards, start = np.append(problem.r, pad)[:, None], np.append(problem.mu, pad)
    return theory.TabularMDP(table, rewards, problem.gamma, np.arange(size) >= len(P), start)


def unknown_name(name: str) -> InputError:
    """Return the error that says so, with nearest names.

    Example:
        >>> unknown_name("frozenlake")
        InputError('tabular/frozenlake names no known tabular MDP. Did you mean tabular/frozenlake8x8 or ...
    """
    close = [f"tabular/{match}" for match in nearest(hyphenated(name), NAMES)]
    known = f"Known are {', '.join(f'tabular/{each}' for each in (*_WORLDS, *_FORMS))}."
    return InputError(
        f"tabular/{name} names no known tabular MDP. "
        + (f"Did you mean {' or '.join(close)}?" if close else known)
    )
