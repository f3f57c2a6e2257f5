"""Code in README.md and docs: Python blocks run, commands are ones that the command line takes.

The blocks of a page run in order, as one program, in a folder of its own. Of the commands those that take
seconds run too. The handbook under docs/theory has its own test (tests/theory/test_page.py).
"""

from __future__ import annotations

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest
import tyro
from markdown_it import MarkdownIt

from theory.__main__ import _parser
from theory.commands import COMMANDS as THEORY
from uld_torchrl.cli import Command, Train, main, settings
from uld_torchrl.cli_experiments import StudyGroup, StudyRun, make_study

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "docs" / "_ext"))

from site_facts import COMMANDS, option_rows  # noqa: E402

README = ROOT / "README.md"
WRITTEN = [README, *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "howto").glob("*.md")]
PAGES = sorted(page for page in WRITTEN if page.name != "changelog.md")
EXTRAS = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
LONG = {'train("small", "CartPole-v1")': 'train("debug", "CartPole-v1")'}
"""What would take minutes, and what runs in its place."""
_INTEGRATIONS = "docs/howto/integrations.md"
ELSEWHERE = {
    "problem = theory.Problem(": "README.md",
    "collector = ray_collector(": "docs/experiments.md",
    "import uld_torchrl.hydra_configs": _INTEGRATIONS,
    "act = torch.export.load(": _INTEGRATIONS,
    "import RecordVideo": _INTEGRATIONS,
}
"""Words of blocks that are not run here, and their pages: tests/theory/test_readme.py runs the first, the
second needs a Ray cluster, tests/integration has what the others show."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, as they stand."""
    tokens = MarkdownIt("commonmark").parse(text)
    return [token.content for token in tokens if token.type == "fence" and token.info == language]


def languages(text: str) -> set[str]:
    """The languages of all blocks; of Sphinx's directives the name in braces, without arguments."""
    tokens = MarkdownIt("commonmark").parse(text)
    return {token.info.split(" ")[0] for token in tokens if token.type in ("fence", "code_block")}


def python(text: str) -> str:
    """The Python blocks of a page as one program that takes seconds."""
    ours = [block for block in blocks(text, "python") if not any(word in block for word in ELSEWHERE)]
    program = "\n".join(ours)
    for long, short in LONG.items():
        program = program.replace(long, short)
    return program


def commands(text: str) -> list[str]:
    """The lines of bash blocks, each command of a line by itself, without comments."""
    lines = [line for block in blocks(text, "bash") for line in block.replace("\\\n", " ").splitlines()]
    parts = [part for line in lines for part in line.split(" #")[0].split(" && ")]
    return [part.strip() for part in parts if part.strip()]


def mentioned(text: str) -> list[str]:
    """The commands in running text, in backticks; most say a part of a command only."""
    return re.findall(r"`((?:uld|python -m theory) [^`\n]+)`", text)


def check_mentioned(command: str) -> None:
    """Fail unless there is such a command, with such options."""
    theory = command.startswith("python -m theory ")
    words = [word for word in re.split(r"[ |]", command) if word][3 if theory else 1 :]
    if theory:
        assert words[0] in (*(each.NAME for each in THEORY), "COMMAND"), command
        return
    whole = [name for name in COMMANDS if f"{command} ".startswith(f"{name} ")]
    group = [name for name in COMMANDS if name.startswith(f"uld {words[0]}")]
    assert whole or group or words == ["--help"], command
    known = {row[0] for name in whole or group for row in option_rows(COMMANDS[name])} | {"--help"}
    options = {word for word in words if word.startswith("--")}
    assert options <= known, (command, options - known)


def check(command: str) -> None:
    """Fail unless a command is one that works."""
    words = shlex.split(command)
    if words[0] == "uld":
        check_uld(words[1:])
    elif words[:3] == ["python", "-m", "theory"]:
        _parser().parse_args(words[3:])
    elif words[0] == "pip":
        named = re.findall(r"\[([\w,]+)\]", command)
        assert all(extra in EXTRAS for group in named for extra in group.split(",")), command
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), command
    else:
        assert words[0] in ("pytest", "ruff", "mypy", "sphinx-build", "cd", "git", ".ci/run"), command


def check_uld(arguments: list[str]) -> None:
    """Parse a command as ``uld`` does, and its settings."""
    parsed = tyro.cli(Command, prog="uld", args=arguments)
    if isinstance(parsed, Train):
        settings(parsed)
    if isinstance(parsed, StudyGroup) and isinstance(parsed.command, StudyRun):
        make_study(parsed.command)


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
WITH_CODE = [page for page in PAGES if python(page.read_text("utf-8"))]
TRAINING = ("README", "audit", "going-on", "images", "own-environment", "quickstart", "seeds", "torchrl")


