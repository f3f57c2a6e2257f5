"""The commands of ``python -m theory``, one module each.

A command is a module with ``NAME``, ``HELP``, ``add_arguments(parser)`` and ``run(parsed) -> exit code``.
What several of them ask for (``--mdp`` and so on) is in ``choices``; what they say goes through
``output``, the only place that prints. :data:`COMMANDS` lists them in the order of ``--help``.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Protocol

from theory.commands import audit, catalogue, lstd, nstep, report, sweep, targets, trajectory


class Command(Protocol):
    """What a module must have to be a command."""

    NAME: str
    HELP: str

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""

    def run(self, parsed: Namespace) -> int:
        """Do it and return the exit code: 0, or 1 if an expectation or a theorem fails."""


COMMANDS: tuple[Command, ...] = (
    catalogue,
    report,
    sweep,
    trajectory,
    targets,
    nstep,
    lstd,
    audit,
)
