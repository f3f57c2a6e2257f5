r"""What every part of an audit shares: the MDP under the agent's discount, the rows, weights, features.

Rows are the pairs of the live states that can be reached from the start. Embeddings come from a network in
float32, so what is below that precision is noise, not dimension: directions of :math:`D^{1/2}Z` whose
singular value (columns of norm one) is at most ``max(n, d) * eps`` of float32 times the largest are removed
before anything is fitted to them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from theory.audit.export import Export
from theory.checks import EPS, Array, Bools, Ints
from theory.errors import InputError
from theory.features import Features
from theory.mdp import TabularMDP
from theory.policy import Policy
from theory.problem import Problem
from theory.report import Condition
from theory.truth import Certified, certified_q
from theory.weights import Weights
from theory.whitening import orthonormal, unit_columns

FLOAT32 = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class Precise:
    """Embeddings without the directions that float32 cannot tell from noise.

    Attributes:
        values: (n, d), the rows projected on the directions kept; as they came if none is dropped.
        coordinates: (n, k), the same in an orthonormal basis of the row space, which has dimension k: lengths
            and angles are those of ``values``, so TD, rollout and values are, too. One zero column if k is 0.
        rank: directions kept, those above float32's precision.
        rank_float64: what it would be at float64's precision.
        gap: the smallest singular value kept over the largest dropped; infinite if none is dropped. Of the
            weighted embeddings with columns of norm one.
    """

    values: Array
    coordinates: Array
    rank: int
    rank_float64: int
    gap: float


def at_float32(values: Array, weights: Array) -> Precise:
    """Remove from (n, d) embeddings, weighted by (n,), what is below the precision of float32.

    Example:
        >>> found = at_float32(np.array([[1.0, 1.0], [1.0, 1.0 + 1e-9]]), np.array([0.5, 0.5]))
        >>> found.rank, found.rank_float64, found.coordinates.shape
        (1, 2, (2, 1))
    """
    F, scale = unit_columns(np.sqrt(weights)[:, None] * values)
    _, sizes, Vt = np.linalg.svd(F, full_matrices=False)
    allowed = max(F.shape) * float(sizes.max(initial=0.0))
    rank, full = (int(np.sum(sizes > allowed * eps)) for eps in (FLOAT32, EPS))
    gap = float(sizes[rank - 1] / sizes[rank]) if 0 < rank < len(sizes) and sizes[rank] > 0.0 else np.inf
    if rank == values.shape[1]:
        return Precise(values, values, rank, full, gap)
    basis = orthonormal(scale[:, None] * Vt[:rank].T) if rank else np.zeros((values.shape[1], 1))
    coordinates = values @ basis
    kept = values if rank == full else coordinates @ basis.T
    return Precise(kept, coordinates, rank, full, gap)


@dataclass(frozen=True, eq=False)
class Setting:
    """The question that an export asks of an MDP; n rows.

    Attributes:
        export: the arrays.
        mdp: with the agent's discount.
        gamma_of_mdp: the discount that the MDP came with.
        policy: the agent's.
        weights: from counts or mu, uniform without them; zero where the mask is False.
        problem: chain, reward and weights, features one for all: see :attr:`probe`.
        judged: (n,), the rows that are looked at for extremes.
    """

    export: Export
    mdp: TabularMDP
    gamma_of_mdp: float
    policy: Policy
    weights: Weights
    problem: Problem
    judged: Bools

    def rows(self, values: Array) -> Array:
        """Return the rows of (S, A) or (S, A, d) values."""
        assert self.problem.rows is not None  # it comes from an MDP
        return np.asarray(values.reshape(-1, *values.shape[2:])[self.problem.rows])

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Whether the agent's discount is that of the MDP."""
        apart = abs(self.mdp.gamma - self.gamma_of_mdp)
        why = f"the agent's {self.mdp.gamma:g} is used for everything here; the MDP has {self.gamma_of_mdp:g}"
        return (Condition.at_most("the discount is that of the MDP", apart, 0.0, why),)

    @property
    def numbers(self) -> dict[str, Any]:
        """What was audited."""
        kinds = {"counts": "visits", "mu": "given (mu)", "uniform": "uniform, none given"}
        export = self.export
        numbers: dict[str, Any] = {
            "states, actions": list(self.mdp.r.shape),
            "rows (pairs of live states that the start leads to)": self.problem.n,
            "rows judged": int(self.judged.sum()),
            "weights": kinds[self.weights.kind],
            "gamma": self.mdp.gamma,
            "width of zs, zsa": [export.zs.shape[-1], export.zsa.shape[-1]],
        }
        for name in ("step", "n_step", "reward_scale"):
            if getattr(export, name) is not None:
                numbers[name] = getattr(export, name)
        if export.q_heads is not None:
            apart = self.rows(export.q_heads.max(axis=0) - export.q_heads.min(axis=0))
            numbers["largest disagreement of the value heads"] = self.largest(apart)
        return numbers

    @property
    def arrays(self) -> dict[str, Any]:
        """The names of the rows."""
        return {"rows": list(self.problem.labels or ())}

    @property
    def states(self) -> Ints:
        """The numbers of the states that have rows."""
        assert self.problem.rows is not None
        return self.problem.rows[:: self.mdp.num_actions] // self.mdp.num_actions

    def label(self, row: int) -> str:
        """Return the name of a row in words."""
        assert self.problem.rows is not None
        state, action = divmod(int(self.problem.rows[row]), self.mdp.num_actions)
        return f"state {state}, action {action}"

    @cached_property
    def truth(self) -> Certified:
        r""":math:`Q^\pi`, (S, A).

        Raises:
            InputError: gamma is 1 and the agent's policy never ends from some state.
        """
        return certified_q(self.mdp, self.policy)

    @cached_property
    def q_true(self) -> Array:
        r""":math:`Q^\pi` on the rows, (n,)."""
        return self.rows(self.truth.value)

    @cached_property
    def embeddings(self) -> Precise:
        """The embeddings of the rows at the precision of float32."""
        return at_float32(self.rows(self.export.zsa), self.problem.mu)

    @cached_property
    def probe(self) -> Problem:
        """The problem of fitting linear models and values to the embeddings of pairs."""
        return self.problem_with(self.embeddings.values)

    @cached_property
    def reduced(self) -> Problem:
        """The same in coordinates of the row space: as hard as the embeddings have directions."""
        return self.problem_with(self.embeddings.coordinates)

    def problem_with(self, features: Array) -> Problem:
        """Return the problem with (n, d) features of its rows."""
        return Problem(self.mdp, self.policy, Features(features, "zsa"), self.weights, reachable_from="start")

    def at_start(self, values: Array) -> float:
        """Return the mean of (n,) values over the start and the policy."""
        chosen = self.policy.probs * self.mdp.start[:, None]
        return float(self.rows(chosen) @ values)

    def norm(self, values: Array) -> float:
        """Return the D-norm of (n,) values."""
        return float(np.sqrt(self.problem.mu @ values**2))

    def largest(self, values: Array) -> float:
        """Return the largest modulus of (n,) values among the rows that are judged."""
        return float(abs(values[self.judged]).max())