def of(page: Path) -> ParameterSet:
    """A page as a test's parameter; those that call `train` are slow."""
    marks = [pytest.mark.slow] if page.stem in TRAINING else []
    return pytest.param(page, id=name_of(page), marks=marks)


@pytest.mark.parametrize("page", [of(page) for page in WITH_CODE])
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(python(page.read_text("utf-8")), name_of(page))


def run(program: str, name: str) -> None:
    """Execute a program as a module of its own."""
    exec(compile(program, name, "exec"), {"__name__": "__page__"})


@every_page
def test_the_commands_of_a_page_are_taken(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page.read_text("utf-8")
    for command in commands(text):
        try:
            check(command)
        except SystemExit as end:
            raise AssertionError(f"{command}: {capsys.readouterr().err}") from end
    for command in mentioned(text):
        check_mentioned(command)


QUICK = ("uld eval", "uld audit", "uld report", "uld study list", "uld study status", "uld info")


def quick(text: str) -> list[str]:
    """The commands of a page that take seconds: training with the preset debug, and what reads its runs."""
    chosen = [line for line in commands(text) if "--preset debug" in line or line.startswith(QUICK)]
    return [line for line in chosen if "--against" not in line]


@pytest.mark.slow
def test_the_commands_of_the_quick_start_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    assert [line.split()[1] for line in quick(text)] == ["info", "train", "eval"]
    assert in_turn(quick(text), tmp_path, monkeypatch) == [0, 0, 0], capsys.readouterr().err


HOW_TO = [page for page in PAGES if page.parent.name == "howto" and quick(page.read_text("utf-8"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", HOW_TO, ids=name_of)
def test_the_quick_commands_of_a_how_to_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = in_turn(quick(page.read_text("utf-8")), tmp_path, monkeypatch)
    assert set(codes) == {0}, (codes, capsys.readouterr().err)


def in_turn(lines: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Run commands one after the other in a folder; return their exit codes."""
    monkeypatch.chdir(folder)
    return [main(shlex.split(line)[1:]) for line in lines]


@every_page
def test_every_block_is_of_a_kind_that_is_looked_at(page: Path) -> None:
    known = {"python", "bash", "{toctree}", "{include}", "{settings}", "{options}"}
    found = languages(page.read_text("utf-8"))
    assert found <= known or (page.name, found - known) == ("durability.md", {""}), found - known


def test_what_is_not_run_as_it_stands_still_stands_there() -> None:
    pages = {**dict.fromkeys(LONG, "README.md"), **ELSEWHERE}
    assert [words for words, page in pages.items() if words not in (ROOT / page).read_text("utf-8")] == []


def test_all_python_is_python_what_is_not_run_too() -> None:
    assert len(WITH_CODE) >= 10
    for page in PAGES:
        for block in blocks(page.read_text("utf-8"), "python"):
            ast.parse(block)


@pytest.mark.parametrize(
    "command",
    [
        "uld train --presets small",
        "uld train gym/HalfCheetah-v4 --preset huge",
        "uld train --set loss.gama=0.9",
        "uld study run --suite dmc29",
        "python -m theory reports",
        "python tests/benchmarks/no_such_file.py",
        'pip install -e ".[testing]"',
        "conda install uld-torchrl",
    ],
)
def test_a_command_that_does_not_work_is_noticed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, ValueError, AssertionError)) as end:
        check(command)
    assert not isinstance(end.value, SystemExit) or end.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "command", ["uld trains", "uld train --sedes 0-9", "uld eval RUN --movie", "python -m theory lists"]
)
def test_a_command_in_running_text_that_does_not_exist_is_noticed(command: str) -> None:
    with pytest.raises(AssertionError):
        check_mentioned(command)


def test_a_broken_block_is_noticed() -> None:
    text = "Words.\n\n```python\na = 1\n```\n\nMore.\n\n```python\nassert a == 2\n```\n"
    with pytest.raises(AssertionError):
        run(python(text), "page")


def test_commands_are_found_in_blocks_and_in_text() -> None:
    text = "`uld info`, `uld bench step|env`\n\n```bash\npip install -e . && uld train  # long\n```\n"
    assert commands(text) == ["pip install -e .", "uld train"]
    assert mentioned(text) == ["uld info", "uld bench step|env"]
    check_mentioned("uld bench step|env --quick")
