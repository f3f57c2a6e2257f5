r"""How nearly linear values are in the embeddings of pairs, and how much of that any embedding would explain.

With as many features as rows everything is linear, so a fit with all of them says nothing. The honest measure
is a curve: :math:`R^2_k` of the first k principal components of the embeddings, against what k random
features explain of anything on average, :math:`k/(m-1)` for m rows with weight. What is above that line is
:math:`\bar R^2_k=1-(1-R^2_k)\frac{m-1}{m-1-k}`, the adjusted :math:`R^2`. Half of all random features are
above it, so the condition asks for more than all but one in a hundred of them explain.

Every :math:`R^2` is weighted by the data and has an intercept, which any linear head has; the distance is
that of theorem 2, from the span of the features alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv

from theory.audit.setting import FLOAT32, Setting
from theory.checks import Array, frozen
from theory.errors import InputError
from theory.report import Condition

BY_CHANCE = 0.01
"""How many random features may explain as much as is asked of the embedding."""


@dataclass(frozen=True, eq=False)
class Curve:
    """How much of some values the first k principal components explain, k from 0 to K.

    Attributes:
        r2: (K + 1,), non-decreasing; 0 at k = 0.
        full: R squared of all components above the precision of float32.
        distance: D-norm of what is left of a fit with all of them, without an intercept.
        variance: of the values under the weights.
    """

    r2: Array
    full: float
    distance: float
    variance: float


@dataclass(frozen=True, eq=False)
class LinearityAudit:
    r"""How linear values are in the embeddings of pairs.

    Attributes:
        rows: m, rows with weight.
        dimension: d, of the embeddings.
        rank: their rank at the precision of float32 (columns of norm one).
        rank_float64: the same at that of float64.
        gap: the smallest singular value kept over the largest dropped.
        effective_rank: :math:`\exp` of the entropy of the shares of the singular values of the centred
            embeddings (Roy and Vetterli 2007).
        trivial: whether rank and intercept suffice for any values at all: R squared is 1 of whatever.
        true: of :math:`Q^\pi`; ``None`` where that is infinite or constant.
        network: of the network's values; ``None`` where these are constant.
        random: (K + 1,), what k random features explain of anything on average.
    """

    rows: int
    dimension: int
    rank: int
    rank_float64: int
    gap: float
    effective_rank: float
    trivial: bool
    true: Curve | None
    network: Curve | None
    random: Array

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Whether the question is a question, and how it is answered."""
        needed, most = self.rank + 1, self.rows - 1
        why = f"rank {self.rank} and an intercept against {self.rows} rows: with as many R^2 is 1 of anything"
        name = "the embedding leaves room for a misfit"
        return (
            Condition(name, needed <= most, needed, most, most - needed, why),
            _linear(self),
            _better_than_chance(self),
        )

    @property
    def numbers(self) -> dict[str, Any]:
        """Ranks, and R squared at the effective rank and of everything."""
        return {
            "rows with weight": self.rows,
            "rank of zsa at float32, at float64": [self.rank, self.rank_float64],
            "gap of the singular values at that rank": self.gap,
            "effective rank of zsa": self.effective_rank,
            **self._explained("true value", self.true),
            **self._explained("network's value", self.network),
            "R^2 of as many random features": float(self.random[self.at]),
            "R^2 of all of zsa is trivial": "yes: as many directions as rows" if self.trivial else "no",
        }

    @property
    def arrays(self) -> dict[str, Any]:
        """R squared against the number of components."""
        curves = {"true": self.true, "network": self.network}
        drawn = {
            f"R^2 of the {name} value by components": c.r2 for name, c in curves.items() if c is not None
        }
        return {**drawn, "R^2 of random features by components": self.random}

    @property
    def at(self) -> int:
        """The k at which one number is quoted: the effective rank, rounded."""
        return min(round(self.effective_rank), len(self.random) - 1)

    def beyond_chance(self, curve: Curve, k: int) -> float | None:
        """Return the adjusted R squared of k components; ``None`` where chance explains everything."""
        left = 1.0 - float(self.random[k])
        return 1.0 - (1.0 - float(curve.r2[k])) / left if left > 0.0 else None

    def by_chance(self, k: int) -> float | None:
        """Return what one in a hundred sets of k random features exceed; ``None`` where all explain it all.

        Their R squared is Beta(k/2, (m-1-k)/2).
        """
        left = self.rows - 1 - k
        if k == 0 or left <= 0:
            return None if k else 0.0
        return float(betaincinv(k / 2, left / 2, 1.0 - BY_CHANCE))

    def _explained(self, whose: str, curve: Curve | None) -> dict[str, Any]:
        if curve is None:
            return {f"R^2 of the {whose}": None}
        at = f"{self.at} components (the effective rank)"
        return {
            f"R^2 of the {whose}, {at}": float(curve.r2[self.at]),
            f"adjusted R^2 of the {whose}, {at}": self.beyond_chance(curve, self.at),
            f"R^2 of the {whose}, all of zsa": curve.full,
            f"distance of the {whose} from the span of zsa, D-norm": curve.distance,
        }


