"""Finished and unfinished runs as data: settings, evaluations, time, size, and the command that repeats them.

Read from the run directories without torch; nothing here compares or draws, see ``report``.
"""

from __future__ import annotations

import json
import math
import operator
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uld_torchrl.config import PRESETS, AgentConfig, differences, from_dict, to_dict
from uld_torchrl.errors import InputError
from uld_torchrl.experiments.suites import frames_per_step
from uld_torchrl.peers import PeerConfig, harness_config, name_of, own_settings, peer_of
from uld_torchrl.tables import read_rows
from uld_torchrl.untrusted import brief, open_plain, read_json

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Record:
    """What a run did: undiscounted returns, the mean over the episodes of each evaluation, by agent steps."""

    path: Path
    env: str
    variant: str
    seed: int
    agent: str
    config: AgentConfig
    steps: tuple[int, ...]
    """Agent steps of the evaluations (evaluations,)."""
    returns: tuple[float, ...]
    """Mean return of each (evaluations,)."""
    episodes: int
    """Episodes of an evaluation."""
    seconds: float
    """Wall-clock seconds up to the last evaluation's row of timing.csv; NaN where it is not known."""
    parameters: int | None
    """Parameters of the final model's networks, targets not counted; None without one."""
    versions: str
    """Versions of the last session, as environment.txt has them."""
    peer: PeerConfig | None = None
    """Settings of the agent if it is another one than ULD."""
    discrete: bool = False
    """Whether actions are discrete: these are evaluated greedily or sampled."""

    @property
    def name(self) -> str:
        """Environment, variant and seed in one word."""
        return f"{self.env}/{self.variant}/seed{self.seed}"

    @property
    def frames_per_step(self) -> int:
        """Environment frames in an agent step of this run."""
        return self.config.atari.frame_skip if self.env.startswith("atari/") else frames_per_step(self.env)

    def at(self, step: int) -> float:
        """Return the mean return of the evaluation at that step, NaN if there is none."""
        return dict(zip(self.steps, self.returns, strict=True)).get(step, float("nan"))

    @property
    def command(self) -> str:
        """The command that makes this run again: the nearest preset, and what differs from it."""
        near, settings = nearest_preset(self.config)
        agent = []
        if self.peer is not None:
            bases = {name: harness_config(base.run, self.peer) for name, base in PRESETS.items()}
            near, settings = nearest_preset(self.config, bases)
            settings += own_settings(self.peer)
            agent = ["--agent", self.agent]
        given = [part for setting in settings for part in ("--set", setting)]
        options = [*agent, "--preset", near, "--name", self.variant, "--seed", str(self.seed)]
        return shlex.join(["uld", "train", self.env, *options, *given])


def nearest_preset(config: AgentConfig, bases: Mapping[str, AgentConfig] = PRESETS) -> tuple[str, list[str]]:
    """Return the preset that differs in the fewest fields, and the settings that lead from it to ``config``.

    Example:
        >>> from uld_torchrl.config import override, preset
        >>> nearest_preset(override(preset("small"), ["loss.gamma=0.98"]))
        ('small', ['loss.gamma=0.98'])
    """
    ways = {name: _settings(base, config) for name, base in bases.items()}
    near = min(ways, key=lambda name: len(ways[name]))
    return near, ways[near]


def _settings(base: AgentConfig, config: AgentConfig) -> list[str]:
    wanted = to_dict(config)
    fields = [change.split(":", 1)[0] for change in differences(to_dict(base), wanted)]
    found = []
    for name in fields:
        section, _, key = name.partition(".")
        value = wanted[section][key]
        found.append(f"{name}={str(value).lower() if isinstance(value, bool) else value}")
    return found


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the run directories at and below these paths, each once, sorted.

    Raises:
        InputError: a path does not exist, or holds no run.
    """
    found: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist; name run directories, or folders that hold some.")
        here = {config.parent.resolve() for config in path.rglob("config.json") if _is_run(config)}
        if not here:
            raise InputError(f"there is no run at or below {path}: no config.json of `uld train`.")
        found |= here
    return sorted(found)


def _is_run(config: Path) -> bool:
    return config.parent.name.startswith("seed") and config.is_file()


def read_record(path: Path) -> Record:
    """Read a run directory.

    Raises:
        InputError: the run has no evaluation yet, or cannot be read.
    """
    try:
        started = read_json(path / "config.json")
        config = from_dict(started["config"])
        env, seed, peer = str(started["env_id"]), int(started["seed"]), peer_of(started)
        discrete = _is_discrete(env, started)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"config.json cannot be read ({type(error).__name__}: {brief(error, 200)})"
        ) from error
    rows = read_rows(path / "eval.csv")
    try:
        steps = tuple(int(row["step"]) for row in rows)
        returns = tuple(float(row["episode_return_mean"]) for row in rows)
        episodes = int(rows[-1].get("episodes", config.run.eval_episodes)) if rows else 0
    except (KeyError, ValueError) as error:
        raise InputError(f"eval.csv is damaged ({type(error).__name__}: {brief(error, 200)})") from error
    if not steps:
        raise InputError("no evaluation yet")
    if not all(map(math.isfinite, returns)):
        raise InputError("eval.csv has returns that are not finite")
    return Record(
        path,
        env,
        path.parent.name,
        seed,
        "uld" if peer is None else name_of(peer),
        config,
        steps,
        returns,
        episodes,
        _seconds(path, steps[-1]),
        _parameters(path / "model" / "model.safetensors"),
        _versions(path / "environment.txt"),
        peer,
        discrete,
    )


def _is_discrete(env: str, started: Mapping[str, Any]) -> bool:
    # Runs of earlier versions do not say what their actions are.
    space = started.get("task", {}).get("action_space", {})
    return env.startswith("atari/") or space.get("type") == "Discrete"


def read_records(paths: Iterable[Path]) -> tuple[list[Record], dict[Path, str]]:
    """Read all runs at and below these paths; return them, and those that were left out, with the reason.

    Raises:
        InputError: a path is not there, or no run can be used.
    """
    records, left_out = [], {}
    for path in find_runs(paths):
        try:
            records.append(read_record(path))
        except InputError as error:
            left_out[path] = str(error)
    if not records:
        listed = "; ".join(f"{path}: {why}" for path, why in list(left_out.items())[:5])
        raise InputError(f"no run can be reported: {listed}.")
    return records, left_out


def _seconds(path: Path, step: int) -> float:
    """Return the wall-clock up to a step; a damaged table costs this number, not the run."""
    try:
        rows = [row for row in read_rows(path / "timing.csv") if row.get("seconds")]
        upto = [float(row["seconds"]) for row in rows if int(row["step"]) <= step]
    except ValueError:
        return float("nan")
    return upto[-1] if upto and 0 <= upto[-1] < math.inf else float("nan")


def _parameters(weights: Path) -> int | None:
    """Count parameters by the header of a safetensors file: eight bytes of length, then JSON."""
    try:
        with open_plain(weights) as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(min(length, 10_000_000)))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(map(operator.index, shape)) for shape in shapes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _versions(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "not known"
    sessions = text.split("from step ")
    return sessions[-1].partition("\n")[2].strip()
