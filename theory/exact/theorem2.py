r"""Theorem 2 proved on a problem of fractions: the three parts, and every bound in supremum form.

The identity :math:`Zw-Q^\pi=G[\epsilon_r+\gamma\epsilon_dw+Z(w-w_r-\gamma W_dw)]` and the ladder of bounds
are stated in ``theory.value_error`` and ``theory.bounds``. Only sums, products and absolute values occur, so
all of it is rational: each (in)equality holds or it does not, at every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from theory.errors import InputError
from theory.exact.backend import current
from theory.exact.linear import apply, minus, product, solve
from theory.exact.optimality import policy_values
from theory.exact.problem import ExactProblem, check_exact, check_size
from theory.exact.rationals import ExactMatrix, ExactVector, as_given, as_text, listed, nearest_float
from theory.exact.system import (
    ExactModel,
    check_model,
    exact_model,
    exact_system,
    model_solutions,
    td_solutions_in_row_space,
)
from theory.exact.theorem1 import finite_returns
from theory.report import Condition, Report

if TYPE_CHECKING:
    from theory.problem import Problem

THEOREM = "Theorem 2 in exact arithmetic (value error = reward + dynamics + planning part)"
UNSOLVABLE = "(I - gamma W_d) w = w_r has no solution"


@dataclass(frozen=True)
class ExactSplit:
    r"""The value error, its three parts, and the bounds, in fractions; the names of ``theory.bounds``.

    Attributes:
        error: (n,), :math:`Zw-Q^\pi`.
        reward: (n,), :math:`G\epsilon_r`.
        dynamics: (n,), :math:`\gamma G\epsilon_dw`.
        planning: (n,), what is left because w does not solve the model's equation; zero at a solution.
        q_true: (n,), :math:`Q^\pi`.
        w: (d,), the weights in question.
        H: :math:`\|G\|_\infty`.
        pointwise: B1, B2, B25 and B3, each (n,); they bound the error where ``planning`` is zero.
        supremum: lower, S1, S2, S25, S3 and published.
    """

    error: ExactVector
    reward: ExactVector
    dynamics: ExactVector
    planning: ExactVector
    q_true: ExactVector
    w: ExactVector
    H: Fraction
    pointwise: dict[str, ExactVector]
    supremum: dict[str, Fraction]

    @property
    def holds(self) -> bool:
        """Whether the error is the sum of its parts, at every row."""
        return all(
            e == r + d + p
            for e, r, d, p in zip(self.error, self.reward, self.dynamics, self.planning, strict=True)
        )


def exact_value_error(
    problem: ExactProblem,
    *,
    w: Sequence[Any] | None = None,
    model: ExactModel | None = None,
    Z_next: Sequence[Sequence[Any]] | None = None,
) -> ExactSplit:
    r"""Split :math:`Zw-Q^\pi` into its parts and compute the bounds, in fractions.

    Args:
        problem: n rows, d features.
        w: (d,), any value weights, floats at their exact binary value; default: the solution of the model's
            equation, the one of least norm if there are many.
        model: any linear model; default: the least-squares fit.
        Z_next: (n, d), expected next features from elsewhere, to be audited; default: P Z. Floats are taken
            at their exact binary value: 0.1 is not 1/10 and is refuted where P Z is 1/10.

    Raises:
        InputError: :math:`Q^\pi` is infinite; or no w is given and the model's equation has no solution.

    Example:
        >>> chain = ExactProblem.from_chain([[0, 1], [0, 1]], [1, 1], [1, 2], ["1/2", "1/2"], "1/2")
        >>> split = exact_value_error(chain)
        >>> split.error, split.holds, split.supremum["published"]
        ([Fraction(-1, 2), Fraction(1, 1)], True, Fraction(16, 5))
    """
    check_exact(problem)
    if not finite_returns(problem).holds:
        raise InputError(
            "Q is infinite: gamma is 1 and some row never ends. Use gamma below 1, or a policy that ends."
        )
    model = exact_model(exact_system(problem)) if model is None else check_model(model, problem.d)
    weights = _weights(problem, model, w)
    one_step = _residuals(problem, model, weights, Z_next)
    return _carried(problem, weights, *one_step)


def prove_value_error(
    problem: Problem | ExactProblem,
    *,
    w: Sequence[Any] | None = None,
    model: ExactModel | None = None,
    Z_next: Sequence[Sequence[Any]] | None = None,
) -> Report:
    r"""Prove the identity of theorem 2 on a problem and, where w solves the model's equation, every bound.

    Args:
        problem: a problem of fractions; one of floats is made exact first (``data["rationalised"]``).
        w: as in :func:`exact_value_error`, as the next two are.
        model: any linear model.
        Z_next: (n, d), expected next features to be audited, floats at their exact binary value.

    Returns:
        A report whose tolerance is 0 and whose residual is the largest violation of the identity. There is
        one condition for the identity and one for each inequality of the ladder; its value is the largest
        amount by which the left side exceeds the right one, not above 0 if it holds. The verdict is "pass" if
        all hold, "fail" if one does not, "inconclusive" if returns are infinite, or no w is given and the
        model's equation has no solution.

    Raises:
        InputError: more rows or features than exact arithmetic can take.

    Example:
        >>> chain = ExactProblem.from_chain([[0, 1], [0, 1]], [1, 1], [1, 2], ["1/2", "1/2"], "1/2")
        >>> report = prove_value_error(chain)
        >>> report.verdict, report.condition("S3 <= published").value
        ('pass', -1.2)
        >>> prove_value_error(chain, Z_next=[[2], ["2.000000000000000000000000000001"]]).verdict
        'fail'
    """
    check_size(problem)
    exact = problem if isinstance(problem, ExactProblem) else ExactProblem.from_problem(problem)
    finite = finite_returns(exact)
    system = exact_system(exact)
    model = exact_model(system) if model is None else check_model(model, exact.d)
    if w is None:
        w = model_solutions(model, exact.gamma, td_solutions_in_row_space(system).w).w
    if w is None or not finite.holds:
        reason = UNSOLVABLE if finite.holds else "returns are infinite"
        return Report(THEOREM, "inconclusive", None, None, (finite,), {"reason": reason})
    split = exact_value_error(exact, w=w, model=model, Z_next=Z_next)
    off = max(
        abs(e - r - d - p)
        for e, r, d, p in zip(split.error, split.reward, split.dynamics, split.planning, strict=True)
    )
    why = "else P, Z', the policy or the treatment of terminal states is wrong"
    residual = nearest_float(off)
    identity = Condition("value error is the sum of its parts", off == 0, residual, 0.0, 0.0 - residual, why)
    rungs = () if any(split.planning) else ladder(split)
    proved = identity.holds and all(rung.holds for rung in rungs)
    return Report(
        theorem=THEOREM,
        verdict="pass" if proved else "fail",
        residual=residual,
        tolerance=0.0,
        conditions=(finite, identity, *rungs),
        data={
            "w": list(map(as_text, split.w)),
            "largest value error": as_text(max(map(abs, split.error))),
            "H": as_text(split.H),
            **{name: as_text(bound) for name, bound in split.supremum.items()},
            "rationalised": [str(change) for change in exact.changes if change.entries] or "nothing",
            "arithmetic": current().name,
        },
    )


def ladder(split: ExactSplit) -> tuple[Condition, ...]:
    """Return every inequality of the ladder as a condition, decided at every row.

    Example:
        >>> chain = ExactProblem.from_chain([[0, 1], [0, 1]], [1, 1], [1, 2], ["1/2", "1/2"], "1/2")
        >>> [rung.name for rung in ladder(exact_value_error(chain)) if not rung.holds]
        []
    """
    n, sup = len(split.error), split.supremum
    points = {"|VE|": [abs(e) for e in split.error], **split.pointwise}
    largest = max(points["|VE|"])
    chain = ("|VE|", "B1", "B2", "B25", "B3")
    pairs = [(f"{a} <= {b}", points[a], points[b]) for a, b in pairwise(chain)]
    pairs += [(f"{b} <= {s}", points[b], [sup[s]] * n) for b, s in zip(chain[1:], SUPREMUM, strict=True)]
    rungs = (*SUPREMUM, "published")
    pairs += [(f"{a} <= {b}", [sup[a]], [sup[b]]) for a, b in pairwise(rungs)]
    pairs.append(("lower <= max |VE|", [sup["lower"]], [largest]))
    return tuple(_rung(*pair) for pair in pairs)


SUPREMUM = ("S1", "S2", "S25", "S3")


def _rung(name: str, left: Sequence[Fraction], right: Sequence[Fraction]) -> Condition:
    excess = max(x - y for x, y in zip(left, right, strict=True))
    value = nearest_float(excess)
    return Condition(name, excess <= 0, value, 0.0, 0.0 - value, "a rung of the ladder of bounds")


def _weights(problem: ExactProblem, model: ExactModel, w: Sequence[Any] | None) -> ExactVector:
    if w is not None:
        given = listed("w", w)
        if len(given) != problem.d:
            raise InputError(f"w must have shape ({problem.d},), got {len(given)} numbers.")
        return [as_given("w", x, f" at entry {i}") for i, x in enumerate(given)]
    found = model_solutions(model, problem.gamma).w
    if found is None:
        raise InputError(f"{UNSOLVABLE}; give w.")
    return list(found)


def _residuals(
    problem: ExactProblem, model: ExactModel, w: ExactVector, Z_next: Sequence[Sequence[Any]] | None
) -> tuple[ExactVector, ExactMatrix, ExactVector]:
    r"""Return :math:`\epsilon_r`, :math:`\epsilon_d` and the one-step planning residual."""
    Z = problem.Z
    following = problem.Z_next
    if Z_next is not None:
        rows = [listed("Z_next", row) for row in listed("Z_next", Z_next)]
        following = [[as_given("Z_next", x, f" at row {i}") for x in row] for i, row in enumerate(rows)]
    if [len(row) for row in following] != [problem.d] * problem.n:
        raise InputError(f"Z_next must have shape ({problem.n}, {problem.d}).")
    rewards = [x - y for x, y in zip(apply(Z, model.w_r), problem.r, strict=True)]
    ahead = apply(model.W_d, w)
    planned = [x - y - problem.gamma * z for x, y, z in zip(w, model.w_r, ahead, strict=True)]
    return rewards, minus(product(Z, model.W_d), following), apply(Z, planned)


def _carried(
    problem: ExactProblem, w: ExactVector, rewards: ExactVector, dynamics: ExactMatrix, planning: ExactVector
) -> ExactSplit:
    """Carry the one-step terms on with G, all in one elimination, and put the split together."""
    gamma = problem.gamma
    ahead = [gamma * x for x in apply(dynamics, w)]
    largest = max(map(abs, w))
    spread = [apply([[abs(x) for x in row] for row in dynamics], list(map(abs, w)))]
    spread.append([largest * sum(map(abs, row)) for row in dynamics])
    bellman = [abs(x + y) for x, y in zip(rewards, ahead, strict=True)]
    steps = {
        "B1": bellman,
        "B2": [abs(x) + abs(y) for x, y in zip(rewards, ahead, strict=True)],
        "B25": [abs(x) + gamma * y for x, y in zip(rewards, spread[0], strict=True)],
        "B3": [abs(x) + gamma * y for x, y in zip(rewards, spread[1], strict=True)],
    }
    ones = [Fraction(1)] * problem.n
    columns = [rewards, ahead, planning, ones, *steps.values()]
    q_true = state_values(problem)
    found = resolvent(problem, columns if q_true else [*columns, list(problem.r)])
    q_true = q_true or found[-1]
    H = max(found[3])
    published = [abs(x) + y for x, y in zip(rewards, spread[1], strict=True)]
    supremum = {name.replace("B", "S"): H * max(step) for name, step in steps.items()}
    return ExactSplit(
        error=[x - y for x, y in zip(apply(problem.Z, w), q_true, strict=True)],
        reward=found[0],
        dynamics=found[1],
        planning=found[2],
        q_true=q_true,
        w=w,
        H=H,
        pointwise=dict(zip(steps, found[4:8], strict=True)),
        supremum={"lower": max(bellman) / (1 + gamma), **supremum, "published": H * max(published)},
    )


def resolvent(problem: ExactProblem, columns: Sequence[ExactVector]) -> list[ExactVector]:
    r"""Return :math:`(I-\gamma P^\pi)^{-1}x` for every given (n,) vector x; returns must be finite.

    Example:
        >>> resolvent(ExactProblem.from_chain([["1/2"]], [1], [1], [1], 1), [[Fraction(3)]])
        [[Fraction(6, 1)]]
    """
    matrix = [[Fraction(int(i == j)) for j in range(problem.n)] for i in range(problem.n)]
    for i, row in enumerate(problem.P):
        for j, p in row.items():
            matrix[i][j] -= problem.gamma * p
    found = solve(matrix, [list(row) for row in zip(*columns, strict=True)])
    if found is None:
        raise ArithmeticError("I - gamma P is singular although returns are finite")
    return [list(column) for column in zip(*found, strict=True)]


def state_values(problem: ExactProblem) -> ExactVector | None:
    r"""Return :math:`Q^\pi` from the values of the states of the problem's MDP; None for a bare chain.

    This does not use the chain over pairs, so comparing with it audits that chain.

    Example:
        >>> state_values(ExactProblem.from_chain([["1/2"]], [1], [1], [1], 1)) is None
        True
    """
    mdp, policy = problem.mdp, problem.policy
    if mdp is None or policy is None or problem.rows is None:
        return None
    actions = len(mdp.r[0])
    states = sorted({row // actions for row in problem.rows})
    v = policy_values(mdp, policy, states)
    return [
        mdp.r[row // actions][row % actions]
        + mdp.gamma * sum((p * v.get(s, Fraction(0)) for s, p in mdp.P[row].items()), Fraction(0))
        for row in problem.rows
    ]
