"""The README's words on theory: its example runs as it stands, its commands exist, its pictures are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from theory.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## The theory, checked") : README.index("## What a run leaves behind")]


def test_the_example_runs_and_passes(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    first = capsys.readouterr().out.splitlines()[0]
    assert ": pass, " in first


def test_every_command_of_the_table_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    (table,) = [part for part in SECTION.split("\n\n") if part.startswith("| `python -m theory`")]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    named = [name for row in rows for name in re.findall(r"`(\w+)[^`]*`", row)]
    assert len(named) == 8
    for name in named:
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
    capsys.readouterr()


def test_the_number_of_catalogue_problems_is_right() -> None:
    from theory import catalogue

    (stated,) = re.findall(r"computes (\d+) problems", SECTION)
    assert int(stated) == len(catalogue.names())


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert missing == []
