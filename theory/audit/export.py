"""What a trained agent hands over to be audited: arrays over the states and actions of a tabular MDP.

:func:`read_export` takes a dict or an ``.npz`` file and checks it against the MDP: names, shapes, finiteness,
probabilities. What the network computes with them is not known here, and nothing is solved.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from theory.checks import (
    ROW_SUM_TOLERANCE,
    Array,
    Bools,
    any_array,
    as_array,
    check_count,
    check_gamma,
    check_number,
    check_shape,
    frozen,
)
from theory.errors import InputError
from theory.features import SIZES
from theory.mdp import TabularMDP
from theory.npz import read_npz

REQUIRED = ("zs", "zsa", "q", "pi", "r_hat", "zs_next_pred", "v_at_pred")
NUMBERS = ("gamma", "n_step", "reward_scale", "step", "greedy", "mdp")
OPTIONAL = ("q_heads", "d_hat", "counts", "mu", "mask", *NUMBERS)
PAIR_ARRAYS = ("q", "pi", "r_hat", "v_at_pred", "d_hat", "counts", "mu")


@dataclass(frozen=True, eq=False)
class Export:
    """The arrays of an agent for an MDP of S states and A actions, float64, in reward units where they pay.

    Attributes:
        zs: (S, k), embeddings of states.
        zsa: (S, A, d), embeddings of pairs.
        q: (S, A), the network's values.
        pi: (S, A), its policy; rows sum to one, those of terminal states are uniform.
        r_hat: (S, A), predicted rewards.
        zs_next_pred: (S, A, k), predicted next state embeddings.
        v_at_pred: (S, A), the value that the model expects to follow.
        q_heads: (heads, S, A), values of each head.
        d_hat: (S, A), predicted termination.
        counts: (S, A), visits in the data.
        mu: (S, A), weights in place of counts.
        mask: (S, A), the pairs to be judged.
        gamma: the agent's discount.
        n_step: steps before the bootstrap of its value targets.
        reward_scale: what rewards were divided by in training.
        step: of training.
        greedy: whether ``pi`` is the network's greedy policy.
        mdp: which MDP it is of, see :func:`mdp_number`.
    """

    zs: Array
    zsa: Array
    q: Array
    pi: Array
    r_hat: Array
    zs_next_pred: Array
    v_at_pred: Array
    q_heads: Array | None = None
    d_hat: Array | None = None
    counts: Array | None = None
    mu: Array | None = None
    mask: Bools | None = None
    gamma: float | None = None
    n_step: int | None = None
    reward_scale: float | None = None
    step: int | None = None
    greedy: bool | None = None
    mdp: int | None = None


def read_export(arrays_or_path: Any, mdp: TabularMDP) -> Export:
    """Read and check an export for an MDP.

    Args:
        arrays_or_path: a mapping from name to array, or the path of an ``.npz`` file without pickled objects.
        mdp: S states and A actions, in whose order the arrays are.

    Raises:
        InputError: a file that cannot be read, a missing or unknown name, another MDP than the export's, a
            wrong shape, NaN, sizes above 1e70, rows of the policy that are no probabilities, negative counts.

    Example:
        >>> mdp = TabularMDP.from_dense([[[1.0]]], [[1.0]], 0.5)
        >>> one = np.ones((1, 1))
        >>> arrays = {name: one for name in ("zs", "q", "pi", "r_hat", "v_at_pred")}
        >>> read_export({**arrays, "zsa": one[None], "zs_next_pred": one[None]}, mdp).zsa.shape
        (1, 1, 1)
    """
    if not isinstance(mdp, TabularMDP):
        raise InputError(f"mdp must be a TabularMDP, got a {type(mdp).__name__}.")
    given = _arrays(arrays_or_path)
    _check_names(given)
    found: dict[str, Any] = {name: _array(name, given[name], mdp) for name in PAIR_ARRAYS if name in given}
    found |= _embeddings(given, mdp)
    found["pi"] = _policy(found["pi"], mdp)
    for name in ("counts", "mu"):
        if name in found:
            found[name] = _weights(name, found[name], mdp)
    if "q_heads" in given:
        found["q_heads"] = _numbers("q_heads", given["q_heads"])
        _check(found["q_heads"], "q_heads", (*found["q_heads"].shape[:1], *mdp.r.shape), mdp)
    if "mask" in given:
        found["mask"] = _mask(given["mask"], mdp)
    _check_mdp(given, mdp)
    return Export(**found, **_scalars(given))


def mdp_number(mdp: TabularMDP) -> int:
    """Return 48 bits that tell an MDP from others by its transitions, rewards and terminal states.

    To six decimals, so that it does not depend on how a machine rounds. The discount and the start do not
    count.

    Example:
        >>> mdp, other = (TabularMDP.from_dense([[[1.0]]], [[r]], 0.5) for r in (1.0, 2.0))
        >>> mdp_number(mdp) == mdp_number(mdp) != mdp_number(other)
        True
    """
    rows = sparse.coo_array(mdp.rows)
    rounded = np.round(rows.data, 6)
    order = np.lexsort((rows.col, rows.row))
    order = order[rounded[order] > 0.0]
    digest = hashlib.blake2b(digest_size=6)
    for part in (rows.row[order], rows.col[order], mdp.r.shape, mdp.terminal):
        digest.update(np.asarray(part, dtype="<i8").tobytes())
    for part in (rounded[order], np.round(mdp.r, 6) + 0.0):  # no negative zeros
        digest.update(np.asarray(part, dtype="<f8").tobytes())
    return int.from_bytes(digest.digest(), "little")


def _check_mdp(given: Mapping[str, Any], mdp: TabularMDP) -> None:
    """Refuse an export of another MDP, where it says of which it is; exports of earlier versions do not."""
    if "mdp" in given and _scalars(given)["mdp"] != mdp_number(mdp):
        raise InputError(
            "mdp must be the one that was exported: this one has other transitions, rewards or terminal "
            "states. If that is meant, leave the entry mdp out of the export."
        )


def _arrays(source: Any) -> dict[str, Any]:
    """Return what a mapping or a file holds."""
    if isinstance(source, Mapping):
        return {str(name): source[name] for name in source}
    if not isinstance(source, str | PathLike):
        raise InputError(
            f"An export is a mapping or the path of an .npz file, got a {type(source).__name__}."
        )
    return read_npz(Path(source))


def _check_names(given: Mapping[str, Any]) -> None:
    missing = [name for name in REQUIRED if name not in given]
    if missing:
        raise InputError(f"The export lacks {', '.join(missing)}; it must have {', '.join(REQUIRED)}.")
    known = (*REQUIRED, *OPTIONAL)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise InputError(f"An export has no {name!r}; it may have {', '.join(known)}.{hint}")
    if "counts" in given and "mu" in given:
        raise InputError("The export has both counts and mu; weights come from one of them. Leave one out.")


def _numbers(name: str, value: Any) -> Array:
    """Return finite numbers whose squares are finite, too."""
    array = as_array(name, value, _words)
    largest = float(abs(array).max(initial=0.0))
    if largest > SIZES[1]:
        raise InputError(
            f"{name} must be at most {SIZES[1]:g} in size, got {largest:.6g}: its powers would overflow. "
            "Has the network diverged?"
        )
    return array


def _array(name: str, value: Any, mdp: TabularMDP) -> Array:
    array = _numbers(name, value)
    _check(array, name, mdp.r.shape, mdp)
    return array


def _check(array: Any, name: str, shape: tuple[int, ...], mdp: TabularMDP) -> None:
    """Raise unless the shape is that of this MDP."""
    try:
        check_shape(name, array, shape, "for this MDP")
    except InputError as error:
        S, A = mdp.r.shape
        raise InputError(
            f"{error} It has {S} states, terminal ones included, and {A} actions. Is the export of another?"
        ) from error


def _embeddings(given: Mapping[str, Any], mdp: TabularMDP) -> dict[str, Array]:
    """Return zs, zsa and zs_next_pred; the last has the width of the first."""
    found = {name: _numbers(name, given[name]) for name in ("zs", "zsa", "zs_next_pred")}
    width = {name: array.shape[-1] if array.ndim else 0 for name, array in found.items()}
    (S, A), k = mdp.r.shape, width["zs"]
    shapes = {"zs": (S, k), "zsa": (S, A, width["zsa"]), "zs_next_pred": (S, A, k)}
    for name, shape in shapes.items():
        _check(found[name], name, shape, mdp)
        if not shape[-1]:
            raise InputError(f"{name} has no columns; an embedding needs at least one.")
    return found


def _policy(pi: Array, mdp: TabularMDP) -> Array:
    """Return probabilities whose rows sum to one exactly; those of terminal states are uniform."""
    live = ~mdp.terminal
    wrong = np.argwhere((pi < 0.0) & live[:, None])
    if len(wrong):
        s, a = wrong[0]
        raise InputError(f"pi must not be negative, got {pi[s, a]:.6g} at state {s}, action {a}.")
    sums = np.where(live, pi.sum(axis=1), 1.0)
    # Softmax in float32, whatever type it was stored in.
    off = np.flatnonzero(abs(sums - 1.0) > ROW_SUM_TOLERANCE["float32"])
    if len(off):
        raise InputError(f"pi must sum to 1 over the actions, got {sums[off[0]]:.5g} at state {off[0]}.")
    even = np.full(mdp.num_actions, 1.0 / mdp.num_actions)
    return frozen(np.where(live[:, None], pi / sums[:, None], even))


def _weights(name: str, values: Array, mdp: TabularMDP) -> Array:
    """Return weights that are not negative and zero at terminal states, where no action follows."""
    if values.min() < 0.0:
        s, a = np.argwhere(values < 0.0)[0]
        raise InputError(f"{name} must not be negative, got {values[s, a]:.6g} at state {s}, action {a}.")
    return frozen(np.where(mdp.terminal[:, None], 0.0, values))


def _mask(value: Any, mdp: TabularMDP) -> Bools:
    mask = any_array("mask", value)
    _check(mask, "mask", mdp.r.shape, mdp)
    if mask.dtype != np.bool_:
        raise InputError(f"mask must hold True or False for each pair, got {mask.dtype}.")
    return np.asarray(mask, dtype=np.bool_)


def _scalars(given: Mapping[str, Any]) -> dict[str, Any]:
    checks: dict[str, Callable[[Any], Any]] = {
        "gamma": check_gamma,
        "n_step": lambda value: check_count("n_step", value),
        "step": lambda value: check_count("step", value, 0),
        "reward_scale": lambda value: check_number("reward_scale", value, above=0.0),
        "mdp": lambda value: check_count("mdp", value, 0),
        "greedy": bool,
    }
    return {name: check(_scalar(name, given[name])) for name, check in checks.items() if name in given}


def _scalar(name: str, value: Any) -> Any:
    """Return the number in an array with one entry."""
    array = any_array(name, value)
    if array.size != 1 or array.dtype.kind not in ("b" if name == "greedy" else "iuf"):
        raise InputError(f"{name} must be one number, got {array.dtype} of shape {array.shape}.")
    return array.reshape(-1)[0].item()


def _words(index: tuple[int, ...]) -> str:
    return f"state {index[0]}" + (f", action {index[1]}" if len(index) > 1 else "")
