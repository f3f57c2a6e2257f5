r"""Solves with :math:`I - \gamma P` for a sub-stochastic ``P``, each with a bound on its error.

The bound is computed after the fact and does not trust the solver. With :math:`G = (I - \gamma P)^{-1}`,
non-negative because the matrix is an M-matrix, an approximate solution ``x`` of ``x = b + gamma P x``
misses the true one by at most ``H`` times its residual in the sup norm, ``H`` the largest row sum of
``G``; and any ``h >= 0`` with ``(I - gamma P) h >= delta > 0`` proves ``H <= max(h) / delta``. The
rounding of the residual itself is added. ``H`` is 1 / (1 - gamma) only if nothing terminates, and is
finite at gamma = 1 if everything does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import lapack
from scipy.sparse import csgraph
from scipy.sparse import linalg as sparse_linalg

from theory.chains import LEAK as LEAK
from theory.chains import PairChain, longest_row
from theory.checks import EPS, Array, Bools, Matrix, row_sums, to_dense
from theory.errors import InputError
from theory.graphs import never_ending

SOLVERS = ("auto", "dense", "sparse", "iterative")
DENSE_LIMIT = 2000  # up to here dense LU is the fastest, whatever the graph
FILL_LIMIT = 2e7  # estimated entries of a sparse LU factor that is still worth it


@dataclass(frozen=True, eq=False)
class Solved:
    """A solution with its certificate.

    Attributes:
        x: (m,).
        error_bound: sup norm of the error for :meth:`Resolvent.solve`, 1-norm for the transpose;
            infinite where nothing can be certified.
        solver: ``dense``, ``sparse``, ``bicgstab``, ``gmres`` or ``neumann``.
        iterations: of the iterative solver; 0 for a factorisation.
    """

    x: Array
    error_bound: float
    solver: str
    iterations: int


class _Solver:
    """Solves with I - gamma P by whatever means, certified afterwards."""

    P: Any
    gamma: float
    m: int
    operations: int

    def _raw(self, b: Array, *, transposed: bool) -> tuple[Array, str, int]:
        """Return an approximate solution, the solver that found it, and its iterations."""
        raise NotImplementedError

    @cached_property
    def H(self) -> float:
        """An upper bound on the largest row sum of ``G``, infinite if none could be proved."""
        h, _, _ = self._raw(np.ones(self.m), transposed=False)
        slack = self._rounding(np.zeros(self.m), h, self.P, self._terms)
        delta = float(np.min(h - self.gamma * (self.P @ h) - slack))
        if not (delta > 0.0 and h.min() >= 0.0):
            return float("inf")
        return float(h.max() / delta) * (1.0 + 4.0 * EPS)

    def solve(self, b: Array) -> Solved:
        """Return ``G b``; the bound is on its sup norm.

        Example:
            >>> Resolvent(np.array([[0.5]]), 1.0).solve(np.array([3.0])).x
            array([6.])
        """
        with np.errstate(over="ignore", invalid="ignore"):
            x, solver, iterations = self._raw(b, transposed=False)
            miss = np.abs(b + self.gamma * (self.P @ x) - x) + self._rounding(b, x, self.P, self._terms)
        if not np.isfinite(x).all() and np.abs(b).max() > 1e100:
            raise InputError(
                f"Values of rewards up to {np.abs(b).max():g} exceed float64; divide the rewards by 1e100."
            )
        return Solved(x, _bound(self.H, float(miss.max())), solver, iterations)

    def approximate(self, b: Array, *, transposed: bool = False) -> Array:
        """Return ``G b``, or its transpose times ``b``, to about eight digits and without a bound."""
        return self._raw(b, transposed=transposed)[0]

    def solve_transposed(self, b: Array) -> Solved:
        """Return the transpose of ``G`` times ``b``; the bound is on the sum of absolute errors.

        Example:
            >>> Resolvent(np.array([[0.0, 1.0], [0.0, 0.0]]), 1.0).solve_transposed(np.array([1.0, 0.0])).x
            array([1., 1.])
        """
        x, solver, iterations = self._raw(b, transposed=True)
        P = self.P.T
        miss = np.abs(b + self.gamma * (P @ x) - x) + self._rounding(b, x, P, self._terms_transposed)
        return Solved(x, _bound(self.H, float(miss.sum()) * (1.0 + self.m * EPS)), solver, iterations)

    @cached_property
    def _terms(self) -> int:
        """The number of terms in an entry of a product with ``P``."""
        return longest_row(self.P)

    @cached_property
    def _terms_transposed(self) -> int:
        return longest_row(self.P.T)

    def _rounding(self, b: Array, x: Array, P: Any, terms: int) -> Array:
        """Bound the rounding in ``b + gamma P x - x``: EPS is twice the unit roundoff, so with room."""
        size = np.abs(b) + self.gamma * (P @ np.abs(x)) + np.abs(x)
        return np.asarray((terms + self.operations + 6) * EPS * size)


class Resolvent(_Solver):
    r""":math:`G = (I - \gamma P)^{-1}` as an operator.

    Args:
        P: (m, m) non-negative, row sums at most one.
        gamma: discount in [0, 1].
        solver: ``dense`` (LU), ``sparse`` (sparse LU), ``iterative`` (BiCGSTAB, then GMRES, then the
            Neumann series), or ``auto``: dense up to 2000 rows, then sparse if the graph is local.
        leaves: (m,) flags of the rows from which the run may end; taken from the row sums if None.
        name: turns a row into words, for the message.
        operations: roundings already in the entries of ``P`` and ``b``, added to the bound.

    Raises:
        InputError: gamma is 1 and from some row the run never ends (the message names it), an
            unknown solver, or a matrix that is singular in floating point.

    Example:
        >>> solved = Resolvent(np.array([[0.0, 1.0], [0.0, 0.0]]), 1.0).solve(np.ones(2))
        >>> solved.x, solved.error_bound < 1e-13
        (array([2., 1.]), True)
    """

    def __init__(
        self,
        P: Matrix,
        gamma: float,
        solver: str = "auto",
        leaves: Bools | None = None,
        name: Callable[[int], str] = lambda row: f"row {row}",
        operations: int = 0,
    ) -> None:
        if solver not in SOLVERS:
            raise InputError(f"solver must be one of {', '.join(SOLVERS)}; got {solver!r}.")
        self.P, self.gamma, self.m = P, gamma, int(P.shape[0])
        self.operations = operations
        if gamma == 1.0:
            check_proper(P, leaves, name)
        self.solver = self._choose() if solver == "auto" else solver

    def _raw(self, b: Array, *, transposed: bool) -> tuple[Array, str, int]:
        if self.solver == "iterative":
            return _iterate(self.P.T if transposed else self.P, self.gamma, b)
        x = self._factor(b, transposed)
        matrix = self.P.T if transposed else self.P
        return x + self._factor(b + self.gamma * (matrix @ x) - x, transposed), self.solver, 0

    def approximate(self, b: Array, *, transposed: bool = False) -> Array:
        """Return ``G b``, or its transpose times ``b``, to about eight digits and without a bound."""
        if self.solver == "iterative":
            P = self.P.T if transposed else self.P
            x, _ = _krylov("bicgstab", P, self.gamma, b, rounds=1)
            if float(np.abs(b + self.gamma * (P @ x) - x).max()) <= 1e-8 * float(np.abs(b).max()):
                return x
        return self._raw(b, transposed=transposed)[0]

    @cached_property
    def _factor(self) -> Callable[[Array, bool], Array]:
        """A solve with the factored matrix, or with its transpose."""
        if self.solver == "dense":
            lu, pivots, info = lapack.dgetrf(np.eye(self.m) - self.gamma * to_dense(self.P))
            if info > 0:
                raise _singular()
            return lambda b, transposed: np.asarray(lapack.dgetrs(lu, pivots, b, trans=int(transposed))[0])
        matrix = sparse.eye_array(self.m, format="csc") - self.gamma * sparse.csc_array(self.P)
        try:
            factor = sparse_linalg.splu(sparse.csc_array(matrix))
        except RuntimeError as error:
            raise _singular() from error
        return lambda b, transposed: np.asarray(factor.solve(b, trans="T" if transposed else "N"))

    def _choose(self) -> str:
        if self.m <= DENSE_LIMIT:
            return "dense"
        widest = int(min(self.m / 4, FILL_LIMIT / (2.0 * self.m)))
        local = not _spreads(self.P, widest) and _bandwidth(self.P) <= widest
        return "sparse" if local else "iterative"


class PairResolvent(_Solver):
    r""":math:`G=(I-\gamma P\Pi)^{-1}` over state-action rows, solved over states and certified over rows.

    .. math:: G = I + \gamma P(I-\gamma\Pi P)^{-1}\Pi

    Args:
        chain: over n rows of m states.
        gamma: discount in [0, 1].
        solver: as for :class:`Resolvent`, over the states.

    Raises:
        InputError: as for :class:`Resolvent`; the message names states.

    Example:
        >>> from theory.chains import bare_chain
        >>> PairResolvent(bare_chain(np.array([[0.5]])), 1.0).solve(np.array([3.0])).x
        array([6.])
    """

    def __init__(self, chain: PairChain, gamma: float, solver: str = "auto") -> None:
        leaves = None if chain.names is None else chain.state_leaves
        self._states = Resolvent(chain.over_states(), gamma, solver, leaves, chain.name)
        self.P, self.gamma, self.m = chain, gamma, chain.shape[0]
        self.operations = chain.probs.shape[1] + 1
        self.solver = self._states.solver

    def _raw(self, b: Array, *, transposed: bool) -> tuple[Array, str, int]:
        y, solver, iterations = self._states._raw(self._to_states(b, transposed), transposed=transposed)
        return self._to_rows(b, y, transposed), solver, iterations

    def approximate(self, b: Array, *, transposed: bool = False) -> Array:
        """Return ``G b``, or its transpose times ``b``, to about eight digits and without a bound."""
        y = self._states.approximate(self._to_states(b, transposed), transposed=transposed)
        return self._to_rows(b, y, transposed)

    def _to_states(self, b: Array, transposed: bool) -> Array:
        return np.asarray(self.P.P.T @ b) if transposed else self.P.average(b)

    def _to_rows(self, b: Array, y: Array, transposed: bool) -> Array:
        return b + self.gamma * (self.P.spread(y) if transposed else np.asarray(self.P.P @ y))

    @cached_property
    def _terms(self) -> int:
        return longest_row(self.P.P)

    @cached_property
    def _terms_transposed(self) -> int:
        return longest_row(self.P.P.T)


def check_proper(P: Matrix, leaves: Bools | None, name: Callable[[int], str]) -> None:
    """Raise if from some row the run never ends: values at gamma = 1 would not exist.

    Raises:
        InputError: such rows; the message names up to five.

    Example:
        >>> check_proper(np.array([[0.5]]), None, str)
    """
    ends = row_sums(P) < 1.0 - LEAK if leaves is None else leaves
    stuck = np.flatnonzero(never_ending(P, ends))
    if len(stuck):
        named = ", ".join(name(int(row)) for row in stuck[:5]) + (", ..." if len(stuck) > 5 else "")
        raise InputError(
            f"gamma is 1 and the run never ends from {named}: values do not exist. "
            "Use gamma < 1, mark terminal states, or a policy that reaches them."
        )


def _bound(H: float, miss: float) -> float:
    """Return ``H * miss`` rounded up; infinite if either is not a number."""
    product = H * miss * (1.0 + 4.0 * EPS)
    return product if np.isfinite(product) else float("inf")


def _singular() -> InputError:
    return InputError(
        "I - gamma P is singular in floating point: the chance to end is too small for gamma = 1."
    )


def _spreads(P: Matrix, width: int) -> bool:
    """Return whether steps from one row reach too many rows for that half bandwidth; cheap, may miss it.

    With half bandwidth w, whatever the order, k steps reach at most 2 k w + 1 rows.
    """
    graph = sparse.csr_array(P)
    reached = np.zeros(graph.shape[0], dtype=bool)
    front = np.array([int(np.diff(graph.indptr).argmax())])
    reached[front] = True
    for steps in range(1, 100):
        ahead = np.unique(graph[front].indices)
        front = ahead[~reached[ahead]]
        reached[front] = True
        if np.count_nonzero(reached) > 2 * steps * width + 1:
            return True
        if not len(front):
            break
    return False


def _bandwidth(P: Matrix) -> int:
    """Return the half bandwidth of the graph in reverse Cuthill-McKee order, a measure of locality."""
    graph = sparse.csr_array(P)
    place = np.argsort(csgraph.reverse_cuthill_mckee(graph + graph.T, symmetric_mode=True))
    edges = sparse.coo_array(graph)
    return int(np.abs(place[edges.row] - place[edges.col]).max(initial=0))


def _iterate(P: Matrix, gamma: float, b: Array) -> tuple[Array, str, int]:
    """Return the first of three iterative solutions whose residual is small, else the best."""
    best: tuple[float, Array, str, int] | None = None
    for name, method in (("bicgstab", _krylov), ("gmres", _krylov), ("neumann", _neumann)):
        x, iterations = method(name, P, gamma, b)
        miss = float(np.abs(b + gamma * (P @ x) - x).max())
        if np.isfinite(miss) and (best is None or miss < best[0]):
            best = (miss, x, name, iterations)
        if miss <= 64.0 * EPS * float(np.abs(x).max(initial=1.0)):
            break
    if best is None:
        raise _singular()
    return best[1:]


def _krylov(name: str, P: Matrix, gamma: float, b: Array, rounds: int = 3) -> tuple[Array, int]:
    """Solve by a Krylov method, refining on the residual in so many rounds or until only rounding is left."""
    operator = sparse_linalg.LinearOperator(
        P.shape, matvec=lambda x: x.reshape(-1) - gamma * (P @ x.reshape(-1)), dtype=np.float64
    )
    count = [0]

    def tick(_: Any) -> None:
        count[0] += 1

    options: dict[str, Any] = {"rtol": 1e-10, "maxiter": 1000, "callback": tick}
    if name == "gmres":
        options |= {"callback_type": "pr_norm", "restart": 50, "maxiter": 40}
    solve = getattr(sparse_linalg, name)
    x = np.zeros(len(b))
    for _ in range(rounds):
        residual = b + gamma * (P @ x) - x
        if float(np.abs(residual).max()) <= 16.0 * EPS * float(np.abs(x).max()):  # but rounding
            break
        step, _ = solve(operator, residual, atol=EPS * float(np.linalg.norm(x)), **options)
        if not np.isfinite(step).all():
            break
        x = x + step
    return x, count[0]


def _neumann(_: str, P: Matrix, gamma: float, b: Array, limit: int = 100_000) -> tuple[Array, int]:
    """Iterate ``x <- b + gamma P x`` until it stands still in floating point."""
    x = b
    for count in range(1, limit + 1):
        following = b + gamma * (P @ x)
        if float(np.abs(following - x).max()) <= 2.0 * EPS * float(np.abs(following).max()):
            return following, count
        x = following
    return x, limit
