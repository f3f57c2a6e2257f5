"""A newcomer's script against the installed wheel: it runs, and mypy --strict finds nothing in it.

The wheel is unpacked into a virtual environment of its own, which sees the packages of this one but not
this checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("first_script.py")
# torch's types take mypy a minute; the newcomer's calls are of this package.
MYPY_SETTINGS = """[mypy]
strict = True
[mypy-torch.*,torchrl.*,tensordict.*]
follow_imports = skip
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the virtual environment with the wheel."""
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling comes with the extra 'test'")
    folder = tmp_path_factory.mktemp("newcomer")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (wheel,) = builders.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # After the wheel's own files on the path, so that an editable install of this checkout is not seen.
    (site / "other-packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin" / "python"


def run(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # Not the installed packages' own start-up files: one of them may lead to this checkout.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_is_what_is_imported(python: Path, tmp_path: Path) -> None:
    done = run(python, "-c", "import uld_torchrl; print(uld_torchrl.__file__)", cwd=tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(python.parents[1]), done.stderr


def test_the_script_runs(python: Path, tmp_path: Path) -> None:
    done = run(python, "-W", "error::UserWarning", str(SCRIPT), str(tmp_path / "runs"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_the_script_is_typed(python: Path, tmp_path: Path) -> None:
    """And a copy of it with two mistakes is refused for these."""
    pytest.importorskip("mypy", reason="mypy comes with the extra 'test'")
    (tmp_path / "mypy.ini").write_text(MYPY_SETTINGS)
    text = SCRIPT.read_text(encoding="utf-8")
    right = ["assert play(agent) < 0", "return uld_torchrl.load(result.path)"]
    wrong = ["agent.predikt({})", "return uld_torchrl.load(result.pathh)"]
    (tmp_path / "right.py").write_text(text, encoding="utf-8")
    for old, new in zip(right, wrong, strict=True):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "wrong.py").write_text(text, encoding="utf-8")
    settings = ("--config-file", "mypy.ini", "--python-executable", str(python))
    done = run(Path(sys.executable), "-m", "mypy", *settings, "right.py", "wrong.py", cwd=tmp_path)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 2, done.stdout + done.stderr
    assert all(error.startswith("wrong.py:") for error in errors)
    assert '"TrainResult" has no attribute "pathh"' in errors[0]
    assert '"Agent" has no attribute "predikt"' in errors[1]
