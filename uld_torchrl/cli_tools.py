"""The commands ``uld export`` and ``uld cite``: arguments, and what is printed.

Part of ``cli``: what is heavy is imported when a command runs. ``uld cite`` never imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from uld_torchrl.citations import citations_of_run, library_citations


@dataclass(frozen=True)
class Export:
    """Write the policy of a finished run as a torch.export program, which acts with torch alone."""

    run: tyro.conf.Positional[Path]
    """Run directory (the one that `uld train` names)."""
    out: Path = Path("policy.pt2")
    """File to write, ending in .pt2."""


@dataclass(frozen=True)
class Cite:
    """Print BibTeX of what a run used; without a run, of this library and the papers it implements."""

    run: tyro.conf.Positional[Path | None] = None
    """Run directory (the one that `uld train` names)."""


def export_command(command: Export) -> None:
    """Write the file and say how it is used.

    Raises:
        InputError: no finished run, or no file that could be written.
    """
    from uld_torchrl.trainers.export import export_policy
    from uld_torchrl.trainers.playback import load

    print(f"policy: {export_policy(load(command.run), command.out)}")


def cite_command(command: Cite) -> None:
    """Print the entries.

    Raises:
        InputError: the directory is no run.
    """
    entries = library_citations() if command.run is None else citations_of_run(command.run)
    print("\n\n".join(entries.values()))
