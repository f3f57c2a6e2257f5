"""Run directories written by hand, for what reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from uld_torchrl.config import override, preset, to_dict
from uld_torchrl.peers import PeerConfig, about_peer, harness_config


def write_run(
    root: Path,
    env: str,
    variant: str,
    seed: int,
    returns: Sequence[float],
    *,
    every: int = 10,
    settings: Sequence[str] = (),
    episodes: int = 10,
    finished: bool = True,
    peer: PeerConfig | None = None,
    action_space: str | None = None,
) -> Path:
    """Write a run with evaluations at every, 2 every, ... of these mean returns, ten seconds apart.

    ``action_space`` is the kind of it, as in "Discrete"; None as earlier versions, which did not say.
    """
    path = root / env / variant / f"seed{seed}"
    path.mkdir(parents=True)
    config = override(preset("small"), [f"run.total_steps={every * max(1, len(returns))}", *settings])
    config = config if peer is None else harness_config(config.run, peer)
    started = {"env_id": env, "seed": seed, "config": to_dict(config), **about_peer(peer)}
    if action_space is not None:
        started["task"] = {"action_space": {"type": action_space}}
    (path / "config.json").write_text(json.dumps(started))
    steps = [every * (k + 1) for k in range(len(returns))]
    rows = [f"{step},{value},0.0,5.0,{episodes}\n" for step, value in zip(steps, returns, strict=True)]
    head = "step,episode_return_mean,episode_return_std,episode_length_mean,episodes\n"
    (path / "eval.csv").write_text(head + "".join(rows))
    timing = [f"{step},{10.0 * (k + 1)},1.0,,\n" for k, step in enumerate(steps)]
    columns = "step,seconds,steps_per_second,checkpoint_seconds,checkpoint_megabytes\n"
    (path / "timing.csv").write_text(columns + "".join(timing))
    (path / "environment.txt").write_text(
        "from step 0\npython 3.0\ntorch 1.0\nfrom step 5\ntorch 2.0\nnumpy 3\n"
    )
    if finished:
        (path / "model").mkdir()
        (path / "model" / "config.json").write_text("{}")
        weights = {"a.weight": torch.zeros(3, 4), "a.bias": torch.zeros(3), "scale": torch.zeros(())}
        save_file(weights, path / "model" / "model.safetensors")
    return path
