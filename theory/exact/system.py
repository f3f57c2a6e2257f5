r"""TD's matrices, the linear model and the fixed points of both, in fractions.

The pseudo-inverses of ``theory.td`` hold square roots of the weights, but the fit itself is rational: with
the rows of B a rational basis of the row space of :math:`D^{1/2}Z`,

.. math:: w_r=B^\top(BCB^\top)^{-1}Bb,\qquad W_d=B^\top(BCB^\top)^{-1}BX .
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from theory.errors import InputError
from theory.exact.elimination import regular_modulo
from theory.exact.linear import apply, identity, integers, minus, product, row_basis, scaled, solve, transpose
from theory.exact.problem import ExactProblem, check_exact
from theory.exact.rationals import ExactMatrix, ExactVector
from theory.exact.solutions import Solutions, least_norm, solve_all


@dataclass(frozen=True)
class ExactSystem:
    r"""The matrices of expected TD, and the row space of the weighted features.

    Attributes:
        A: (d, d), :math:`C-\gamma X`.
        b: (d,), :math:`Z^\top Dr`.
        C: (d, d), :math:`Z^\top DZ`.
        X: (d, d), :math:`Z^\top DZ'`.
        B: (k, d), a basis of the row space, one vector a row; the identity if k = d.
        gamma: discount.
    """

    A: ExactMatrix
    b: ExactVector
    C: ExactMatrix
    X: ExactMatrix
    B: ExactMatrix
    gamma: Fraction

    @property
    def rank(self) -> int:
        """The dimension k of the row space."""
        return len(self.B)

    def within(self, matrix: ExactMatrix) -> ExactMatrix:
        r"""Return :math:`BMB^\top`, a (d, d) matrix as a form on the row space, (k, k)."""
        if self.rank == len(matrix):
            return matrix
        return product(product(self.B, matrix), transpose(self.B)) if self.B else []

    @property
    def gram(self) -> ExactMatrix:
        r"""The Euclidean Gram matrix of the basis, :math:`BB^\top`, (k, k)."""
        return product(self.B, transpose(self.B)) if self.B else []


@dataclass(frozen=True)
class ExactModel:
    r"""A linear model of reward and next features, :math:`r\approx Zw_r`, :math:`Z'\approx ZW_d`.

    Attributes:
        w_r: (d,).
        W_d: (d, d); a row vector of features z is taken to :math:`zW_d`.

    Example:
        >>> ExactModel([Fraction(1)], [[Fraction(1, 2)]]).W_d
        [[Fraction(1, 2)]]
    """

    w_r: ExactVector
    W_d: ExactMatrix


def check_model(model: Any, d: int) -> ExactModel:
    """Return a model, which must be one of fractions for d features.

    Raises:
        InputError: a model of floats, which are not equal to anything, or another number of features.

    Example:
        >>> check_model(ExactModel([Fraction(1)], [[Fraction(1, 2)]]), 1).w_r
        [Fraction(1, 1)]
    """
    if not isinstance(model, ExactModel):
        raise InputError(
            "Exact mode compares for equality: model must be an ExactModel of fractions, got a "
            f"{type(model).__name__}; leave it out for the least-squares fit."
        )
    if [len(model.w_r), *map(len, model.W_d)] != [d] * (d + 1):
        raise InputError(f"model must have w_r of shape ({d},) and W_d of shape ({d}, {d}).")
    for x in (*model.w_r, *(x for row in model.W_d for x in row)):
        if not isinstance(x, int | Fraction):
            raise InputError(f"model must hold fractions, got {x!r}; use Fraction.")
    return model


def exact_system(problem: ExactProblem) -> ExactSystem:
    r"""Return the matrices of expected semi-gradient TD, :math:`w\leftarrow w+\alpha(b-Aw)`, in fractions.

    Raises:
        InputError: the problem is not one of fractions.

    Example:
        >>> chain = ExactProblem.from_chain([[0, 1], [0, 1]], [1, 1], [1, 2], ["1/2", "1/2"], "1/2")
        >>> exact_system(chain).A, exact_system(chain).b
        ([[Fraction(1, 1)]], [Fraction(3, 2)])
    """
    check_exact(problem)
    targets = [[*z, *y, x] for z, y, x in zip(problem.Z, problem.Z_next, problem.r, strict=True)]
    moments, d = problem.moment(problem.Z, targets), problem.d
    C, X, b = ([row[:d] for row in moments], [row[d:-1] for row in moments], [row[-1] for row in moments])
    weighted = [z for z, weight in zip(problem.Z, problem.mu, strict=True) if weight]
    return ExactSystem(minus(C, scaled(problem.gamma, X)), b, C, X, row_basis(weighted), problem.gamma)


def exact_model(system: ExactSystem) -> ExactModel:
    """Return the least-squares model; with dependent features the one of least norm.

    Example:
        >>> chain = ExactProblem.from_chain([[0, 1], [0, 1]], [1, 1], [1, 2], ["1/2", "1/2"], "1/2")
        >>> exact_model(exact_system(chain))
        ExactModel(w_r=[Fraction(3, 5)], W_d=[[Fraction(6, 5)]])
    """
    d = len(system.b)
    if not system.B:
        return ExactModel([Fraction(0)] * d, [[Fraction(0)] * d for _ in range(d)])
    targets = product(system.B, [[x, *row] for x, row in zip(system.b, system.X, strict=True)])
    fit = solve(system.within(system.C), targets)
    if fit is None:
        raise ArithmeticError("the Gram matrix of the features is singular on their row space")
    fit = product(transpose(system.B), fit)
    return ExactModel([row[0] for row in fit], [row[1:] for row in fit])


def td_solutions(system: ExactSystem) -> Solutions:
    """Return all w at which expected TD stands still, A w = b.

    Example:
        >>> singular = ExactProblem.from_chain([[0, 1], [0, 1]], [1, 1], [1, 2], ["1/2", "1/2"], "5/6")
        >>> td_solutions(exact_system(singular)).kind
        'none'
    """
    return solve_all(system.A, system.b, len(system.b))


def td_solutions_in_row_space(system: ExactSystem) -> Solutions:
    r"""Return the TD fixed points in the row space, :math:`w=B^\top y` with :math:`AB^\top y=b`.

    Example:
        >>> chain = ExactProblem.from_chain([[0, 1], [0, 0]], [2, 0], [[1, 0], [0, 1]], [1, 0], 1)
        >>> td_solutions(exact_system(chain)).w, td_solutions_in_row_space(exact_system(chain)).w
        ((Fraction(1, 1), Fraction(-1, 1)), (Fraction(2, 1), Fraction(0, 1)))
    """
    basis = transpose(system.B) or [[] for _ in system.b]
    found = solve_all(product(system.A, basis), system.b, system.rank)
    directions = tuple(tuple(apply(basis, y)) for y in found.directions)
    if found.w is None:
        return Solutions("none", None, directions)
    w = apply(basis, found.w)
    return Solutions(found.kind, least_norm(w, directions), directions)


def model_solutions(model: ExactModel, gamma: Fraction, guess: Sequence[Fraction] | None = None) -> Solutions:
    r"""Return all w with :math:`(I-\gamma W_d)w=w_r`.

    Args:
        model: a linear model.
        gamma: discount.
        guess: tried first, which spares an elimination with long numbers if it is the one solution.

    Example:
        >>> model_solutions(ExactModel([Fraction(1)], [[Fraction(1, 2)]]), Fraction(1)).w
        (Fraction(2, 1),)
    """
    if guess is not None and solves_only(guess, model, gamma):
        return Solutions("unique", tuple(guess), ())
    d = len(model.w_r)
    return solve_all(minus(identity(d), scaled(gamma, model.W_d)), model.w_r, d)


def solves_only(w: Sequence[Fraction], model: ExactModel, gamma: Fraction) -> bool:
    r"""Return whether w is seen to be the one solution of :math:`(I-\gamma W_d)w=w_r`.

    It is substituted, and the matrix is invertible modulo a prime, hence invertible: a proof that never
    eliminates with the long denominators of :math:`W_d`. False says nothing.

    Example:
        >>> model = ExactModel([Fraction(1)], [[Fraction(1, 2)]])
        >>> solves_only([Fraction(2)], model, Fraction(1)), solves_only([Fraction(3)], model, Fraction(1))
        (True, False)
    """
    matrix = minus(identity(len(w)), scaled(gamma, model.W_d))
    return apply(matrix, w) == list(model.w_r) and regular_modulo(integers(matrix)[0])


def h_step_solutions(model: ExactModel, gamma: Fraction, h: int) -> Solutions:
    r"""Return all fixed points of the h-step expansion :math:`w=\sum_{t<h}(\gamma W_d)^tw_r+(\gamma W_d)^hw`.

    Example:
        >>> flip = ExactModel([Fraction(1)], [[Fraction(-1)]])
        >>> [h_step_solutions(flip, Fraction(1), h).kind for h in (1, 2, 3)]
        ['unique', 'affine', 'unique']
    """
    G, d = scaled(gamma, model.W_d), len(model.w_r)
    total, power = [Fraction(0)] * d, identity(d)
    for _ in range(h):
        total = [x + y for x, y in zip(model.w_r, apply(G, total), strict=True)]
        power = product(G, power)
    return solve_all(minus(identity(d), power), total, d)
