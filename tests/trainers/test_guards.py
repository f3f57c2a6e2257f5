"""Guards that cannot be heeded are refused; what they do is tested where it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import uld_torchrl
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import Guards


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"time_limit": "8h"}, "time_limit must be a number of seconds or None, got '8h'"),
        ({"time_limit": True}, "time_limit must be a number"),
        ({"time_limit": 0}, "time_limit must be greater than zero"),
        ({"time_limit": float("nan")}, "time_limit must be greater than zero"),
        ({"time_limit": float("inf")}, "time_limit must be finite"),
        ({"env_restarts": -1}, "env_restarts must be an integer of at least 0, got -1"),
        ({"env_restarts": 1.0}, "env_restarts must be an integer"),
        ({"env_restarts": True}, "env_restarts must be an integer"),
        ({"on_nonfinite": "ignore"}, "on_nonfinite must be one of stop, skip; got 'ignore'"),
    ],
)
def test_values_that_cannot_be_heeded_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Guards(**given)


def test_numbers_of_numpy_will_do() -> None:
    assert Guards(env_restarts=np.int64(2), time_limit=np.float32(1.5)).env_restarts == 2


def test_guards_of_another_kind_are_refused_before_there_is_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"guards must be a uld_torchrl.trainers.Guards or None"):
        uld_torchrl.train("debug", "CartPole-v1", run_dir=tmp_path, guards={"time_limit": 3})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
