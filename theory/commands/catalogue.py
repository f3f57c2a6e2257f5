"""``python -m theory catalogue``: every problem with a known outcome, computed again or proved."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from theory import catalogue
from theory.commands.output import say
from theory.report import Report

NAME = "catalogue"
HELP = "compute every problem with a known outcome again"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``--exact``."""
    parser.add_argument("--exact", action="store_true", help="prove it in rational arithmetic")


def run(parsed: Namespace) -> int:
    """Print the table of outcomes; 1 if one is not as expected."""
    reports = catalogue.run_all(exact=parsed.exact)
    say("| id | verdict | expected | ok |", "|---|---|---|---|", *map(_row, reports))
    wrong = [report for report in reports if not report]
    say("", f"{len(reports) - len(wrong)} of {len(reports)} as expected.")
    for report in wrong:
        for condition in report.conditions:
            if not condition.holds:
                say(f"{report.data['id']} {report.data['name']}, {condition.name}: {condition.why}")
    return 1 if wrong else 0


def _row(report: Report) -> str:
    data, good = report.data, sum(bool(condition.holds) for condition in report.conditions)
    words = [name for name in ("verdict", "fixed_point", "td", "rollout") if name in data["found"]]
    found, expected = (_words(data[key], words) for key in ("found", "expected"))
    left_out = f", {len(data['left out'])} too large" if data.get("left out") else ""
    ok = f"{'yes' if report else 'NO'} ({good} of {len(report.conditions)}{left_out})"
    return f"| {data['id']} {data['name']} | {found} | {expected} | {ok} |"


def _words(outcomes: dict[str, str], names: list[str]) -> str:
    return ", ".join(outcomes[name] if name == "verdict" else f"{name} {outcomes[name]}" for name in names)