def setting_of(export: Export, mdp: TabularMDP) -> Setting:
    """Put an export and its MDP together.

    Raises:
        InputError: nothing is left to be judged, or no row with weight.
    """
    gamma = mdp.gamma if export.gamma is None else export.gamma
    own = mdp if gamma == mdp.gamma else replace(mdp, gamma=gamma)
    policy, weights = Policy(export.pi), _weights(export, own)
    constant = Features(np.ones((*mdp.r.shape, 1)), "constant")
    problem = Problem(own, policy, constant, weights, reachable_from="start")
    mask = np.ones(mdp.r.shape, dtype=np.bool_) if export.mask is None else export.mask
    judged = np.asarray(mask.reshape(-1)[problem.rows])
    return Setting(export, own, mdp.gamma, policy, weights, problem, judged)


def _weights(export: Export, mdp: TabularMDP) -> Weights:
    """Return the weights of the data on the pairs that are judged and can be reached."""
    given, kind = next(
        (
            (values, kind)
            for values, kind in ((export.counts, "counts"), (export.mu, "mu"))
            if values is not None
        ),
        (np.ones(mdp.r.shape), "uniform"),
    )
    reached = np.zeros(mdp.num_states, dtype=np.bool_)
    reached[mdp.live_states("start")] = True
    kept = np.where(reached[:, None], given, 0.0)
    kept = kept if export.mask is None else np.where(export.mask, kept, 0.0)
    if not kept.any():
        what = "the mask" if export.mask is not None else kind
        raise InputError(f"No pair is left that counts: {what} is zero wherever the start leads.")
    return Weights(kept, kind)
