"""The options that several commands share: which MDP, policy, features, weights and discount.

Each is a word, with numbers after colons where it needs them (``random:8:1``). A word that is none of
the allowed ones is an :class:`InputError` that lists them. Taxi needs Gymnasium, the others nothing.
"""

from __future__ import annotations

import importlib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from theory import catalogue
from theory.chains import state_chain
from theory.checks import Array
from theory.errors import InputError
from theory.features import Features
from theory.graphs import recurrent_classes
from theory.mdp import TabularMDP
from theory.optimality import optimal
from theory.policy import Policy
from theory.problem import Problem
from theory.weights import Weights
from theory.worlds import cliff_walking, frozen_lake, random_walk, river_swim

T = TypeVar("T")

CATALOGUE = "catalogue:"
DEFAULTS = {"policy": "uniform", "features": "one_hot", "weights": "uniform", "gamma": 0.99}


def _taxi(gamma: float) -> TabularMDP:
    try:
        # Only here: everything else works without Gymnasium.
        gymnasium = importlib.import_module("gymnasium")
    except ImportError as error:
        raise InputError("--mdp taxi needs Gymnasium; install it with 'pip install gymnasium'.") from error
    return TabularMDP.from_gym(gymnasium.make("Taxi-v4"), gamma)


MDPS: dict[str, Callable[[float], TabularMDP]] = {
    "frozenlake4x4": lambda gamma: frozen_lake("4x4", gamma),
    "frozenlake8x8": lambda gamma: frozen_lake("8x8", gamma),
    "cliffwalking": cliff_walking,
    "taxi": _taxi,
    "riverswim": lambda gamma: river_swim(6, gamma),
    "randomwalk": lambda gamma: random_walk(19, gamma),
}
GRIDS: dict[str, tuple[int, ...]] = {
    "frozenlake4x4": (4, 4),
    "frozenlake8x8": (8, 8),
    "cliffwalking": (4, 12),
    "taxi": (5, 5, 5, 4),  # row, column, where the passenger is, where to
}
"""The axes that a state's number counts through; a line for the others."""


def _stationary(mdp: TabularMDP, policy: Policy) -> Weights:
    """Return the stationary weights; where every run ends, those of starting again, which are episodic."""
    chain = state_chain(mdp, policy)
    lasting = recurrent_classes(chain.P, chain.leaves)
    return Weights.stationary(mdp, policy) if lasting else Weights.episodic(mdp, policy)


WEIGHTS: dict[str, Callable[[TabularMDP, Policy], Weights]] = {
    "uniform": lambda mdp, policy: Weights.uniform(mdp),
    "stationary": _stationary,
    "discounted": Weights.discounted,
    "episodic": Weights.episodic,
}
POLICIES = "uniform, optimal, epsilon:NUMBER (optimal, with that chance of a random action)"
FEATURES = (
    "one_hot, random:D, random:D:SEED, svd:D, krylov:D, tile:TILES, tile:TILES:TILINGS (intervals an axis; "
    "for each action), rbf:CENTRES (an axis; for each action)"
)


def add_problem_arguments(parser: ArgumentParser, *, features: bool = True) -> None:
    """Declare the options that :func:`chosen_problem` reads; ``features=False`` leaves --features out.

    Example:
        >>> parser = ArgumentParser()
        >>> add_problem_arguments(parser)
        >>> parser.parse_args(["--mdp", "riverswim"]).policy
        'uniform'
    """
    whole = f", or {CATALOGUE}NAME: a problem of the catalogue with all its parts" if features else ""
    parser.add_argument("--mdp", required=True, help=", ".join(MDPS) + whole)
    parser.add_argument("--policy", default=DEFAULTS["policy"], help=POLICIES)
    if features:
        parser.add_argument("--features", default=DEFAULTS["features"], help=FEATURES)
    parser.add_argument(
        "--weights",
        default=DEFAULTS["weights"],
        help=f"{', '.join(WEIGHTS)}; stationary where every run ends: of starting again (episodic)",
    )
    parser.add_argument("--gamma", type=float, default=DEFAULTS["gamma"], help="discount in [0, 1]")


def chosen_problem(parsed: Namespace) -> tuple[Problem, str]:
    """Return the problem that the options name, and its name for reports.

    Raises:
        InputError: an option is none of the allowed values; the message lists them.

    Example:
        >>> parser = ArgumentParser()
        >>> add_problem_arguments(parser)
        >>> chosen_problem(parser.parse_args(["--mdp", "riverswim"]))[1]
        'riverswim (uniform policy, one_hot features, uniform weights, gamma 0.99)'
    """
    if parsed.mdp.startswith(CATALOGUE):
        return _from_catalogue(parsed), parsed.mdp
    mdp, policy, weights = chosen_setting(parsed)
    problem = Problem(mdp, policy, choose_features(parsed.features, parsed.mdp, mdp, policy), weights)
    return problem, f"{parsed.mdp} ({setting_name(parsed, weights, parsed.features)})"


def _from_catalogue(parsed: Namespace) -> Problem:
    """Return the catalogue's problem; what it brings along cannot be chosen as well."""
    for option, default in DEFAULTS.items():
        given = getattr(parsed, option)
        if given != default:
            raise InputError(f"--{option} is a part of {parsed.mdp} already, got {given!r}. Leave it out.")
    return catalogue.load(parsed.mdp.removeprefix(CATALOGUE)).problem


