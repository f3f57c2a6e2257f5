"""The command ``python -m theory``; the commands themselves are in ``theory.commands``.

Exit code 0; 1 if an expectation or a theorem fails; 2 for arguments that cannot be used, with one message
on standard error.
"""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from theory.commands import COMMANDS
from theory.commands.output import complain
from theory.errors import InputError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End with one message and no usage text."""
        complain(message)
        self.exit(2)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Example:
        >>> main(["report", "--mdp", "nowhere", "-o", "out"])
        2
    """
    parsed = _parser().parse_args(arguments)
    try:
        return next(command for command in COMMANDS if parsed.command == command.NAME).run(parsed)
    except (InputError, OSError) as error:
        complain(str(error))
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m theory", description="Theorems behind latent-dynamics agents, checked.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_arguments(
            commands.add_parser(command.NAME, help=command.HELP, description=command.HELP, allow_abbrev=False)
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
