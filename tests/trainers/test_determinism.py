"""What a seed decides: the same seed gives the same run to the last bit on this machine, another one another.

Worker processes are in ``tests/cli/test_commands.py``, mapped files in ``test_buffer_storage.py``, kills in
``test_exact_resume.py`` and ``test_kills.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from killed import outcome

from uld_torchrl.trainers import ULDTrainer

Make = Callable[..., ULDTrainer]


def run(make: Make, root: Path, env: str, seed: int) -> dict[str, bytes]:
    # Whatever was drawn before in this process must not matter.
    torch.rand(int(torch.randint(9, ())))
    trainer = make(root, env, seed=seed, num_envs=2)
    trainer.train()
    trainer.close()
    return outcome(trainer.run.path)


@pytest.mark.parametrize("env", ["gym/CartPole-v1", pytest.param("gym/Pendulum-v1", marks=pytest.mark.slow)])
def test_the_same_seed_is_the_same_run_and_another_seed_another(
    env: str, tmp_path: Path, make_trainer: Make
) -> None:
    one, again, other = (
        run(make_trainer, tmp_path / name, env, seed)
        for name, seed in (("one", 3), ("again", 3), ("other", 4))
    )
    assert one == again
    assert {name for name in one if one[name] != other[name]} >= {
        "model/model.safetensors",
        "metrics.csv",
        "eval.csv",
    }


def test_the_number_of_threads_is_recorded(finished_run: Path) -> None:
    (path,) = finished_run.rglob("environment.txt")
    assert f"threads {torch.get_num_threads()}" in path.read_text().splitlines()
