"""BibTeX of what a run used: the library, papers of the agent and its options, libraries, simulators.

What a run used is read from its config.json. No torch here. Entries hold what is known for certain: authors
are left out where they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium

from uld_torchrl import __version__
from uld_torchrl.errors import InputError
from uld_torchrl.untrusted import read_json

Config = Mapping[str, Any]


def _entry(key: str, kind: str = "misc", **fields: str) -> str:
    lines = [f"  {name:<13} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _arxiv(key: str, number: str, year: int, title: str, author: str | None = None) -> str:
    authors = {} if author is None else {"author": author}
    fields = {**authors, "title": f"{{{title}}}", "year": str(year)}
    url = f"https://arxiv.org/abs/{number}"
    return _entry(key, **fields, eprint=number, archiveprefix="arXiv", url=url)


def _paper(kind: str, key: str, year: int, title: str, author: str, **fields: str) -> str:
    return _entry(key, kind, author=author, title=f"{{{title}}}", year=str(year), **fields)


def _conference(key: str, number: str, year: int, title: str, author: str, booktitle: str) -> str:
    return _paper(
        "inproceedings", key, year, title, author, booktitle=booktitle, eprint=number, archiveprefix="arXiv"
    )


_ICML = "International Conference on Machine Learning (ICML)"
_ENTRIES: dict[str, str] = {
    "uld_torchrl": _entry(
        "uld_torchrl",
        author="{uld-torchrl developers}",
        title="{uld-torchrl: Unified Latent Dynamics and MR.Q on TorchRL}",
        note=f"Software, version {__version__}",
    ),
    "acharjee2026uld": _arxiv(
        "acharjee2026uld",
        "2602.12643",
        2026,
        "Unifying Model-Free Efficiency and Model-Based Representations via Latent Dynamics",
        "Acharjee, Jashaswimalya and Ravindran, Balaraman",
    ),
    "fujimoto2025mrq": _conference(
        "fujimoto2025mrq",
        "2501.16142",
        2025,
        "Towards General-Purpose Model-Free Reinforcement Learning",
        "Fujimoto, Scott and D'Oro, Pierluca and Zhang, Amy and Tian, Yuandong and Rabbat, Michael",
        "International Conference on Learning Representations (ICLR)",
    ),
    "fujimoto2020lap": _conference(
        "fujimoto2020lap",
        "2007.06049",
        2020,
        "An Equivalence between Loss Functions and Non-Uniform Sampling in Experience Replay",
        "Fujimoto, Scott and Meger, David and Precup, Doina",
        "Advances in Neural Information Processing Systems (NeurIPS)",
    ),
    "lyu2026drq": _arxiv(
        "lyu2026drq",
        "2605.11711",
        2026,
        "Debiased Model-based Representations for Sample-efficient Continuous Control",
        "Lyu, Jiafei and Lin, Zichuan and Fujimoto, Scott and Yang, Kai and Chen, Yangkun and Yang, Saiyong "
        "and Lu, Zongqing and Ye, Deheng",
    ),
    "oord2018infonce": _arxiv(
        "oord2018infonce",
        "1807.03748",
        2018,
        "Representation Learning with Contrastive Predictive Coding",
        "van den Oord, Aaron and Li, Yazhe and Vinyals, Oriol",
    ),
    "flashsac2026": _arxiv(
        "flashsac2026",
        "2604.04539",
        2026,
        "FlashSAC: Fast and Stable Off-Policy Reinforcement Learning for High-Dimensional Robot Control",
    ),
    "fujimoto2018td3": _conference(
        "fujimoto2018td3",
        "1802.09477",
        2018,
        "Addressing Function Approximation Error in Actor-Critic Methods",
        "Fujimoto, Scott and van Hoof, Herke and Meger, David",
        _ICML,
    ),
    "haarnoja2018sac": _conference(
        "haarnoja2018sac",
        "1801.01290",
        2018,
        "Soft Actor-Critic: Off-Policy Maximum Entropy Deep Reinforcement Learning with a Stochastic Actor",
        "Haarnoja, Tuomas and Zhou, Aurick and Abbeel, Pieter and Levine, Sergey",
        _ICML,
    ),
    "haarnoja2018applications": _arxiv(
        "haarnoja2018applications",
        "1812.05905",
        2018,
        "Soft Actor-Critic Algorithms and Applications",
        "Haarnoja, Tuomas and others",
    ),
    "mnih2015dqn": _paper(
        "article",
        "mnih2015dqn",
        2015,
        "Human-level control through deep reinforcement learning",
        "Mnih, Volodymyr and others",
        journal="Nature",
        volume="518",
        pages="529--533",
    ),
    "bou2023torchrl": _arxiv(
        "bou2023torchrl",
        "2306.00577",
        2023,
        "TorchRL: A data-driven decision-making library for PyTorch",
        "Bou, Albert and Bettini, Matteo and Dittert, Sebastian and Kumar, Vikash and Sodhani, Shagun and "
        "Yang, Xiaomeng and De Fabritiis, Gianni and Moens, Vincent",
    ),
    "towers2024gymnasium": _arxiv(
        "towers2024gymnasium",
        "2407.17032",
        2024,
        "Gymnasium: A Standard Interface for Reinforcement Learning Environments",
        "Towers, Mark and others",
    ),
    "todorov2012mujoco": _paper(
        "inproceedings",
        "todorov2012mujoco",
        2012,
        "MuJoCo: A physics engine for model-based control",
        "Todorov, Emanuel and Erez, Tom and Tassa, Yuval",
        booktitle="IEEE/RSJ International Conference on Intelligent Robots and Systems (IROS)",
        pages="5026--5033",
    ),
    "tunyasuvunakool2020dmcontrol": _paper(
        "article",
        "tunyasuvunakool2020dmcontrol",
        2020,
        "dm_control: Software and tasks for continuous control",
        "Tunyasuvunakool, Saran and others",
        journal="Software Impacts",
        volume="6",
        pages="100022",
    ),
    "bellemare2013ale": _paper(
        "article",
        "bellemare2013ale",
        2013,
        "The Arcade Learning Environment: An Evaluation Platform for General Agents",
        "Bellemare, Marc G. and Naddaf, Yavar and Veness, Joel and Bowling, Michael",
        journal="Journal of Artificial Intelligence Research",
        volume="47",
        pages="253--279",
    ),
    "machado2018ale": _paper(
        "article",
        "machado2018ale",
        2018,
        "Revisiting the Arcade Learning Environment: Evaluation Protocols and Open Problems for General "
        "Agents",
        "Machado, Marlos C. and Bellemare, Marc G. and Talvitie, Erik and Veness, Joel and Hausknecht, "
        "Matthew and Bowling, Michael",
        journal="Journal of Artificial Intelligence Research",
        volume="61",
        pages="523--562",
    ),
}
_PAPERS = ("acharjee2026uld", "fujimoto2025mrq")
_PEERS = {
    "td3": ("fujimoto2018td3",),
    "sac": ("haarnoja2018sac", "haarnoja2018applications"),
    "dqn": ("mnih2015dqn",),
}
_OPTIONS: tuple[tuple[Callable[[Config], bool], tuple[str, ...]], ...] = (
    (lambda config: config["replay"]["lap_alpha"] > 0, ("fujimoto2020lap",)),
    (lambda config: config["loss"].get("infonce_coeff", 0) > 0, ("lyu2026drq", "oord2018infonce")),
    (lambda config: config["replay"].get("fade", 1) < 1, ("lyu2026drq",)),
    (lambda config: config["loss"].get("exploration_noise_repeat", 1) > 1, ("flashsac2026",)),
)
"""When a setting is in use, and what it is from; runs of earlier versions lack some settings."""


def library_citations() -> dict[str, str]:
    """Return the BibTeX entries of this library and of the two papers it implements, by key.

    Example:
        >>> list(library_citations())
        ['uld_torchrl', 'acharjee2026uld', 'fujimoto2025mrq']
    """
    return _chosen(["uld_torchrl", *_PAPERS])


def citations_of_run(run: Path) -> dict[str, str]:
    """Return the BibTeX entries of what a run used, by key: its agent, options, libraries and simulator.

    Raises:
        InputError: ``run`` is no run directory, or its config.json is damaged.

    Example:
        >>> citations_of_run(Path("runs/nowhere"))
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: runs/nowhere is not a run directory (it has no config.json).
    """
    path = run / "config.json"
    if not path.exists():
        raise InputError(f"{run} is not a run directory (it has no config.json).")
    data = read_json(path)
    try:
        keys = ["uld_torchrl", *_of_agent(data), "bou2023torchrl", *_of_env(data["env_id"])]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} does not describe a run ({type(error).__name__}: {error}).") from error
    return _chosen(keys)


def _chosen(keys: list[str]) -> dict[str, str]:
    return {key: _ENTRIES[key] for key in keys}


def _of_agent(data: Mapping[str, Any]) -> list[str]:
    agent = data.get("agent", "uld")
    name = agent if isinstance(agent, str) else agent["name"]
    if name != "uld":
        return list(_PEERS[name])
    return [*_PAPERS, *(key for used, keys in _OPTIONS if used(data["config"]) for key in keys)]


def _of_env(env_id: str) -> list[str]:
    """Return the simulators of an environment; of those that it merely names nothing is imported."""
    family, _, name = env_id.partition("/")
    if family in ("dmc", "dmc-pixels"):
        return ["tunyasuvunakool2020dmcontrol", "todorov2012mujoco"]
    if family == "atari":
        return ["towers2024gymnasium", "bellemare2013ale", "machado2018ale"]
    spec = gymnasium.registry.get(name) if family == "gym" else None
    simulated = str(getattr(spec, "entry_point", "")).startswith("gymnasium.envs.mujoco")
    return ["towers2024gymnasium", *(["todorov2012mujoco"] if simulated else [])]
