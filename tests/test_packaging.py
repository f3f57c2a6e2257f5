"""The wheel holds both packages and nothing else; light modules are free of torch; versions agree."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import uld_torchrl

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("uld_torchrl", "theory")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel as `pip wheel` does, through hatchling's own interface."""
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling comes with the extra 'test'")
    folder = tmp_path_factory.mktemp("wheel")
    builder = builders.WheelBuilder(str(ROOT))
    (path,) = builder.build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        yield archive


def source_files():
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    return {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}


def test_wheel_holds_both_packages_and_nothing_else(wheel):
    names = set(wheel.namelist())
    dist_info = {name for name in names if re.match(r"uld_torchrl-[\d.]+\.dist-info/", name)}
    assert names - dist_info == source_files()
    assert "uld_torchrl/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in dist_info)


def test_wheel_installs_the_command(wheel):
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "uld = uld_torchrl.cli:main" in wheel.read(entry_points).decode()


@pytest.mark.parametrize("module", ["theory", "uld_torchrl", "uld_torchrl.config", "uld_torchrl.cli"])
def test_light_modules_do_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or f"import {module} imports torch"


def test_help_does_not_import_torch():
    code = """
import sys
from uld_torchrl.cli import main
sys.argv = ["uld", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("train", "eval", "audit", "info"):
        assert command in done.stdout


def test_theory_is_free_of_the_agent():
    """Arrows point one way only: `theory` names neither torch nor `uld_torchrl` in any import."""
    for path in (ROOT / "theory").rglob("*.py"):
        assert not re.search(
            r"^\s*(import|from)\s+(torch|uld_torchrl)", path.read_text("utf-8"), re.MULTILINE
        )


def test_version_agrees_with_the_citation():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert cited
    assert cited[1] == uld_torchrl.__version__ == metadata.version("uld-torchrl")


def test_readme_gives_the_two_commands_and_ci_runs_the_second():
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(r"^```bash\n(.+)\n```$", readme.split("## Results")[0], re.MULTILINE)
    assert commands == ["pip install -e . && uld train", 'pip install -e ".[test]" && pytest']
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert 'pip install --quiet -e ".[test]"' in script
    assert re.search(r"^pytest \|\| ", script, re.MULTILINE)
