"""The command ``python -m theory``: the catalogue, and a report on a named problem.

Exit code 0; 1 if an expectation or a theorem fails; 2 for arguments that cannot be used, with one message
on standard error. Only this file prints.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from theory import catalogue
from theory.chains import state_chain
from theory.errors import InputError
from theory.features import Features
from theory.graphs import recurrent_classes
from theory.mdp import TabularMDP
from theory.optimality import optimal
from theory.policy import Policy
from theory.problem import Problem
from theory.problem_report import problem_report
from theory.report import Report
from theory.weights import Weights
from theory.worlds import cliff_walking, frozen_lake, random_walk, river_swim

MDPS: dict[str, Callable[[float], TabularMDP]] = {
    "frozenlake4x4": lambda gamma: frozen_lake("4x4", gamma),
    "frozenlake8x8": lambda gamma: frozen_lake("8x8", gamma),
    "cliffwalking": cliff_walking,
    "riverswim": lambda gamma: river_swim(6, gamma),
    "randomwalk": lambda gamma: random_walk(19, gamma),
}


def _stationary(mdp: TabularMDP, policy: Policy) -> Weights:
    """Return the stationary weights; where every run ends, those of starting again, which are episodic."""
    chain = state_chain(mdp, policy)
    lasting = recurrent_classes(chain.P, chain.leaves)
    return Weights.stationary(mdp, policy) if lasting else Weights.episodic(mdp, policy)


WEIGHTS: dict[str, Callable[[TabularMDP, Policy], Weights]] = {
    "uniform": lambda mdp, policy: Weights.uniform(mdp),
    "stationary": _stationary,
    "discounted": Weights.discounted,
    "episodic": Weights.episodic,
}
POLICIES = "uniform, optimal, epsilon:NUMBER (optimal, with that chance of a random action)"
FEATURES = "one_hot, random:D, random:D:SEED, svd:D, krylov:D"
T = TypeVar("T")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End with one message and no usage text."""
        self.exit(2, f"python -m theory: error: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Example:
        >>> main(["report", "--mdp", "nowhere", "-o", "out"])
        2
    """
    parsed = _parser().parse_args(arguments)
    try:
        return _report(parsed) if parsed.command == "report" else _catalogue()
    except (InputError, OSError) as error:
        print(f"python -m theory: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m theory", description="Theorems behind latent-dynamics agents, checked.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("catalogue", help="compute every problem with a known outcome again")
    report = commands.add_parser("report", help="report on one problem", allow_abbrev=False)
    report.add_argument("--mdp", required=True, help=", ".join(MDPS))
    report.add_argument("--policy", default="uniform", help=POLICIES)
    report.add_argument("--features", default="one_hot", help=FEATURES)
    report.add_argument(
        "--weights",
        default="uniform",
        help=f"{', '.join(WEIGHTS)}; stationary where every run ends: of starting again (episodic)",
    )
    report.add_argument("--gamma", type=float, default=0.99, help="discount in [0, 1]")
    report.add_argument(
        "-o", "--output", type=Path, required=True, help="directory for report.md and report.json"
    )
    return parser


def _catalogue() -> int:
    reports = catalogue.run_all()
    print("| id | verdict | expected | ok |", "|---|---|---|---|", *map(_row, reports), sep="\n")
    wrong = [report for report in reports if not report]
    print(f"\n{len(reports) - len(wrong)} of {len(reports)} as expected.")
    for report in wrong:
        for condition in report.conditions:
            if not condition.holds:
                print(f"{report.data['id']} {report.data['name']}, {condition.name}: {condition.why}")
    return 1 if wrong else 0


def _row(report: Report) -> str:
    data, good = report.data, sum(bool(condition.holds) for condition in report.conditions)
    words = [name for name in ("verdict", "fixed_point", "td", "rollout") if name in data["expected"]]
    found, expected = (_words(data[key], words) for key in ("found", "expected"))
    ok = f"{'yes' if report else 'NO'} ({good} of {len(report.conditions)})"
    return f"| {data['id']} {data['name']} | {found} | {expected} | {ok} |"


def _words(outcomes: dict[str, str], names: list[str]) -> str:
    return ", ".join(outcomes[name] if name == "verdict" else f"{name} {outcomes[name]}" for name in names)


def _report(parsed: argparse.Namespace) -> int:
    mdp = _choose("mdp", parsed.mdp, MDPS)(parsed.gamma)
    policy = _policy(parsed.policy, mdp)
    weights = _choose("weights", parsed.weights, WEIGHTS)(mdp, policy)
    problem = Problem(mdp, policy, _features(parsed.features, mdp, policy), weights)
    chosen = f"{parsed.policy} policy, {parsed.features} features, {weights.kind} weights"
    report = problem_report(problem, f"{parsed.mdp} ({chosen}, gamma {parsed.gamma:g})")
    parsed.output.mkdir(parents=True, exist_ok=True)
    (parsed.output / "report.md").write_text(report.to_markdown() + "\n", "utf-8")
    (parsed.output / "report.json").write_text(report.to_json() + "\n", "utf-8")
    print(report.to_markdown().splitlines()[0])
    return 1 if report.verdict == "fail" else 0


def _choose(option: str, value: str, table: dict[str, T]) -> T:
    if value not in table:
        raise InputError(f"--{option} must be one of {', '.join(table)}; got {value!r}.")
    return table[value]


def _policy(value: str, mdp: TabularMDP) -> Policy:
    kind, *numbers = value.split(":")
    if kind == "uniform" and not numbers:
        return Policy.uniform(mdp)
    if kind == "optimal" and not numbers:
        return optimal(mdp).policy
    if kind == "epsilon" and len(numbers) == 1:
        return Policy.epsilon_greedy(optimal(mdp).q, _number("policy", value, numbers[0], float))
    raise InputError(f"--policy must be one of {POLICIES}; got {value!r}.")


def _features(value: str, mdp: TabularMDP, policy: Policy) -> Features:
    kind, *numbers = value.split(":")
    counts = [_number("features", value, number, int) for number in numbers]
    if kind == "one_hot" and not counts:
        return Features.one_hot(mdp)
    if kind == "random" and len(counts) in (1, 2):
        return Features.random(mdp, counts[0], seed=counts[1] if len(counts) == 2 else 0)
    if kind == "svd" and len(counts) == 1:
        return Features.svd(mdp, policy, counts[0])
    if kind == "krylov" and len(counts) == 1:
        return Features.krylov(mdp, policy, counts[0])
    raise InputError(f"--features must be one of {FEATURES}; got {value!r}.")


def _number(option: str, value: str, text: str, kind: Callable[[str], T]) -> T:
    try:
        return kind(text)
    except ValueError as error:
        raise InputError(f"--{option} {value}: {text!r} is not a number.") from error


if __name__ == "__main__":
    sys.exit(main())
