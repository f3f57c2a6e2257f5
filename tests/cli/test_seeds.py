"""`uld train --seeds`: several runs by one command. The runs are tested with the trainers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest


def test_several_seeds_are_trained_told_one_by_one_and_evaluated(tmp_path: Path, uld: Any) -> None:
    command = ("train", "CartPole-v1", *uld.quick, "--run-dir", tmp_path, "--seeds", "3,0-1")
    outcome = uld(*command)
    assert outcome.code == 0
    *lines, last = outcome.out.splitlines()
    root = tmp_path / "gym/CartPole-v1/debug"
    assert [line.split(" in ")[-1] for line in lines[-3:]] == [str(root / f"seed{k}") for k in (3, 0, 1)]
    returns = [float(line.split()[1]) for line in lines[-3:]]
    told = re.fullmatch(r"return (\S+) \(sd (\S+) over 3 seeds\); next: uld eval (\S+)", last)
    assert told is not None
    mean = sum(returns) / 3
    assert float(told[1]) == pytest.approx(mean, abs=0.11)
    assert float(told[2]) == pytest.approx((sum((x - mean) ** 2 for x in returns) / 2) ** 0.5, abs=0.11)
    assert uld("eval", told[3], "--episodes", "1").code == 0
    again = uld(*command)
    assert [line for line in again.out.splitlines() if line.endswith("is finished")] == [
        f"{root / f'seed{k}'} is finished" for k in (3, 0, 1)
    ]
    assert again.out.splitlines()[-1] == last


def test_one_seed_in_the_list_is_as_with_seed(tmp_path: Path, uld: Any) -> None:
    options = ("train", "CartPole-v1", *uld.quick, "--run-dir")
    listed, plain = (uld(*options, tmp_path / "runs", *seed) for seed in (["--seeds", "2"], ["--seed", "2"]))
    assert (listed.code, plain.code) == (0, 0)
    assert listed.out.splitlines()[-1] == plain.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seeds", "4-1"], "write 1-4"),
        (["--seeds", "one"], "0-9 or 0,2,5-7"),
        (["--seeds", "0-3", "--seed", "4"], "exclude each other"),
        (["--seeds", "0-3", "--seed", "0"], "exclude each other"),
        (["--seeds", "0-1", "--log", "wandb"], "wandb"),
        (["--seeds", "0-1", "--precision", "bfloat16"], "neither compiled nor in bfloat16"),
        (["--seeds", "0-1", "--precision", "tf32"], "tf32 is for CUDA"),
        (["--seed", "1", "--precision", "tf32"], "tf32 is for CUDA"),
        (["--seed", "1", "--compile", "graph"], "CUDA graphs"),
    ],
)
def test_bad_lists_are_refused(tmp_path: Path, uld: Any, options: list[str], words: str) -> None:
    outcome = uld("train", "CartPole-v1", *uld.quick, "--run-dir", tmp_path / "runs", *options)
    assert words in outcome.message
    assert not (tmp_path / "runs").exists()
