r"""Values of states in fractions: of a policy, and of an optimal one, proved optimal.

A policy that floats call optimal is evaluated exactly; if no action is better anywhere, its value solves
Bellman's optimality equation, exactly. The chain over state-action rows is in ``problem``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from theory.errors import InputError
from theory.exact.linear import solve
from theory.exact.mdp import ExactMDP


@dataclass(frozen=True)
class ExactOptimum:
    """An optimal policy and its value.

    Attributes:
        v: (S,), 0 at terminal states.
        actions: (S,), an optimal action of each state.
        steps: how often the given policy had to be improved.
    """

    v: tuple[Fraction, ...]
    actions: tuple[int, ...]
    steps: int


def policy_values(
    mdp: ExactMDP, policy: Sequence[Sequence[Fraction]], states: Sequence[int]
) -> dict[int, Fraction]:
    r"""Return :math:`V^\pi` of live states that are closed under transitions, by state.

    Raises:
        InputError: the value is infinite: gamma is 1 and some run never ends.

    Example:
        >>> from theory.mdp import TabularMDP
        >>> loop = TabularMDP.from_dense([[[1.0]]], [[1.0]], 0.9).to_exact()
        >>> policy_values(loop, [[Fraction(1)]], [0])
        {0: Fraction(10, 1)}
    """
    place, actions = {s: i for i, s in enumerate(states)}, len(mdp.r[0])
    matrix = [[Fraction(int(i == j)) for j in range(len(states))] for i in range(len(states))]
    for s, i in place.items():
        for a, q in enumerate(policy[s]):
            for t, p in mdp.P[s * actions + a].items() if q else ():
                if t in place:
                    matrix[i][place[t]] -= mdp.gamma * q * p
    rewards = [[sum((q * x for q, x in zip(policy[s], mdp.r[s], strict=True)), Fraction(0))] for s in states]
    found = solve(matrix, rewards)
    if found is None:
        raise InputError("The value is infinite: gamma is 1 and some run of this policy never ends.")
    return {s: row[0] for s, row in zip(states, found, strict=True)}


def exact_optimal(mdp: ExactMDP, actions: Sequence[int]) -> ExactOptimum:
    r"""Improve a policy until no action is better; with a good guess nothing is to improve.

    The value v then satisfies :math:`v=\max_a(r+\gamma Pv)`. It is the optimal one if gamma is below 1. At
    gamma = 1, :math:`v\ge T_\sigma^nv` for every policy :math:`\sigma`, and the limit is at least the value
    of :math:`\sigma` if rewards and v are nowhere negative, or if every live reward is negative.

    Raises:
        InputError: at gamma = 1 neither is so, or a run of the policy never ends.

    Example:
        >>> from theory.mdp import TabularMDP
        >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[0.0, 1.0]], 0.9).to_exact()
        >>> exact_optimal(mdp, [0])
        ExactOptimum(v=(Fraction(10, 1),), actions=(1,), steps=1)
    """
    live = [s for s, ends in enumerate(mdp.terminal) if not ends]
    count, chosen, steps = len(mdp.r[0]), list(actions), 0
    while True:
        policy = [[Fraction(int(a == best)) for a in range(count)] for best in chosen]
        v = policy_values(mdp, policy, live)
        better = {s: _best(mdp, v, s, chosen[s]) for s in live}
        if all(better[s] == chosen[s] for s in live):
            break
        steps += 1
        chosen = [better.get(s, a) for s, a in enumerate(chosen)]
    _check_unique(mdp, v, live)
    return ExactOptimum(tuple(v.get(s, Fraction(0)) for s in range(len(mdp.r))), tuple(chosen), steps)


def _best(mdp: ExactMDP, v: dict[int, Fraction], s: int, current: int) -> int:
    """Return the action of largest value, the current one if none is better."""
    count = len(mdp.r[0])
    values = [
        mdp.r[s][a]
        + mdp.gamma * sum((p * v.get(t, Fraction(0)) for t, p in mdp.P[s * count + a].items()), Fraction(0))
        for a in range(count)
    ]
    return current if values[current] == max(values) else values.index(max(values))


def _check_unique(mdp: ExactMDP, v: dict[int, Fraction], live: Sequence[int]) -> None:
    """Raise if the optimality equation may have another solution that is the optimal value."""
    rewards = [x for s in live for x in mdp.r[s]]
    if mdp.gamma < 1 or min((*rewards, *v.values())) >= 0 or max(rewards) < 0:
        return
    raise InputError(
        "At gamma = 1 optimality is proved only if all rewards and values are at least 0, or all rewards are "
        "below 0; use gamma below 1."
    )
