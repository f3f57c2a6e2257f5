r"""Optimal values by policy iteration, with a proved error bound from both sides.

An action is changed only if the gain exceeds the certified error of the values, so that at gamma = 1
policies stay proper: a cycle without end can only appear if it really pays, and is then reported.

From below, the optimum is at least the certified value of the policy found. From above, with
``gap(s,a) = r + gamma P v - v(s)`` and a drift ``h >= 0`` with ``h(s) - gamma P h >= delta > 0`` for every
action that is nearly optimal, ``v + c h`` with ``c = max gap / delta`` does not increase under any action
(the others are checked one by one), so no policy that ends is worth more. At gamma = 1 free waiting
(closed sets of states with zero reward, such as bumping into a wall of FrozenLake) is first merged
into one state: the value is constant there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from theory.chains import lookahead, state_chain
from theory.checks import EPS, Array, Bools, Ints, frozen
from theory.errors import InputError
from theory.graphs import never_ending
from theory.policy import Policy
from theory.resolvent import Resolvent

if TYPE_CHECKING:
    from theory.mdp import TabularMDP

NEARLY_OPTIMAL = 1e-6  # relative to the largest value; actions worse than this are checked, not drifted
MOST_SWEEPS = 1000


@dataclass(frozen=True, eq=False)
class Optimal:
    """Optimal values and a policy that attains them within the bound.

    Attributes:
        q: (S, A), 0 at terminal states.
        v: (S,), 0 at terminal states; the value of ``policy``.
        policy: deterministic.
        error_bound: no entry of ``q`` or ``v`` is further than this from the optimum; infinite if
            nothing could be proved (gamma = 1 and a reward-free cycle that is not plain waiting).
        solver: as in :class:`theory.Certified`.
        iterations: policies evaluated.
    """

    q: Array
    v: Array
    policy: Policy
    error_bound: float
    solver: str
    iterations: int


def optimal(mdp: TabularMDP, *, solver: str = "auto") -> Optimal:
    r"""Return :math:`Q^*`, :math:`V^*` and an optimal policy.

    At gamma = 1 the optimum is over policies that end from every state.

    Args:
        mdp: the process.
        solver: ``auto``, ``dense``, ``sparse`` or ``iterative``.

    Raises:
        InputError: gamma is 1 and from some state no policy ends, or a cycle pays without end; the
            message names states.

    Example:
        >>> from theory import TabularMDP
        >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[1.0, 0.0]], 0.5)
        >>> best = optimal(mdp)
        >>> best.q, best.policy.probs
        (array([[2., 1.]]), array([[1., 0.]]))
    """
    actions = _first_actions(mdp)
    for iteration in range(1, MOST_SWEEPS + 1):
        policy = Policy.from_actions(actions, mdp.num_actions)
        v, error, used = _evaluate(mdp, policy, solver, iteration)
        q, q_error = lookahead(mdp, v, error)
        gain = q.max(axis=1) - q[np.arange(len(q)), actions]
        better = gain > 2.0 * q_error
        if not better.any():
            break
        actions = np.where(better, q.argmax(axis=1), actions)
    bound = max(error, _above(mdp, v, solver))
    q, q_error = lookahead(mdp, v, bound)
    return Optimal(q, frozen(v), policy, max(bound, q_error), used, iteration)


def _evaluate(mdp: TabularMDP, policy: Policy, solver: str, iteration: int) -> tuple[Array, float, str]:
    """Return the value of a deterministic policy, its error and the solver."""
    chain = state_chain(mdp, policy)
    if mdp.gamma == 1.0 and iteration > 1:
        stuck = np.flatnonzero(never_ending(chain.P, chain.leaves))
        if len(stuck):
            raise InputError(
                f"gamma is 1 and a cycle from state {chain.states[stuck[0]]} pays without end: the optimum "
                "is infinite. Use gamma < 1."
            )
    resolvent = Resolvent(chain.P, mdp.gamma, solver, chain.leaves, chain.name())
    solved = resolvent.solve(chain.r)
    v = np.zeros(mdp.num_states)
    v[chain.states] = solved.x
    return v, solved.error_bound, solved.solver


def _first_actions(mdp: TabularMDP) -> Ints:
    """Return (S,) actions: the best immediate reward, at gamma = 1 actions that step towards the end."""
    actions = np.asarray(mdp.r.argmax(axis=1))
    if mdp.gamma < 1.0:
        return actions
    edges = sparse.coo_array(mdp.rows)
    positive = edges.data > 0.0
    state, action = np.divmod(edges.row[positive].astype(np.int64), mdp.num_actions)
    successor = edges.col[positive]
    done = mdp.terminal.copy()
    while True:
        step = done[successor] & ~done[state]
        if not step.any():
            break
        actions[state[step]] = action[step]
        done[state[step]] = True
    if not done.all():
        named = ", ".join(f"state {s}" for s in np.flatnonzero(~done)[:5])
        raise InputError(
            f"gamma is 1 and no policy ends from {named}: values do not exist. "
            "Use gamma < 1 or mark terminal states."
        )
    return actions


def _above(mdp: TabularMDP, v: Array, solver: str) -> float:
    """Return how far the optimum may lie above ``v``; infinite if that could not be proved."""
    table = _LiveRows(mdp)
    near = table.gaps(v) >= -NEARLY_OPTIMAL * max(1.0, float(np.abs(v).max()))
    block, inside = _merge_waiting(table, near)
    merged = v.copy()
    top = np.full(int(block.max()) + 1, -np.inf)
    np.maximum.at(top, block, v[table.states])
    merged[table.states] = top[block]
    bound = _drift_bound(table, merged, near, inside, block, solver) + float(np.abs(merged - v).max())
    if mdp.gamma < 1.0:
        worst = max(0.0, float((table.gaps(v) + table.rounding(v)).max()))
        bound = min(bound, worst / (1.0 - mdp.gamma) * (1.0 + 8.0 * EPS))
    return bound


class _LiveRows:
    """The rows of live states: where they start, what they pay, where they lead."""

    def __init__(self, mdp: TabularMDP) -> None:
        self.states = mdp.live_states()
        A = mdp.num_actions
        self.owner = np.repeat(np.arange(len(self.states)), A)  # position of the state among the live ones
        index = self.states[self.owner] * A + np.tile(np.arange(A), len(self.states))
        rows = sparse.csr_array(mdp.rows)[index]
        self.r = mdp.r.reshape(-1)[index]
        self.P = sparse.csr_array(rows[:, self.states])
        self.leaves = np.asarray(rows @ mdp.terminal.astype(np.float64) > 0.0)
        self.gamma = mdp.gamma
        self.longest = int(np.diff(rows.indptr).max())

    def gaps(self, v: Array) -> Array:
        """Return what each row promises above the value of its state."""
        live = v[self.states]
        return np.asarray(self.r + self.gamma * (self.P @ live) - live[self.owner])

    def rounding(self, v: Array) -> Array:
        """Bound the rounding of :meth:`gaps`."""
        live = np.abs(v[self.states])
        size = np.abs(self.r) + self.gamma * (self.P @ live) + live[self.owner]
        return np.asarray((self.longest + 6) * EPS * size)


def _merge_waiting(table: _LiveRows, near: Bools) -> tuple[Ints, Bools]:
    """Return the block of each live state, and which rows only move inside a block and pay nothing.

    Blocks are the maximal end components of the nearly optimal rows with zero reward; only at
    gamma = 1, where waiting costs nothing.
    """
    m = len(table.states)
    inside = near & (table.r == 0.0) & ~table.leaves & (table.gamma == 1.0)
    edges = sparse.coo_array(table.P)
    label = np.arange(m)
    while inside.any():
        kept = inside[edges.row]
        graph = (np.ones(kept.sum()), (table.owner[edges.row[kept]], edges.col[kept]))
        _, label = csgraph.connected_components(
            sparse.csr_array(graph, shape=(m, m)), directed=True, connection="strong"
        )
        crossing = np.zeros(len(inside), dtype=bool)
        crossing[edges.row[label[table.owner[edges.row]] != label[edges.col]]] = True
        if not (inside & crossing).any():
            break
        inside = inside & ~crossing
    if not inside.any():
        label = np.arange(m)
    return np.asarray(label, dtype=np.int64), inside


def _drift_bound(table: _LiveRows, v: Array, near: Bools, inside: Bools, block: Ints, solver: str) -> float:
    """Return ``c max(h)`` of the module's argument, or infinity."""
    h_block = _longest_stay(table, near & ~inside, block, solver)
    if h_block is None:
        return float("inf")
    h = h_block[block]
    ahead = table.gamma * np.asarray(table.P @ h)
    fall = h[table.owner] - ahead - (table.longest + 6) * EPS * (h[table.owner] + ahead)
    gap = table.gaps(v) + table.rounding(v)
    drifting, others = near & ~inside, ~near & ~inside
    delta = float(fall[drifting].min())
    if delta <= 0.0:
        return float("inf")
    c = max(0.0, float(gap[drifting].max())) / delta * (1.0 + 8.0 * EPS)
    if (gap[others] > c * fall[others]).any():
        return float("inf")
    return c * float(h.max()) * (1.0 + 8.0 * EPS)