def chosen_setting(parsed: Namespace) -> tuple[TabularMDP, Policy, Weights]:
    """Return MDP, policy and weights alone, for commands that make their own features.

    Raises:
        InputError: see :func:`chosen_problem`.

    Example:
        >>> parser = ArgumentParser()
        >>> add_problem_arguments(parser, features=False)
        >>> chosen_setting(parser.parse_args(["--mdp", "riverswim"]))[2].kind
        'uniform'
    """
    mdp = choose("mdp", parsed.mdp, MDPS)(parsed.gamma)
    policy = choose_policy(parsed.policy, mdp)
    return mdp, policy, choose("weights", parsed.weights, WEIGHTS)(mdp, policy)


def setting_name(parsed: Namespace, weights: Weights, features: str | None = None) -> str:
    """Return the setting in words; if the weights used are not those asked for, it says so.

    Example:
        >>> parser = ArgumentParser()
        >>> add_problem_arguments(parser, features=False)
        >>> parsed = parser.parse_args(["--mdp", "frozenlake4x4", "--weights", "stationary"])
        >>> setting_name(parsed, chosen_setting(parsed)[2])
        'uniform policy, episodic weights in place of stationary ones since every run ends, gamma 0.99'
    """
    used = f"{weights.kind} weights"
    if weights.kind != parsed.weights:
        used += f" in place of {parsed.weights} ones since every run ends"
    chosen = [f"{parsed.policy} policy", *([] if features is None else [f"{features} features"]), used]
    return ", ".join([*chosen, f"gamma {parsed.gamma:g}"])


def choose(option: str, value: str, table: dict[str, T]) -> T:
    """Return the entry of the table.

    Raises:
        InputError: there is none of that name; the message lists the names.

    Example:
        >>> choose("colour", "red", {"red": 1})
        1
    """
    if value not in table:
        raise InputError(f"--{option} must be one of {', '.join(table)}; got {value!r}.")
    return table[value]


def choose_policy(value: str, mdp: TabularMDP) -> Policy:
    """Return the policy that ``--policy`` names.

    Raises:
        InputError: none of the allowed ones.

    Example:
        >>> choose_policy("optimal", river_swim()).probs[0]
        array([0., 1.])
    """
    kind, *numbers = value.split(":")
    if kind == "uniform" and not numbers:
        return Policy.uniform(mdp)
    if kind == "optimal" and not numbers:
        return optimal(mdp).policy
    if kind == "epsilon" and len(numbers) == 1:
        return Policy.epsilon_greedy(optimal(mdp).q, number("policy", value, numbers[0], float))
    raise InputError(f"--policy must be one of {POLICIES}; got {value!r}.")


def choose_features(value: str, world: str, mdp: TabularMDP, policy: Policy) -> Features:
    """Return the features that ``--features`` names.

    Args:
        value: such as "random:8".
        world: the name of the MDP, which tells tiles and radial features where states lie.
        mdp: the MDP.
        policy: its policy, which SVD and Krylov features depend on.

    Raises:
        InputError: none of the allowed ones, or too many of them.

    Example:
        >>> mdp = river_swim()
        >>> choose_features("random:3", "riverswim", mdp, Policy.uniform(mdp)).Z.shape
        (6, 2, 3)
    """
    kind, *numbers = value.split(":")
    counts = [number("features", value, text, int) for text in numbers]
    if kind == "one_hot" and not counts:
        return Features.one_hot(mdp)
    if kind == "random" and len(counts) in (1, 2):
        return Features.random(mdp, counts[0], seed=counts[1] if len(counts) == 2 else 0)
    if kind == "svd" and len(counts) == 1:
        return Features.svd(mdp, policy, counts[0])
    if kind == "krylov" and len(counts) == 1:
        return Features.krylov(mdp, policy, counts[0])
    if kind == "tile" and len(counts) in (1, 2):
        return _for_each_action(Features.tile(_positions(world, mdp), *counts), mdp)
    if kind == "rbf" and len(counts) == 1:
        return _for_each_action(_radial(_positions(world, mdp), counts[0]), mdp)
    raise InputError(f"--features must be one of {FEATURES}; got {value!r}.")


def number(option: str, value: str, text: str, kind: Callable[[str], T]) -> T:
    """Return the number in ``text``, a part of the option's value.

    Raises:
        InputError: it is not one.

    Example:
        >>> number("features", "svd:3", "3", int)
        3
    """
    try:
        return kind(text)
    except ValueError as error:
        raise InputError(f"--{option} {value}: {text!r} is not a number.") from error


def _positions(world: str, mdp: TabularMDP) -> Array:
    """Return where each state lies, (S, axes) in [0, 1]."""
    shape = GRIDS.get(world, (mdp.num_states,))
    axes = np.unravel_index(np.arange(mdp.num_states), shape)
    return np.stack([axis / (length - 1) for axis, length in zip(axes, shape, strict=True)], axis=1)


def _radial(positions: Array, centres: int) -> Features:
    """Return bumps on a grid of centres, as wide as the centres are apart."""
    if centres < 2:
        raise InputError(f"--features rbf:CENTRES needs at least 2 centres an axis, got {centres}.")
    line = np.linspace(0.0, 1.0, centres)
    grid = np.stack(np.meshgrid(*[line] * positions.shape[1], indexing="ij"), axis=-1)
    return Features.rbf(positions, grid.reshape(-1, positions.shape[1]), 1.0 / (centres - 1))


def _for_each_action(states: Features, mdp: TabularMDP) -> Features:
    """Return (S, A, A d) features: those of the state, (S, d), in the block of the action."""
    actions = np.eye(mdp.num_actions)
    blocks = np.einsum("sd,ab->sabd", states.Z, actions)
    return Features.from_array(blocks.reshape(*mdp.r.shape, -1), states.name)
