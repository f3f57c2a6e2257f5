"""Runs side by side: variants over environments, at one step for each environment, under one protocol.

What is compared must be comparable: the same evaluation, the same preprocessing, a step that all runs have.
The numbers are made here; how they look is in ``report``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uld_torchrl.config import PRESETS, AgentConfig, differences, to_dict
from uld_torchrl.errors import InputError
from uld_torchrl.experiments.published import Point, comparable, normalise, points
from uld_torchrl.experiments.records import Record, read_records
from uld_torchrl.experiments.suites import NOT_AGGREGATED, SUITES
from uld_torchrl.peers import about_peer

Array = NDArray[np.float64]
Parts = dict[Hashable, dict[str, Any]]
"""What a run must have in common with the others of a key -> the settings."""
_OF_A_SUITE = ("total_steps", "eval_every", "eval_episodes")
_OF_SAVING = ("checkpoint_every", "log_every")


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

    def aggregated_envs(self) -> list[str]:
        """Return the shared environments, without the games that published aggregates leave out."""
        shared = self.shared_envs()
        return [env for env in shared if env not in NOT_AGGREGATED] or shared

    def scores(self, variant: str) -> dict[str, Array]:
        """Return normalised scores of a variant on the aggregated environments, env -> (runs,)."""
        return {env: normalise(env, self.returns(env, variant)) for env in self.aggregated_envs()}

    @property
    def on_one_scale(self) -> bool:
        """Whether a mean over the aggregated environments means something."""
        envs = self.aggregated_envs()
        return bool(envs) and comparable(envs)

    def shortest(self, env: str) -> Record | None:
        """Return the run whose end decides the common step of an environment, if others go on after it."""
        runs = sorted((r for r in self.records if r.env == env), key=lambda r: r.steps[-1])
        return runs[0] if runs[0].steps[-1] < runs[-1].steps[-1] else None

    def unlike_published(self, env: str) -> list[str]:
        """Name the image and Atari settings in which the runs differ from the published protocol."""
        config = next(record.config for record in self.records if record.env == env)
        sections = {"dmc-pixels": "pixels", "atari": "atari"}
        name = sections.get(env.partition("/")[0])
        if name is None:
            return []
        usual, here = to_dict(AgentConfig())[name], to_dict(config)[name]
        return differences({name: usual}, {name: here})

    def published(self, env: str) -> dict[str, list[Point]]:
        """Return the published points of the methods asked for; methods without any are left out.

        None where the runs see other images, or play by other rules, than the published ones.
        """
        if self.unlike_published(env):
            return {}
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
    _check_same(records, _protocol, "follow different protocols")


def _check_variants(records: Sequence[Record]) -> None:
    """Refuse two runs of one seed, and runs of one variant with different settings."""
    seen: dict[tuple[str, str, int], Record] = {}
    for record in records:
        twin = seen.setdefault((record.env, record.variant, record.seed), record)
        if twin is not record:
            raise InputError(
                f"{twin.path} and {record.path} are both seed {record.seed} of {record.variant}: give the "
                "variants different names, or report them apart."
            )
    _check_same(records, _settings, "are of one name but of different settings")


def _check_same(records: Sequence[Record], parts: Callable[[Record], Parts], told: str) -> None:
    """Compare each run, part by part, with the first that has that part."""
    first: dict[Hashable, tuple[Record, dict[str, Any]]] = {}
    for record in records:
        for key, value in parts(record).items():
            other, before = first.setdefault(key, (record, value))
            odd = differences(before, value)
            if odd:
                raise InputError(
                    f"{other.path} and {record.path} {told} ({'; '.join(odd)}): report them apart."
                )


def _settings(record: Record) -> Parts:
    """Return what runs of one variant have in common: on an environment, on a kind of them, anywhere."""
    whole = {**to_dict(record.config), "agent": record.agent, **about_peer(record.peer)}
    images = {name: whole.pop(name) for name in ("pixels", "atari")}
    run = whole.pop("run")
    # A longer run is the same variant, unless its learning rates fall over its length.
    free = ("total_steps",) if record.config.optim.lr_decay == "none" else ()
    shared = {**whole, "run": _without(run, (*_OF_A_SUITE, *_OF_SAVING))}
    return {
        (record.variant, "on", record.env): {**whole, "run": _without(run, free)},
        (record.variant, "of kind", record.env.partition("/")[0]): images,
        (record.variant, "anywhere"): shared,
    }


def _without(settings: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _protocol(record: Record) -> Parts:
    env, settings = record.env, to_dict(record.config)
    protocol: Parts = {(env, "episodes"): {"episodes of an evaluation": record.episodes}}
    if env.startswith(("dmc-pixels/", "atari/")):
        protocol[env, "images"] = {"image settings": settings["pixels"]}
    if env.startswith("atari/"):
        protocol[env, "atari"] = {"atari settings": settings["atari"]}
    if record.discrete and record.agent != "dqn":  # DQN has no probabilities to sample by
        protocol[env, "greedy"] = {"greedy evaluation": record.config.run.greedy_discrete_eval}
    return protocol
