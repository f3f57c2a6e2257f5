"""``theory`` without torch, the agent or a simulator: every module imports, and the commands run."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = {"numpy", "scipy", "matplotlib"}
REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchrl", "tensordict", "gymnasium", "uld_torchrl"}:
            raise ImportError(f"{name} is out of reach")
sys.meta_path.insert(0, Refuse())
"""


def python(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code against a path that holds this package alone, as a copied folder would be."""
    begin = f"{REFUSE}sys.path.insert(0, {str(cwd)!r})\n"
    command = [sys.executable, "-I", "-c", begin + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    (folder / "theory").symlink_to(ROOT / "theory")
    return folder


def test_every_module_imports_without_torch(alone: Path) -> None:
    code = """
import importlib, pkgutil, theory
names = [each.name for each in pkgutil.walk_packages(theory.__path__, "theory.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""
    done = python(code, cwd=alone)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_a_report_is_written_without_torch(alone: Path, tmp_path: Path) -> None:
    code = "import runpy; runpy.run_module('theory', run_name='__main__')"
    out = tmp_path / "out"
    done = python(code, "report", "--mdp", "catalogue:sign_flip", "-o", str(out), cwd=alone)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "report.md").stat().st_size > 500


def test_the_refusal_of_this_test_refuses(alone: Path) -> None:
    assert "torch is out of reach" in python("import torch", cwd=alone).stderr


def test_third_party_packages_are_those_that_the_page_names() -> None:
    found: set[str] = set()
    for path in (ROOT / "theory").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    assert found - set(sys.stdlib_module_names) - {"theory"} == NEEDED
    page = (ROOT / "docs" / "theory" / "index.md").read_text(encoding="utf-8")
    command = page.partition("`pip install ")[2].partition("`")[0]
    assert set(command.split()) == NEEDED
