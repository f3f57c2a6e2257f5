"""Runs side by side: variants over environments, at one step for each environment, under one protocol.

What is compared must be comparable: the same evaluation, the same preprocessing, a step that all runs have.
The numbers are made here; how they look is in ``report``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uld_torchrl.config import PRESETS, differences, to_dict
from uld_torchrl.errors import InputError
from uld_torchrl.experiments.published import Point, comparable, normalise, points
from uld_torchrl.experiments.records import Record, read_records
from uld_torchrl.experiments.suites import SUITES
from uld_torchrl.peers import about_peer

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Records of one or several variants, their environments, and published methods to stand beside them."""

    records: tuple[Record, ...]
    left_out: dict[Path, str]
    against: tuple[str, ...] = ()

    @property
    def variants(self) -> list[str]:
        """Names of the variants: presets, which others are compared with, before the rest, each sorted."""
        return sorted(
            {record.variant for record in self.records}, key=lambda name: (name not in PRESETS, name)
        )

    @property
    def envs(self) -> list[str]:
        """The environments, sorted."""
        return sorted({record.env for record in self.records})

    def of(self, env: str, variant: str) -> list[Record]:
        """Return the runs of a variant on an environment, by seed."""
        found = [record for record in self.records if (record.env, record.variant) == (env, variant)]
        return sorted(found, key=lambda record: record.seed)

    def step(self, env: str) -> int:
        """Return the last step at which every run on that environment was evaluated; 0 if there is none."""
        common = set.intersection(*(set(record.steps) for record in self.records if record.env == env))
        return max(common, default=0)

    def returns(self, env: str, variant: str) -> Array:
        """Return the returns at the common step (runs,)."""
        step = self.step(env)
        return np.array([record.at(step) for record in self.of(env, variant)])

    def curves(self, env: str, variant: str) -> tuple[Array, Array]:
        """Return the steps that all runs of a variant have (steps,), and the returns there (runs, steps)."""
        runs = self.of(env, variant)
        if not runs:
            return np.zeros(0), np.zeros((0, 0))
        steps = sorted(set.intersection(*(set(record.steps) for record in runs)))
        return np.array(steps), np.array([[record.at(step) for step in steps] for record in runs])

    def shared_envs(self) -> list[str]:
        """Return the environments on which every variant has a run and all have a common step."""
        return [
            env
            for env in self.envs
            if self.step(env) and all(self.of(env, variant) for variant in self.variants)
        ]

    def scores(self, variant: str) -> dict[str, Array]:
        """Return normalised scores of a variant on the shared environments, env -> (runs,)."""
        return {env: normalise(env, self.returns(env, variant)) for env in self.shared_envs()}

    @property
    def on_one_scale(self) -> bool:
        """Whether a mean over the shared environments means something."""
        return bool(self.shared_envs()) and comparable(self.shared_envs())

    def published(self, env: str) -> dict[str, list[Point]]:
        """Return the published points of the methods asked for; methods without any are left out."""
        found = {method: points(env, method) for method in self.against}
        return {method: given for method, given in found.items() if given}

    @property
    def suite(self) -> str | None:
        """The suite whose environments these are, if it is one."""
        return next((each.name for each in SUITES.values() if sorted(each.envs) == self.shared_envs()), None)


def compare(paths: Sequence[Path], against: Sequence[str] = ()) -> Comparison:
    """Read all runs at and below the paths, and put them side by side.

    Args:
        paths: run directories, or folders that hold some.
        against: published methods, of :data:`~uld_torchrl.experiments.METHODS`.

    Raises:
        InputError: nothing to report, an unknown method, different protocols, two runs of one name and seed.
    """
    for method in against:
        points("", method)  # refuses unknown names
    records, left_out = read_records(paths)
    _check_protocols(records)
    _check_variants(records)
    return Comparison(tuple(records), left_out, tuple(dict.fromkeys(against)))


def _check_protocols(records: Sequence[Record]) -> None:
    """Refuse runs of one environment that were evaluated or preprocessed differently."""
    first: dict[str, Record] = {}
    for record in records:
        other = first.setdefault(record.env, record)
        odd = differences(_protocol(other), _protocol(record))
        if odd:
            raise InputError(
                f"{other.path} and {record.path} follow different protocols ({'; '.join(odd)}): report them "
                "apart."
            )


def _check_variants(records: Sequence[Record]) -> None:
    """Refuse two runs of one seed, and runs of one variant with different settings."""
    first: dict[tuple[str, str], Record] = {}
    seen: dict[tuple[str, str, int], Record] = {}
    for record in records:
        twin = seen.setdefault((record.env, record.variant, record.seed), record)
        if twin is not record:
            raise InputError(
                f"{twin.path} and {record.path} are both seed {record.seed} of {record.variant}: give the "
                "variants different names, or report them apart."
            )
        other = first.setdefault((record.env, record.variant), record)
        odd = differences(_settings(other), _settings(record))
        if odd:
            raise InputError(
                f"{other.path} and {record.path} are of one name but of different settings "
                f"({'; '.join(odd)}): report them apart."
            )


def _settings(record: Record) -> dict[str, Any]:
    settings = to_dict(record.config)
    agent = {"agent": record.agent, **about_peer(record.peer)}
    return {**settings, "run": {**settings["run"], "total_steps": None}, **agent}


def _protocol(record: Record) -> dict[str, Any]:
    run, settings = record.config.run, to_dict(record.config)
    protocol: dict[str, Any] = {"episodes of an evaluation": record.episodes}
    if record.env.startswith(("dmc-pixels/", "atari/")):
        protocol["image settings"] = settings["pixels"]
    if record.env.startswith("atari/"):
        protocol |= {"atari settings": settings["atari"], "greedy evaluation": run.greedy_discrete_eval}
    return protocol
