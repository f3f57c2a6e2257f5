"""``--agent td3|sac|dqn`` of ``uld train``: the settings of a peer's run, and which options it does not take.

Part of ``cli``; torch is not imported. The peers themselves are in ``uld_torchrl.peers``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uld_torchrl.config import AgentConfig
from uld_torchrl.errors import InputError
from uld_torchrl.peers import PeerConfig, harness_config, read_settings

if TYPE_CHECKING:
    from uld_torchrl.cli import Train

_OF_ULD = {
    "schedule": "the schedule of encoder updates is ULD's",
    "ablation": "ablations take parts of ULD away",
    "seeds": "several seeds in one process are ULD's; use a process for each, or uld study run",
    "audit_every": "what is audited are ULD's embeddings",
    "probe_every": "what is probed are ULD's embeddings",
}


def peer_command(command: Train) -> tuple[AgentConfig, PeerConfig]:
    """Return what the loop reads, and the settings of the peer that a command asks for.

    Raises:
        InputError: an option or a setting that is ULD's.

    Example:
        >>> from uld_torchrl.cli import Train
        >>> config, peer = peer_command(Train(agent="dqn", total_steps=5000))
        >>> config.run.total_steps, peer.update_every
        (5000, 10)
    """
    for option, why in _OF_ULD.items():
        if getattr(command, option) is not None:
            raise _refused(command, option, why)
    if command.precision not in (None, "auto", "float32"):
        raise _refused(command, "precision", "peers compute in float32")
    if command.compile not in (None, "auto", "off"):
        raise _refused(command, "compile", "peers are not compiled")
    options = {"num_envs": command.num_envs, "total_steps": command.total_steps}
    given = [f"run.{name}={value}" for name, value in options.items() if value is not None]
    run, peer = read_settings(command.agent, command.preset, [*given, *command.set])
    return harness_config(run, peer), peer


def _refused(command: Train, option: str, why: str) -> InputError:
    return InputError(
        f"--{option.replace('_', '-')} {getattr(command, option)} does not go with --agent {command.agent}: "
        f"{why}. Leave it out, or use --agent uld."
    )