def audit_linearity(setting: Setting) -> LinearityAudit:
    """Measure how linear the true values and the network's are in the embeddings."""
    found = setting.embeddings
    support = setting.problem.mu > 0.0
    root = np.sqrt(setting.problem.mu[support])
    Z = found.values[support]
    U, sizes = _principal(root, Z)
    basis = _basis(root, Z)
    rows = len(root)
    given = (_true_values(setting), setting.rows(setting.export.q))
    curves = [None if q is None else _curve(root, U, basis, q[support]) for q in given]
    return LinearityAudit(
        rows=rows,
        dimension=Z.shape[1],
        rank=found.rank,
        rank_float64=found.rank_float64,
        gap=found.gap,
        effective_rank=effective_rank(sizes),
        trivial=found.rank + 1 >= rows,
        true=curves[0],
        network=curves[1],
        random=frozen(np.arange(U.shape[1] + 1) / max(rows - 1, 1)),
    )


def _true_values(setting: Setting) -> Array | None:
    try:
        return setting.q_true
    except InputError:  # infinite: the part about values says why
        return None


def _principal(root: Array, Z: Array) -> tuple[Array, Array]:
    """Return the principal components above the precision of float32, (m, K), and their singular values."""
    centred = root[:, None] * (Z - (root**2 / (root @ root)) @ Z)
    U, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    # What the mean was, relative to what is left, is precision lost.
    size = max(float(sizes.max(initial=0.0)), float(np.linalg.norm(root[:, None] * Z, 2)))
    kept = min(int(np.sum(sizes > max(Z.shape) * FLOAT32 * size)), len(root) - 1)
    return np.asarray(U[:, :kept]), np.asarray(sizes[:kept])


def effective_rank(singular_values: Array) -> float:
    r"""Return :math:`\exp(-\sum p\log p)` of the shares p of the singular values; 0 if all are zero.

    Example:
        >>> effective_rank(np.array([2.0, 2.0, 0.0])), effective_rank(np.zeros(2))
        (2.0, 0.0)
    """
    total = float(singular_values.sum())
    shares = singular_values[singular_values > 0.0] / (total or 1.0)
    return round(math.exp(-float(shares @ np.log(shares))), 12) if total > 0.0 else 0.0


def _basis(root: Array, Z: Array) -> Array:
    """Return an orthonormal basis of the span of the weighted embeddings, (m, rank)."""
    F = root[:, None] * Z
    norms = np.linalg.norm(F, axis=0)
    U, sizes, _ = np.linalg.svd(F / np.where(norms > 0.0, norms, 1.0), full_matrices=False)
    return np.asarray(U[:, sizes > max(F.shape) * FLOAT32 * sizes.max(initial=0.0)])


def _curve(root: Array, U: Array, basis: Array, q: Array) -> Curve | None:
    """Return how much the components explain of (m,) values; ``None`` if these are constant."""
    y = root * q
    centre = root / np.linalg.norm(root)
    varying = y - centre * (centre @ y)
    total = float(varying @ varying)
    if total <= (64.0 * np.finfo(np.float64).eps) ** 2 * float(y @ y):
        return None
    r2 = np.concatenate([[0.0], np.cumsum((U.T @ varying) ** 2) / total])
    left = y - basis @ (basis.T @ y)
    across = centre - basis @ (basis.T @ centre)
    beside = left
    if np.linalg.norm(across) > len(root) * FLOAT32:
        across = across / np.linalg.norm(across)
        beside = left - across * (across @ left)
    full = 1.0 - float(beside @ beside) / total
    variance = total / float(root @ root)
    return Curve(frozen(np.minimum(r2, 1.0)), full, float(np.linalg.norm(left)), variance)


def _linear(found: LinearityAudit) -> Condition:
    name, why = "the true value is linear in zsa", "D-norm of Q^pi minus its projection on the span of zsa"
    if found.true is None:
        return Condition(name, None, why="the true value is infinite or constant")
    size = math.sqrt(found.true.variance)
    allowed = found.rows * FLOAT32 * size
    if found.trivial:
        return Condition(name, None, found.true.distance, allowed, None, f"{why}; trivially so, see above")
    return Condition.at_most(name, found.true.distance, allowed, why)


def _better_than_chance(found: LinearityAudit) -> Condition:
    name = "the value is more linear in zsa than in random features"
    if found.true is None:
        return Condition(name, None, why="the true value is infinite or constant")
    k, explained, asked = found.at, float(found.true.r2[found.at]), found.by_chance(found.at)
    why = (
        f"R^2 of the first {k} principal components, as many as the effective rank "
        f"{found.effective_rank:.3g}, against what {BY_CHANCE:.0%} of as many random features exceed; "
        f"on average they explain {found.random[k]:.3g}"
    )
    if asked is None:
        return Condition(name, None, explained, why=why)
    return Condition(name, explained > asked, explained, asked, explained - asked, why)
