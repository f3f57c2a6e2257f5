"""Run directories: where a run lives, and when a repeated command may go on in it.

``<root>/<env>/<name>/seed<k>/`` with config.json, metrics.csv, eval.csv, timing.csv,
environment.txt, checkpoints/, model/, faults/, videos/, curve.png. The same command again goes on;
another configuration in the same directory is refused with the fields that differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from uld_torchrl.config import AgentConfig, differences, from_dict, to_dict
from uld_torchrl.errors import InputError, check_name, check_seed
from uld_torchrl.peers import PeerConfig, about_peer, peer_of
from uld_torchrl.trainers.files import replace_text, writing
from uld_torchrl.untrusted import brief, check_links, read_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PACKAGES = ("uld-torchrl", "torch", "torchrl", "tensordict", "gymnasium", "mujoco", "dm_control", "numpy")


@dataclass(frozen=True)
class RunDir:
    """The paths of one run.

    Example:
        >>> RunDir(Path("runs/gym/CartPole-v1/small/seed0")).evaluations.name
        'eval.csv'
    """

    path: Path

    @property
    def config(self) -> Path:
        """What the run was started with."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """Training metrics, one row each ``log_every`` steps."""
        return self.path / "metrics.csv"

    @property
    def evaluations(self) -> Path:
        """Evaluation returns."""
        return self.path / "eval.csv"

    @property
    def timing(self) -> Path:
        """Wall-clock figures, kept apart so that the other files are reproducible."""
        return self.path / "timing.csv"

    @property
    def checkpoints(self) -> Path:
        """Training state."""
        return self.path / "checkpoints"

    @property
    def audits(self) -> Path:
        """Exports of the agent's embeddings, ``step-<step>.npz``, where the run was audited."""
        return self.path / "audits"

    def audit_files(self) -> dict[int, Path]:
        """Return the exports by step, in order."""
        names = {path.stem.removeprefix("step-"): path for path in self.audits.glob("step-*.npz")}
        return {int(step): names[step] for step in sorted((n for n in names if n.isdecimal()), key=int)}

    @property
    def replay(self) -> Path:
        """The replay buffer's files while a run with ``--buffer-storage memmap`` goes on."""
        return self.path / "replay"

    @property
    def model(self) -> Path:
        """The final model: config.json and model.safetensors."""
        return self.path / "model"

    @property
    def videos(self) -> Path:
        """Videos of evaluation episodes."""
        return self.path / "videos"

    @property
    def curve(self) -> Path:
        """Learning curve."""
        return self.path / "curve.png"


def open_run(
    root: Path,
    env_id: str,
    name: str,
    seed: int,
    config: AgentConfig,
    *,
    task: Mapping[str, Any] | None = None,
    fresh: bool = False,
    peer: PeerConfig | None = None,
) -> RunDir:
    """Create the directory of a run, or check that it belongs to the same configuration.

    ``total_steps`` may grow; everything else must agree.

    Args:
        root: directory of all runs.
        env_id: canonical environment id.
        name: of the run; letters, digits, ``._-``.
        seed: of the run.
        config: its settings.
        task: what else tells the environment from another of that id, as JSON data.
        fresh: take ``<name>-2``, ``<name>-3``, ... instead of an existing directory.
        peer: settings of the agent, if it is another one than ULD.

    Raises:
        InputError: a bad name, another configuration in the directory, or an unusable path.

    Example:
        >>> import tempfile
        >>> from uld_torchrl.config import preset
        >>> root = Path(tempfile.mkdtemp())
        >>> open_run(root, "gym/CartPole-v1", "small", 0, preset("small")).path.relative_to(root).as_posix()
        'gym/CartPole-v1/small/seed0'
    """
    check_name("name", name)
    started = {
        "env_id": env_id,
        "task": dict(task or {}),
        "seed": check_seed(seed),
        "config": to_dict(config),
        **about_peer(peer),
    }
    try:
        run = RunDir(_path(root, env_id, fresh_name(root, env_id, name, [seed]) if fresh else name, seed))
        if run.config.exists():
            _check_same(run, started)
        else:
            run.path.mkdir(parents=True, exist_ok=True)
            replace_text(run.config, _as_json(started))
    except OSError as error:
        raise InputError(f"the run directory below {root} cannot be written: {error}.") from error
    return run


@contextlib.contextmanager
def locked(run: RunDir) -> Iterator[None]:
    """Hold the directory for this process, where the system has advisory locks (not Windows).

    Raises:
        InputError: another trainer holds it.
    """
    if fcntl is None:
        yield
        return
    folder = os.open(run.path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InputError(
            f"{run.path} is being trained by another process or trainer: wait for it, stop it, or use "
            "--fresh for a new directory, or another --name."
        ) from error
    finally:
        os.close(folder)


def _path(root: Path, env_id: str, name: str, seed: int) -> Path:
    return root / env_id / name / f"seed{seed}"


def fresh_name(root: Path, env_id: str, name: str, seeds: Iterable[int]) -> str:
    """Return ``name``, or the first of ``<name>-2``, ``<name>-3``, ... that has no run of these seeds.

    Example:
        >>> fresh_name(Path("nowhere"), "gym/CartPole-v1", "small", [0, 1])
        'small'
    """
    candidate, number = name, 1
    while any(_path(root, env_id, candidate, seed).exists() for seed in seeds):
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _check_same(run: RunDir, started: dict[str, Any]) -> None:
    check_links(run.path)
    try:
        old = read_json(run.config)
        old["config"] = to_dict(from_dict(old["config"]))  # settings that came later, at their defaults
        old |= about_peer(peer_of(old))
        steps = old["config"]["run"].pop("total_steps")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{run.config} cannot be read ({type(error).__name__}: {brief(error, 400)}): use --fresh for a "
            "new directory, or another --name."
        ) from error
    new = json.loads(json.dumps(started))
    if new["config"]["run"].pop("total_steps") < steps:
        raise InputError(f"{run.path} was started with total_steps {steps}; going on takes at least as many.")
    found = differences(old, new)
    if found:
        raise InputError(
            f"{run.path} holds a run of another configuration ({brief('; '.join(found), 2000)}): "
            "use --fresh for a new directory, or another --name."
        )


def _as_json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"


def record_session(run: RunDir, config: AgentConfig, step: int, compute: str) -> None:
    """Note that training goes on from ``step``: the settings, versions, and how it computes.

    Called when a session is sure to train, so that a refused or needless command changes nothing.
    """
    started = read_json(run.config)
    replace_text(run.config, _as_json({**started, "config": to_dict(config)}))
    versions = run.path / "environment.txt"
    with writing(versions), versions.open("a", encoding="utf-8") as file:
        file.write(f"from step {step}\n{environment_text()}compute {compute}\n")


def forget_untrained(run: RunDir) -> None:
    """Take back the settings of a run that never had a session, so that other ones may begin there."""
    if not (run.path / "environment.txt").exists():
        run.config.unlink(missing_ok=True)


def environment_text() -> str:
    """Return the versions that a run depends on, one a line.

    Example:
        >>> environment_text().startswith("python ")
        True
    """
    versions = [f"{name} {_version(name)}" for name in _PACKAGES]
    return "\n".join(
        [f"python {platform.python_version()}", *versions, f"commit {_commit()}", f"threads {_threads()}", ""]
    )


def _commit() -> str:
    """Return the commit of a git checkout that this package runs from, with -dirty if it is changed."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, capture_output=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def _threads() -> int:
    # Results on a CPU differ between thread counts.
    return torch.get_num_threads()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
