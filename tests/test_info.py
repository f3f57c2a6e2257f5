"""``uld info``: complete on this machine, and still an answer where a package or library is absent."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
import warnings
from importlib import metadata

import pytest

from uld_torchrl import info as info_module
from uld_torchrl.info import OPTIONAL, REQUIRED, collect_info, format_info

REAL_VERSION = metadata.version


@pytest.fixture
def no_probe(monkeypatch):
    """Spare the test the process that draws a frame."""
    monkeypatch.setattr(info_module, "_renderer", lambda: {"backend": "egl", "problem": None})


def hide(monkeypatch, *names):
    """Let the named distributions seem absent, and every other one present."""

    def version(name):
        if name in names:
            raise metadata.PackageNotFoundError(name)
        return "9.9"

    monkeypatch.setattr(metadata, "version", version)


def missing(info, name):
    return next((item for item in info["missing"] if item["name"] == name), None)


def test_reports_installed_versions_and_is_json(no_probe):
    info = collect_info()
    assert set(info["packages"]) == set(REQUIRED)
    for name in ("torch", "torchrl", "tensordict", "gymnasium", "mujoco", "dm_control", "numpy", "tyro"):
        assert info["packages"][name] == REAL_VERSION(name)
        assert REAL_VERSION(name) in format_info(info)
    assert json.loads(json.dumps(info)) == info


def test_a_missing_optional_package_names_its_extra(monkeypatch, no_probe):
    hide(monkeypatch, "pytest")
    info = collect_info()
    assert missing(info, "pytest")["fix"] == 'pip install -e ".[test]"'
    assert not missing(info, "pytest")["required"]
    text = format_info(info)
    assert "Missing, optional:" in text
    assert 'pip install -e ".[test]"' in text
    assert "\nMissing:\n" not in text


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_required_package_is_reported(monkeypatch, no_probe, name):
    hide(monkeypatch, name)
    info = collect_info()
    assert info["packages"][name] is None
    assert missing(info, name)["required"]
    assert "\nMissing:\n" in format_info(info)


def test_every_package_missing_still_gives_text(monkeypatch, no_probe):
    hide(monkeypatch, *REQUIRED, *OPTIONAL)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    info = collect_info()
    assert info["cuda"] == []
    assert info["cpu"]["threads"] is None
    assert info["ffmpeg"] is None
    assert missing(info, "ffmpeg")["fix"] == "pip install imageio-ffmpeg"
    assert {item["name"] for item in info["missing"]} >= {*REQUIRED, *OPTIONAL}
    assert re.search(r"^cuda +none$", format_info(info), re.MULTILINE)


def test_torch_that_cannot_be_loaded_is_reported(monkeypatch, no_probe):
    def broken(name):
        raise OSError("libcudart.so.13: cannot open shared object file\nmore")

    monkeypatch.setattr(info_module.importlib, "import_module", broken)
    item = missing(collect_info(), "torch")
    assert item["required"]
    assert item["needed_for"] == "everything (libcudart.so.13: cannot open shared object file)"


def test_nothing_missing_says_so(monkeypatch, no_probe):
    hide(monkeypatch)
    assert format_info(collect_info()).endswith("\nNothing is missing.")


@pytest.mark.parametrize(
    ("backend", "fix"),
    [
        ("egl", "apt-get install libegl1 (Debian, Ubuntu)"),
        ("osmesa", "apt-get install libosmesa6 (Debian, Ubuntu), or leave MUJOCO_GL unset"),
        ("vulkan", "unset MUJOCO_GL, or set it to egl, osmesa or glfw"),
    ],
)
def test_a_renderer_that_fails_says_how_to_get_one(monkeypatch, backend, fix):
    failure = {"backend": backend, "problem": "ImportError: no device"}
    monkeypatch.setattr(info_module, "_renderer", lambda: failure)
    info = collect_info()
    assert missing(info, "renderer")["fix"] == fix
    assert f"{backend}, does not work: ImportError: no device" in format_info(info)


def test_a_frame_is_tried_in_a_process_of_its_own(monkeypatch):
    """The name is refused by MuJoCo itself, so the answer comes from a real attempt."""
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    renderer = info_module._renderer()
    assert renderer["backend"] == "vulkan"
    assert "vulkan" in renderer["problem"]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ((0, "backend=egl\n"), ("egl", None)),
        ((1, "noise\nbackend=egl\nproblem=ImportError: a=b\n"), ("egl", "ImportError: a=b")),
        ((1, "problem=ModuleNotFoundError: torch\n"), ("unknown", "ModuleNotFoundError: torch")),
        ((-11, "backend=egl\n"), ("egl", "drawing a frame ended with exit status -11")),
        (
            subprocess.TimeoutExpired("python", 60),
            ("unknown", "Command 'python' timed out after 60 seconds"),
        ),
    ],
)
def test_outcome_of_the_drawing_process(monkeypatch, outcome, expected):
    def run(command, **options):
        if isinstance(outcome, Exception):
            raise outcome
        return types.SimpleNamespace(returncode=outcome[0], stdout=outcome[1])

    monkeypatch.setattr(info_module.subprocess, "run", run)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    assert tuple(info_module._renderer().values()) == expected


def fake_torch(count, complaint=None):
    def is_available():
        if complaint:
            warnings.warn(complaint, stacklevel=1)
        return count > 0

    properties = types.SimpleNamespace(name="Accelerator 3000", total_memory=16 * 2**30)
    cuda = types.SimpleNamespace(
        is_available=is_available,
        device_count=lambda: count,
        get_device_properties=lambda index: properties,
    )
    return types.SimpleNamespace(cuda=cuda, get_num_threads=lambda: 3)


def test_cuda_devices_are_listed(monkeypatch, no_probe):
    monkeypatch.setitem(sys.modules, "torch", fake_torch(2))
    info = collect_info()
    assert info["cuda"] == ["cuda:0 Accelerator 3000, 16.0 GiB", "cuda:1 Accelerator 3000, 16.0 GiB"]
    assert "torch uses 3 threads" in format_info(info)


def test_an_old_driver_is_reported_not_warned_about(monkeypatch, no_probe):
    complaint = "The NVIDIA driver on your system is too old\nsee the manual"
    monkeypatch.setitem(sys.modules, "torch", fake_torch(0, complaint))
    item = missing(collect_info(), "CUDA")
    assert item["needed_for"] == "training on the GPU (The NVIDIA driver on your system is too old)"
    assert item["fix"] == "update the NVIDIA driver"


def test_ffmpeg_without_a_binary_is_missing(monkeypatch, no_probe):
    def get_ffmpeg_exe():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", types.SimpleNamespace(get_ffmpeg_exe=get_ffmpeg_exe))
    assert missing(collect_info(), "ffmpeg")["needed_for"] == "videos"
