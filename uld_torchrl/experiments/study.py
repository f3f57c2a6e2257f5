"""A study: suite or environments, variants, seeds; what it has done so far, and its file.

``<run_dir>/<name>.study.json`` keeps what belongs to a study, so that ``uld study status`` and ``uld report``
find its runs, and the same command goes on. How jobs are run is in ``launchers``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from uld_torchrl.config import PRESETS, PresetName, differences, override, preset
from uld_torchrl.errors import InputError, check_name
from uld_torchrl.experiments.jobs import Job, State, make_jobs, unique_envs
from uld_torchrl.peers import shared_settings, split_agent

_STEPS = "run.total_steps="


@dataclass(frozen=True)
class Study:
    """What a study consists of.

    Raises:
        InputError: a name that no file can have.

    Example:
        >>> study = Study("toy", ("CartPole-v1",), {"small": ()}, (0, 1))
        >>> len(study.jobs())
        2
    """

    name: str
    envs: tuple[str, ...]
    variants: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    preset: PresetName = "small"
    settings: tuple[str, ...] = ()
    suite: str | None = None

    def __post_init__(self) -> None:
        check_name("the name of a study", self.name)

    def jobs(self, device: str = "auto") -> list[Job]:
        """Return the runs of the study, seed by seed."""
        return make_jobs(
            self.envs, self.variants, self.seeds, preset=self.preset, settings=self.settings, device=device
        )

    def path(self, run_dir: Path) -> Path:
        """Return the study's file."""
        return run_dir / f"{self.name}.study.json"

    def save(self, run_dir: Path) -> None:
        """Write the file, put together with what it held before; all runs may become longer.

        Raises:
            InputError: the file holds a study of other settings, or cannot be read.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        whole = self if not self.path(run_dir).exists() else _merged(load_study(self.path(run_dir)), self)
        aside = self.path(run_dir).with_suffix(".tmp")
        aside.write_text(json.dumps(asdict(whole), indent=2) + "\n", encoding="utf-8")
        aside.replace(self.path(run_dir))


def load_study(path: Path) -> Study:
    """Read a study's file.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        study = Study(
            name=str(data["name"]),
            envs=tuple(map(str, data["envs"])),
            variants={str(name): tuple(map(str, given)) for name, given in data["variants"].items()},
            seeds=tuple(int(seed) for seed in data["seeds"]),
            preset=data["preset"],
            settings=tuple(map(str, data["settings"])),
            suite=data["suite"],
        )
    except FileNotFoundError as error:
        raise InputError(f"there is no study {path.name.removesuffix('.study.json')}: no {path}.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no study ({type(error).__name__}: {str(error)[:200]}).") from error
    if study.preset not in PRESETS:
        raise InputError(f"{path}: preset must be one of {', '.join(PRESETS)}, got {study.preset!r}.")
    return study


def _merged(old: Study, new: Study) -> Study:
    """Return the study with what is new in environments, variants and seeds, and longer if that is asked."""
    odd = [
        f"{name} ({getattr(old, name)} -> {getattr(new, name)})"
        for name in ("preset", "suite")
        if getattr(old, name) != getattr(new, name)
    ]
    settings = _for_both(old, new)
    if settings is None:
        odd.append(f"settings ({_changed(old.settings, new.settings)})")
    for name in sorted(old.variants.keys() & new.variants.keys()):
        if old.variants[name] != new.variants[name]:
            odd.append(f"variant {name} ({_changed(old.variants[name], new.variants[name])})")
    if odd:
        raise InputError(
            f"study {new.name} exists with another {', '.join(odd)}: choose another --name, or what it has; "
            "run.total_steps may grow."
        )
    return Study(
        new.name,
        unique_envs([*old.envs, *new.envs]),
        {**old.variants, **new.variants},
        tuple(sorted({*old.seeds, *new.seeds})),
        new.preset,
        settings or (),
        new.suite,
    )


def _changed(old: Sequence[str], new: Sequence[str]) -> str:
    """Name the settings that differ, as ``field: old -> new``."""
    before, after = (
        {name: value for name, _, value in (each.partition("=") for each in given)} for given in (old, new)
    )
    names = {**before, **after}
    usual = "as the preset"
    left, right = ({name: given.get(name, usual) for name in names} for given in (before, after))
    return ", ".join(differences(left, right)) or "in another order"


def _for_both(old: Study, new: Study) -> tuple[str, ...] | None:
    """Return the settings of which all variants of both take what they take now; None if there are none.

    Steps do not count as long as they grow.
    """
    steps: tuple[str, ...] = ()
    if _total_steps(new) > _total_steps(old):
        steps = (f"{_STEPS}{_total_steps(new)}",)
        old, new = _any_length(old), _any_length(new)

    def taken(study: Study, settings: Sequence[str]) -> list[list[str]]:
        agents = [split_agent(variant)[0] for variant in study.variants.values()]
        return [shared_settings(agent, settings) for agent in agents]

    for settings in (old.settings, new.settings):
        if all(taken(study, settings) == taken(study, study.settings) for study in (old, new)):
            return (*settings, *steps)
    return None


def _total_steps(study: Study) -> int:
    of_all = [setting for setting in study.settings if setting.startswith(_STEPS)]
    return override(preset(study.preset), of_all).run.total_steps


def _any_length(study: Study) -> Study:
    return replace(study, settings=tuple(each for each in study.settings if not each.startswith(_STEPS)))


def status(jobs: Sequence[Job], run_dir: Path) -> str:
    """Return how far a study is: a line for each variant, and for each run that is begun.

    Example:
        >>> print(status(Study("toy", ("CartPole-v1",), {"small": ()}, (0, 1)).jobs(), Path("no-runs")))
        small: 0 of 2 runs done, 0 begun
    """
    states: dict[str, list[State]] = {}
    begun = []
    for job in jobs:
        state = job.state(run_dir)
        states.setdefault(job.variant, []).append(state)
        if state == "begun":
            begun.append(f"  {job.name}: step {job.step(run_dir)} of {job.config.run.total_steps}")
    lines = [
        f"{variant}: {found.count('done')} of {len(found)} runs done, {found.count('begun')} begun"
        for variant, found in states.items()
    ]
    return "\n".join([*lines, *begun])
