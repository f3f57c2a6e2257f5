"""Files of an attacker: what runs when it is unpickled, checkpoints sealed again after a change, mutations.

Nothing of the package is used to make them, so that what is tested cannot excuse itself.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

SETTINGS = [
    *("optim.batch_size=4", "optim.period=5", "run.random_steps=10", "run.total_steps=14"),
    *(
        "run.checkpoint_every=12",
        "run.eval_every=14",
        "run.log_every=7",
        "model.z_s_dim=4",
        "model.z_a_dim=4",
    ),
    *("model.z_sa_dim=4", "model.hidden_dim=4", "loss.horizon=2", "loss.n_steps=1"),
]
"""Of the run that is damaged: 14 steps with the smallest networks."""


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def trap(folder: Path) -> bytes:
    """Return a pickle that makes a folder when it is loaded."""
    return pickle.dumps(Trap(folder))


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Change what a JSON file holds: in place, or to what ``change`` returns."""
    data = json.loads(path.read_text(encoding="utf-8"))
    made = change(data)
    path.write_text(json.dumps(data if made is None else made), encoding="utf-8")


def seal(checkpoint: Path) -> None:
    """Write the checksums of a changed checkpoint, as anybody can."""
    sums = {}
    for file in sorted(checkpoint.rglob("*")):
        if file.is_symlink():
            sums[file.relative_to(checkpoint).as_posix()] = "a link"
        elif file.is_file() and file.name != "checksums.json":
            digest = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
            sums[file.relative_to(checkpoint).as_posix()] = digest
    (checkpoint / "checksums.json").write_text(json.dumps(sums), encoding="utf-8")


def damaged_bytes(data: bytes) -> st.SearchStrategy[bytes]:
    """Flip bits, cut, put in, take out, or repeat: up to three times."""
    at = st.integers(0, max(len(data) - 1, 0))

    def flip(made: bytes, where: int, what: bytes) -> bytes:
        changed = bytearray(made)
        for offset, value in enumerate(what):
            changed[(where + offset) % len(changed)] ^= value
        return bytes(changed)

    steps: dict[str, Callable[[bytes, int, bytes], bytes]] = {
        "flip": lambda made, where, what: flip(made, where, what) if made else made,
        "cut": lambda made, where, what: made[:where],
        "insert": lambda made, where, what: made[:where] + what + made[where:],
        "drop": lambda made, where, what: made[:where] + made[where + len(what) :],
        "repeat": lambda made, where, what: made[:where] + made[where // 2 :],
    }
    step = st.tuples(st.sampled_from(sorted(steps)), at, st.binary(min_size=1, max_size=8))

    def apply(chosen: list[tuple[str, int, bytes]]) -> bytes:
        made = data
        for name, where, what in chosen:
            made = steps[name](made, where, what)
        return made

    return st.lists(step, min_size=1, max_size=3).map(apply)


ODD = (
    *(None, True, False, 0, -1, 1, 2.5, -0.0, 1e308, float("nan"), float("inf"), 10**9, 2**63, 10**30),
    *("", "x", "../..", "/etc/passwd", "a:b", "\x00", "\n", "\ud800", "9" * 50, [], {}, [[]], [None] * 3),
    *(
        {"kind": "value", "value": 1},
        {"kind": "path", "value": "/"},
        {"type": "Discrete", "n": 2, "start": 0},
    ),
)


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where values stand in nested lists and tables."""
    inner: Any = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


def damaged_json(text: str) -> st.SearchStrategy[str]:
    """Put another value, or one from elsewhere in the file, in up to three places; or drop or rename one."""
    spots = places(json.loads(text))
    change = st.tuples(
        st.sampled_from(spots),
        st.sampled_from(("odd", "copy", "drop", "rename")),
        st.sampled_from(ODD),
        st.sampled_from(spots),
    )
    return st.lists(change, min_size=1, max_size=3).map(lambda chosen: _changed(text, chosen))


def _changed(text: str, chosen: list[tuple[Any, str, Any, Any]]) -> str:
    data = json.loads(text)
    for place, how, odd, other in chosen:
        value = copy.deepcopy(odd)  # the next change may be made within it
        if how == "copy":
            value = json.loads(json.dumps(_get(json.loads(text), other)))
        if not place:
            data = value
            continue
        try:
            holder = _get(data, place[:-1])
            if how in ("odd", "copy"):
                holder[place[-1]] = value
            elif how == "rename" and isinstance(holder, dict):
                holder[str(odd)] = holder.pop(place[-1])
            else:
                del holder[place[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
    return json.dumps(data)


def _get(data: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        data = data[key]
    return data


class Notes:
    """Keeps whatever it is given."""

    def __init__(self, **state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state
