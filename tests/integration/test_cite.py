"""``uld cite``: valid BibTeX, of what a run used and nothing else, without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from uld_torchrl.citations import _ENTRIES, citations_of_run, library_citations
from uld_torchrl.cli import main
from uld_torchrl.config import override, preset, to_dict
from uld_torchrl.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
OURS = ["uld_torchrl", "acharjee2026uld", "fujimoto2025mrq"]
GYM, DMC = ["towers2024gymnasium"], ["tunyasuvunakool2020dmcontrol", "todorov2012mujoco"]
ATARI = [*GYM, "bellemare2013ale", "machado2018ale"]


def run_of(folder: Path, env_id: str = "gym/CartPole-v1", *settings: str, **about: Any) -> Path:
    """Write what a run's directory says of itself."""
    config = to_dict(override(preset("debug"), settings))
    text = json.dumps({"env_id": env_id, "task": {}, "seed": 0, "config": config, **about})
    (folder / "config.json").write_text(text)
    return folder


def parsed(text: str) -> dict[str, dict[str, str]]:
    """Read BibTeX by its grammar: entries by key, fields by name; anything else is an error."""
    found: dict[str, dict[str, str]] = {}
    while text.strip():
        head = re.match(r"\s*@(misc|article|inproceedings)\{([a-z0-9_]+),\s*", text)
        assert head, text[:80]
        assert head[2] not in found
        fields, text = found.setdefault(head[2], {"kind": head[1]}), text[head.end() :]
        while field := re.match(r"(\w+)\s*=\s*\{", text):
            depth, end = 1, field.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
            assert field[1] not in fields
            fields[field[1]] = text[field.end() : end - 1]
            comma = re.match(r",\s*", text[end:])
            assert comma, text[end : end + 20]
            text = text[end + comma.end() :]
        assert text.startswith("}"), text[:80]
        text = text[1:]
    return found


def test_every_entry_is_bibtex_with_what_its_kind_needs() -> None:
    entries = parsed("\n\n".join(_ENTRIES.values()))
    assert list(entries) == list(_ENTRIES)
    needed = {"article": "journal", "inproceedings": "booktitle", "misc": "title"}
    for key, fields in entries.items():
        assert needed[fields["kind"]] in fields
        assert fields["title"].startswith("{") and fields["title"].endswith("}")
        assert key == "uld_torchrl" or re.fullmatch(r"20\d\d", fields["year"])
        if "eprint" in fields:
            assert re.fullmatch(r"\d{4}\.\d{5}", fields["eprint"])
            assert fields["eprint"][:2] == fields["year"][2:] or key in ("fujimoto2025mrq",)
        assert "author" in fields or key == "flashsac2026"  # whose authors are not known here