def _longest_stay(table: _LiveRows, rows: Bools, block: Ints, solver: str) -> Array | None:
    """Return the largest expected discounted stay under these rows, one number a block.

    None if some choice of rows never ends, or a block has no row.
    """
    count = int(block.max()) + 1
    index = np.flatnonzero(rows)
    merge = sparse.csr_array((np.ones(len(block)), (np.arange(len(block)), block)), shape=(len(block), count))
    P = sparse.csr_array(table.P[index] @ merge)
    owner, leaves = block[table.owner[index]], table.leaves[index]
    chosen = np.full(count, -1)
    chosen[owner] = np.arange(len(index))
    if (chosen < 0).any():
        return None
    for _ in range(MOST_SWEEPS):
        if table.gamma == 1.0 and never_ending(P[chosen], leaves[chosen]).any():
            return None
        h = Resolvent(P[chosen], table.gamma, solver, leaves[chosen]).solve(np.ones(count)).x
        stay = 1.0 + table.gamma * np.asarray(P @ h)
        longer = np.flatnonzero(stay > h[owner] * (1.0 + 1e-9))
        if len(longer) == 0:
            return np.asarray(h)
        order = longer[np.argsort(stay[longer], kind="stable")]
        chosen[owner[order]] = order  # the longest of each block comes last and stays
    return None
