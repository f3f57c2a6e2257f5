"""What the site works out from the packages: settings, options, public names and their examples.

Sphinx is not needed here. That every page, link and public name is there is what the build itself fails on.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from uld_torchrl.cli import main
from uld_torchrl.config import AgentConfig, OptimConfig, to_dict
from uld_torchrl.peers import PEERS

DOCS = Path(__file__).resolve().parents[2] / "docs"
sys.path.append(str(DOCS / "_ext"))

from site_facts import COMMANDS, field_docs, option_rows, packages, public_names, setting_rows  # noqa: E402


def directives(page: str, name: str) -> list[str]:
    return re.findall(rf"^```{{{name}}} (.+)$", (DOCS / page).read_text("utf-8"), re.MULTILINE)


# Settings and options


def test_every_setting_of_the_agent_stands_on_the_page_of_settings() -> None:
    listed = [row[0] for section in directives("settings.md", "settings") for row in setting_rows(section)]
    settings = {**to_dict(AgentConfig()), **{name: to_dict(kind()) for name, kind in PEERS.items()}}
    assert sorted(listed) == sorted(f"{section}.{name}" for section in settings for name in settings[section])


def test_a_setting_comes_with_default_presets_and_help() -> None:
    rows = {row[0]: row[1:] for row in setting_rows("optim") + setting_rows("model")}
    assert rows["optim.encoder_lr"] == ("0.0001", "", "Learning rate of the encoders and the latent model.")
    assert rows["model.hidden_dim"][:2] == ("512", "small: 256, debug: 16")
    assert "Weights and targets are float32 in all." in rows["optim.precision"][2]  # its second line


def test_every_field_has_a_help_text() -> None:
    for section in directives("settings.md", "settings"):
        assert all(row[3].endswith((".", "]", ")")) and len(row[3]) > 10 for row in setting_rows(section))


def test_a_field_without_a_docstring_is_noticed() -> None:
    assert set(field_docs(OptimConfig)) == {field.name for field in dataclasses.fields(OptimConfig)}
    assert field_docs(Half) == {"told": "What it is, on two lines."}


@dataclasses.dataclass
class Half:
    """One field is told, one is not."""

    told: int = 1
    """What it is,
    on two lines."""
    untold: int = 2

    def __post_init__(self) -> None:
        """No help of a field."""


def test_every_command_stands_on_the_page_of_the_command_line() -> None:
    assert directives("command-line.md", "options") == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_are_those_that_help_shows(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command.split()[1:], "--help"])
    shown = set(re.findall(r"^\W*(--[a-z][a-z-]*)", capsys.readouterr().out, re.MULTILINE))
    listed = {row[0] for row in option_rows(COMMANDS[command])}
    assert {name for name in listed if name.startswith("--")} == shown - {"--help"}


def test_an_option_comes_with_its_default() -> None:
    rows = {row[0]: row[1] for row in option_rows(COMMANDS["uld train"])}
    assert (rows["ENV"], rows["--preset"], rows["--name"]) == ("dmc/cartpole-swingup", "small", "")
    assert {row[0]: row[1] for row in option_rows(COMMANDS["uld eval"])}["RUN"] == "required"


# Public names


PUBLIC = [(package, name) for package in packages() for name in public_names(package)]
FUNCTIONS = [
    value for package in packages() for value in public_names(package).values() if inspect.isroutine(value)
]


def test_all_packages_with_public_names_are_looked_at() -> None:
    assert {"uld_torchrl", "uld_torchrl.trainers", "theory", "theory.plots"} <= set(packages())
    assert len(PUBLIC) > 200


@pytest.mark.parametrize("package", packages())
def test_every_package_has_a_page(package: str) -> None:
    pages = [path.read_text("utf-8") for path in (DOCS / "api").glob("*.rst")]
    assert sum(f".. automodule:: {package}\n" in page for page in pages) == 1


def has_example(value: Any) -> bool:
    """Whether a docstring has an example, or that of a public function that returns such a thing."""
    if ">>> " in (inspect.getdoc(value) or ""):
        return True
    given = [function for function in FUNCTIONS if returns(function, value.__name__)]
    return any(">>> " in (inspect.getdoc(function) or "") for function in given)


def returns(function: Any, name: str) -> bool:
    """Whether a function says that it returns a thing of this name."""
    return bool(re.search(rf"\b{name}\b", str(inspect.signature(function).return_annotation)))


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_every_public_name_is_documented_with_an_example(package: str, name: str) -> None:
    value = public_names(package)[name]
    if inspect.isclass(value) or inspect.isroutine(value):
        assert inspect.getdoc(value)
        assert has_example(value)


def test_an_example_of_neither_kind_is_noticed() -> None:
    assert has_example(public_names("theory")["FixedPoint"])  # td_fixed_point's
    assert not has_example(Half)