@pytest.mark.parametrize(
    "broken",
    ["@misc{a,\n  title = {x}\n}", "@misc{a,\n  title = {x},\n", "@misc{a,\n  t = {x},\n  t = {y},\n}"],
)
def test_the_reader_of_this_test_refuses_broken_bibtex(broken: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        parsed(broken)


def test_without_a_run_the_library_and_its_two_papers() -> None:
    assert list(library_citations()) == OURS


@pytest.mark.parametrize(
    ("env_id", "simulators"),
    [
        ("gym/CartPole-v1", GYM),
        ("gym/HalfCheetah-v5", [*GYM, "todorov2012mujoco"]),
        ("gym/Ant-v4", [*GYM, "todorov2012mujoco"]),
        ("gym/nowhere:Ant-v5", GYM),
        ("custom/Thermostat", GYM),
        ("tabular/chain", GYM),
        ("dmc/cartpole-swingup", DMC),
        ("dmc-pixels/cartpole-balance", DMC),
        ("atari/Pong", ATARI),
    ],
)
def test_the_simulator_is_that_of_the_environment(env_id: str, simulators: list[str], tmp_path: Path) -> None:
    found = list(citations_of_run(run_of(tmp_path, env_id)))
    assert found == [*OURS, "fujimoto2020lap", "bou2023torchrl", *simulators]


@pytest.mark.parametrize(
    ("settings", "sources"),
    [
        (["replay.lap_alpha=0"], []),
        (["loss.infonce_coeff=0.1"], ["fujimoto2020lap", "lyu2026drq", "oord2018infonce"]),
        (["replay.fade=0.9999"], ["fujimoto2020lap", "lyu2026drq"]),
        (
            ["replay.fade=0.9999", "loss.infonce_coeff=0.1"],
            ["fujimoto2020lap", "lyu2026drq", "oord2018infonce"],
        ),
        (["loss.exploration_noise_repeat=4"], ["fujimoto2020lap", "flashsac2026"]),
    ],
)
def test_an_option_brings_its_source(settings: list[str], sources: list[str], tmp_path: Path) -> None:
    found = list(citations_of_run(run_of(tmp_path, "gym/CartPole-v1", *settings)))
    assert found == [*OURS, *sources, "bou2023torchrl", *GYM]


@pytest.mark.parametrize(
    ("agent", "papers"),
    [
        ("td3", ["fujimoto2018td3"]),
        ("sac", ["haarnoja2018sac", "haarnoja2018applications"]),
        ("dqn", ["mnih2015dqn"]),
    ],
)
def test_a_run_of_another_agent_names_that_one(agent: str, papers: list[str], tmp_path: Path) -> None:
    found = list(citations_of_run(run_of(tmp_path, agent=agent, peer={})))
    assert found == ["uld_torchrl", *papers, "bou2023torchrl", *GYM]


def test_a_run_of_an_earlier_version_lacks_the_newer_settings(tmp_path: Path) -> None:
    old = {"loss": {}, "replay": {"lap_alpha": 0.4}}
    assert "fujimoto2020lap" in citations_of_run(run_of(tmp_path, config=old))


def test_the_library_entry_and_the_papers_agree_with_the_citation_file() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    entries = parsed("\n".join(library_citations().values()))
    titles = re.findall(r'^\s*(?:- )?title: "(.+)"$', text, re.MULTILINE)
    assert [fields["title"] for fields in entries.values()] == [f"{{{title}}}" for title in titles]
    assert (
        entries["uld_torchrl"]["note"] == f"Software, version {re.findall(r'^version: (.+)$', text, re.M)[0]}"
    )
    names = re.findall(r'family-names: "?([\w\']+)"?\n\s+given-names: "?(\w+)"?', text)
    cited = [name for fields in list(entries.values())[1:] for name in fields["author"].split(" and ")]
    assert cited == [f"{family}, {given}" for family, given in names]
    assert [fields["eprint"] for fields in list(entries.values())[1:]] == re.findall(r"arXiv:([\d.]+)", text)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "does not describe a run"),
        ("{", "config.json"),
        ('{"env_id": "gym/X"}', "does not describe a run"),
        ('{"env_id": 3, "config": {"loss": {}, "replay": {"lap_alpha": 0}}}', "does not describe a run"),
        ('{"env_id": "gym/X", "agent": "ppo"}', "does not describe a run"),
        ('{"env_id": "gym/X", "agent": ["td3"]}', "does not describe a run"),
    ],
)
def test_a_damaged_description_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=reason):
        citations_of_run(tmp_path)


def test_uld_cite_prints_the_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite"]) == 0
    assert list(parsed(capsys.readouterr().out)) == OURS
    assert main(["cite", str(run_of(tmp_path, "dmc/cartpole-swingup"))]) == 0
    assert list(parsed(capsys.readouterr().out))[-2:] == DMC


def test_uld_cite_of_no_run_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"uld: error: {tmp_path} is not a run directory (it has no config.json).\n"


def test_citing_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from uld_torchrl.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    )
    run = str(run_of(tmp_path, "gym/Ant-v5"))
    done = subprocess.run(
        [sys.executable, "-c", code, "cite", run], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "todorov2012mujoco" in done.stdout
