"""What commands say and write; nothing else in ``theory`` prints.

A command ends with :func:`finish`: without a directory the report goes to standard output as Markdown; with
one it becomes NAME.md, NAME.json and the pictures, which the Markdown shows.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from theory import plots
from theory.errors import InputError
from theory.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A picture that belongs to a report, drawn only if it is written.

    Attributes:
        file: its name, such as "bounds.png".
        caption: what it shows, in one line.
        draw: returns the figure; an InputError says why there is none.
    """

    file: str
    caption: str
    draw: Callable[[], Figure]


def add_output_argument(parser: ArgumentParser, name: str) -> None:
    """Declare -o, the directory for what :func:`finish` writes.

    Example:
        >>> parser = ArgumentParser()
        >>> add_output_argument(parser, "report")
        >>> parser.parse_args([]).output is None
        True
    """
    parser.add_argument(
        "-o", "--output", type=Path,
        help=f"directory for {name}.md, {name}.json and PNGs; without it Markdown goes to standard output",
    )  # fmt: skip


def finish(
    report: Report,
    name: str,
    directory: Path | None,
    pictures: Iterable[Picture] = (),
    *,
    table: str = "",
    series: Mapping[str, Any] | None = None,
) -> int:
    """Print or write the report and return the exit code: 1 if the verdict is "fail".

    Args:
        report: what was found.
        name: of the files, without ending.
        directory: where to; made if it does not exist. None: standard output, without pictures.
        pictures: to be drawn. One that cannot be drawn becomes a line with the reason.
        table: Markdown that follows the report.
        series: data that is too long for Markdown; it is in the JSON only.

    Raises:
        OSError: the directory cannot be written.

    Example:
        >>> finish(Report("t", "fail", 0.5, 0.1), "t", None)
        t: fail, the statement does not hold on this problem (residual 0.5, tolerance 0.1).
        1
    """
    parts = [report.to_markdown(), table]
    if directory is None:
        say("\n\n".join(filter(None, parts)))
    else:
        directory.mkdir(parents=True, exist_ok=True)
        parts += [_written(picture, directory) for picture in pictures]
        (directory / f"{name}.md").write_text("\n\n".join(filter(None, parts)) + "\n", "utf-8")
        full = replace(report, data={**report.data, **(series or {})})
        (directory / f"{name}.json").write_text(full.to_json() + "\n", "utf-8")
        say(report.to_markdown().splitlines()[0])
    return 1 if report.verdict == "fail" else 0


def _written(picture: Picture, directory: Path) -> str:
    """Write a picture and return the Markdown that shows it, or the reason why there is none."""
    target = directory / picture.file
    try:
        figure = picture.draw()
    except ImportError as error:
        target.unlink(missing_ok=True)
        return f"{picture.caption}: not drawn. {error}; pictures need it: 'pip install matplotlib'."
    except InputError as error:
        target.unlink(missing_ok=True)  # one of an earlier run would be taken for this one's
        return f"{picture.caption}: not drawn. {error}"
    plots.save(figure, target)
    return f"![{picture.caption}]({picture.file})\n\n*{picture.caption}*"


def say(*lines: str) -> None:
    """Print the lines on standard output.

    Example:
        >>> say("one", "two")
        one
        two
    """
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def complain(message: str) -> None:
    """Print an error on standard error, in one line."""
    sys.stderr.write(f"python -m theory: error: {message}\n")
