"""What ``uld info`` shows: versions, devices, the renderer, what is missing and how to get it.

Every check tolerates an absent or broken package: this is what a user runs when something does not
work. The renderer is tried in a process of its own, because a bad OpenGL driver can end the whole
process. Text is returned, never printed; :mod:`uld_torchrl.cli` prints it.
"""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Mapping
from importlib import metadata
from typing import Any

REQUIRED = (
    "uld-torchrl",
    "torch",
    "torchrl",
    "tensordict",
    "gymnasium",
    "mujoco",
    "dm_control",
    "ale-py",
    "opencv-python-headless",
    "numpy",
    "matplotlib",
    "tyro",
    "tqdm",
    "safetensors",
    "jaxtyping",
    "imageio",
)
"""Distributions whose version is shown; one that is absent makes the agent unusable."""

OPTIONAL = {
    "pytest": ("the tests", 'pip install -e ".[test]"'),
    "pygame": ("videos of CartPole and its like", 'pip install "gymnasium[classic-control]"'),
}
"""Distribution -> (what it is for, the command that installs it)."""

RENDERER_FIX = {
    "egl": "apt-get install libegl1 (Debian, Ubuntu)",
    "off": "apt-get install libegl1 (Debian, Ubuntu), and leave MUJOCO_GL unset",
    "osmesa": "apt-get install libosmesa6 (Debian, Ubuntu), or leave MUJOCO_GL unset",
    "glfw": "it needs a display: set MUJOCO_GL=egl",
}

# Chooses as make_env does, then draws. Leaves by os._exit: the destructors of some OpenGL contexts
# complain at exit although all is well.
_DRAW_ONE_FRAME = """
import os
try:
    from uld_torchrl.envs import choose_renderer
    print("backend=" + (choose_renderer() or "glfw"), flush=True)
    from dm_control import mujoco
    mujoco.Physics.from_xml_string("<mujoco/>").render(16, 16)
except BaseException as error:
    print("problem=" + type(error).__name__ + ":", str(error).split("\\n")[0], flush=True)
    os._exit(1)
os._exit(0)
"""


def collect_info() -> dict[str, Any]:
    """Return versions, devices, renderer and what is missing, as plain JSON data.

    Keys: ``python``, ``platform``; ``packages`` (name -> version, None where absent); ``cpu`` (``cores``,
    ``threads``); ``cuda`` (one description for each device); ``renderer`` (``backend``; ``problem``, None
    if a frame could be drawn); ``ffmpeg`` (path or None); ``missing`` (``name``, ``needed_for``, ``fix``,
    and ``required``: nothing works without it).

    Example:
        >>> from uld_torchrl.info import collect_info
        >>> sorted(collect_info())
        ['cpu', 'cuda', 'ffmpeg', 'missing', 'packages', 'platform', 'python', 'renderer']
    """
    torch, torch_problem = _import("torch")
    cuda, cuda_problem = _cuda_devices(torch)
    renderer = _renderer()
    ffmpeg = _ffmpeg()
    packages = {name: _version(name) for name in REQUIRED}
    missing = _missing_packages(packages)
    if torch_problem and packages["torch"]:
        missing.append(_missing("torch", f"everything ({torch_problem})", "pip install -e .", required=True))
    if cuda_problem:
        missing.append(_missing("CUDA", f"training on the GPU ({cuda_problem})", "update the NVIDIA driver"))
    if renderer["problem"]:
        fix = RENDERER_FIX.get(renderer["backend"], "unset MUJOCO_GL, or set it to egl, osmesa or glfw")
        missing.append(_missing("renderer", "videos and pixels", fix))
    if not ffmpeg:
        missing.append(_missing("ffmpeg", "videos", "pip install imageio-ffmpeg"))
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "cpu": {"cores": _cores(), "threads": torch.get_num_threads() if torch else None},
        "cuda": cuda,
        "renderer": renderer,
        "ffmpeg": ffmpeg,
        "missing": missing,
    }


def format_info(info: Mapping[str, Any]) -> str:
    """Return the data of :func:`collect_info` as text of two columns.

    Example:
        >>> from uld_torchrl.info import collect_info, format_info
        >>> format_info(collect_info()).splitlines()[0].split()[0]
        'python'
    """
    rows = [("python", f"{info['python']} ({info['platform']})")]
    rows += [(name, version or "missing") for name, version in info["packages"].items()]
    threads = info["cpu"]["threads"]
    cores = f"{info['cpu']['cores']} cores" + (f", torch uses {threads} threads" if threads else "")
    rows += [("cpu", cores)]
    rows += [("cuda", device) for device in info["cuda"] or ["none"]]
    rows += [("renderer", _describe_renderer(info["renderer"])), ("ffmpeg", info["ffmpeg"] or "missing")]
    return "\n".join([*_aligned(rows), "", *_describe_missing(info["missing"])])


def _describe_renderer(renderer: Mapping[str, Any]) -> str:
    state = f"does not work: {renderer['problem']}" if renderer["problem"] else "works"
    return f"{renderer['backend']}, {state}"


def _describe_missing(missing: list[dict[str, Any]]) -> list[str]:
    lines = []
    for title, required in (("Missing:", True), ("Missing, optional:", False)):
        chosen = [item for item in missing if item["required"] is required]
        rows = [(item["name"], f"for {item['needed_for']}: {item['fix']}") for item in chosen]
        lines += [title, *("  " + line for line in _aligned(rows))] if rows else []
    return lines or ["Nothing is missing."]


def _aligned(rows: list[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def _missing(name: str, needed_for: str, fix: str, required: bool = False) -> dict[str, Any]:
    return {"name": name, "needed_for": needed_for, "fix": fix, "required": required}


def _missing_packages(packages: Mapping[str, str | None]) -> list[dict[str, Any]]:
    required = [
        _missing(name, "everything", "pip install -e . (in a checkout of uld-torchrl)", required=True)
        for name, version in packages.items()
        if version is None
    ]
    return required + [
        _missing(name, needed_for, fix)
        for name, (needed_for, fix) in OPTIONAL.items()
        if _version(name) is None
    ]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _import(module: str) -> tuple[Any, str | None]:
    """Return (module, None) or (None, why not); a broken binary raises OSError."""
    try:
        return importlib.import_module(module), None
    except (ImportError, OSError) as error:
        return None, _first_line(error)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cuda_devices(torch: Any) -> tuple[list[str], str | None]:
    """Describe each CUDA device; the second value says what is wrong if torch complains."""
    if torch is None:
        return [], None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    problem = str(caught[0].message).split("\n")[0] if caught and not count else None
    return [_describe_cuda(torch.cuda.get_device_properties(index), index) for index in range(count)], problem


def _describe_cuda(properties: Any, index: int) -> str:
    return f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.1f} GiB"


def _renderer() -> dict[str, Any]:
    """Draw one frame in a process of its own, with the renderer that ``make_env`` chooses."""
    chosen = os.environ.get("MUJOCO_GL") or "unknown"
    command = [sys.executable, "-c", _DRAW_ONE_FRAME]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"backend": chosen, "problem": _first_line(error)}
    said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    problem = said.get("problem", f"drawing a frame ended with exit status {done.returncode}")
    return {"backend": said.get("backend", chosen), "problem": problem if done.returncode else None}


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def _ffmpeg() -> str | None:
    imageio_ffmpeg, _ = _import("imageio_ffmpeg")
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe()) if imageio_ffmpeg else None
    except (RuntimeError, OSError):
        return None
