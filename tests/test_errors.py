"""``InputError`` and the messages built for it."""

from __future__ import annotations

import pytest

from uld_torchrl.errors import EnvironmentFault, InputError, nearest, one_of


def test_an_input_error_is_a_value_error() -> None:
    assert issubclass(InputError, ValueError)


def test_a_fault_of_an_environment_is_reported_like_bad_input() -> None:
    assert issubclass(EnvironmentFault, InputError)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cartpole", ["cartpole"]),
        ("cartpol", ["cartpole"]),
        ("CartPole", ["cartpole"]),
        ("zzz", []),
        ("", []),
    ],
)
def test_nearest(name: str, expected: list[str]) -> None:
    assert nearest(name, ["walker", "cartpole", "humanoid"]) == expected


def test_nearest_gives_the_best_first_in_their_own_spelling() -> None:
    known = ["HalfCheetah-v4", "HalfCheetah-v5", "Hopper-v4"]
    assert nearest("halfcheetah-v5", known, count=2) == ["HalfCheetah-v5", "HalfCheetah-v4"]
    assert nearest("halfcheetah-v5", known, count=1) == ["HalfCheetah-v5"]


def test_one_of() -> None:
    assert one_of("preset", "mrq", ("uld", "mrq")) == "mrq"
    with pytest.raises(InputError, match=r"^preset must be one of uld, mrq; got 'large'\.$"):
        one_of("preset", "large", (name for name in ("uld", "mrq")))
