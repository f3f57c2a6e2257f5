"""`--mdp catalogue:NAME`: a problem that brings all its parts."""

from __future__ import annotations

import pytest

from theory.__main__ import main


def test_a_problem_of_the_catalogue_can_be_named(capsys):
    assert main(["report", "--mdp", "catalogue:sign_flip"]) == 0
    shown = capsys.readouterr().out
    assert "catalogue:sign_flip" in shown.splitlines()[0] and "rollout converges" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mdp", "catalogue:sign_flop"], "The catalogue has no 'sign_flop'; it has "),
        (
            ["--mdp", "catalogue:sign_flip", "--gamma", "0.5"],
            "--gamma is a part of catalogue:sign_flip already, got 0.5",
        ),
        (
            ["--mdp", "catalogue:sign_flip", "--features", "svd:1"],
            "--features is a part of catalogue:sign_flip",
        ),
    ],
)
def test_what_a_catalogue_problem_brings_cannot_be_chosen(arguments, message, capsys):
    assert main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err
