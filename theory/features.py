"""Features of state-action rows: one-hot, aggregates, random, spectral, Krylov, radial, tiles.

Spectral and Krylov features are built from a policy's chain over the live states; rows of terminal
states are zero there and are never used. Random ones come from splitmix64. Learned embeddings enter
through :meth:`Features.from_array`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg

from theory.chains import pair_chain
from theory.checks import Array, as_array, check_shape, frozen, to_dense
from theory.errors import InputError
from theory.resolvent import check_proper
from theory.splitmix import SplitMix64

if TYPE_CHECKING:
    from theory.mdp import TabularMDP
    from theory.policy import Policy


@dataclass(frozen=True, init=False, eq=False)
class Features:
    """One vector for each state-action row.

    Attributes:
        Z: (S, A, d), or (n, d) where n is S * A or the number of live rows of a problem.
        name: what they are called in reports.

    Raises:
        InputError: a wrong shape, no feature, or NaN (the message names the row).

    Example:
        >>> Features([[1.0], [2.0]]).d
        1
    """

    Z: Array
    name: str

    def __init__(self, Z: Any, name: str = "custom") -> None:
        array = as_array("Z", Z)
        if array.ndim not in (2, 3) or 0 in array.shape:
            raise InputError(
                f"Z must have shape (states, actions, d) or (rows, d), d > 0, got {array.shape}."
            )
        object.__setattr__(self, "Z", array)
        object.__setattr__(self, "name", name)

    @property
    def d(self) -> int:
        """Number of features."""
        return int(self.Z.shape[-1])

    @classmethod
    def from_array(cls, Z: Any, name: str = "custom") -> Features:
        """Return the given features.

        Raises:
            InputError: see the class.

        Example:
            >>> Features.from_array([[[1.0, 0.0]]], "mine").name
            'mine'
        """
        return cls(Z, name)

    @classmethod
    def one_hot(cls, mdp: TabularMDP) -> Features:
        """Return one feature for each row of a live state, (S, A, live rows).

        Example:
            >>> from theory import TabularMDP
            >>> Features.one_hot(TabularMDP.from_dense([[[1.0], [1.0]]], [[0, 0]], 0.9)).Z.tolist()
            [[[1.0, 0.0], [0.0, 1.0]]]
        """
        live = np.repeat(~mdp.terminal, mdp.num_actions)
        return cls(np.eye(len(live))[:, live].reshape(*mdp.r.shape, -1), "one_hot")

    @classmethod
    def aggregate(cls, groups: Any) -> Features:
        """Return one feature a group: 1 for the rows of the group, 0 for the others.

        Args:
            groups: (S, A) or (n,) whole numbers, -1 for no group; features in order of the number.

        Raises:
            InputError: not whole numbers, or no row in any group.

        Example:
            >>> Features.aggregate([0, 0, 1]).Z.tolist()
            [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
        """
        labels = np.array(groups)
        if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2):
            raise InputError(f"groups must be whole numbers of shape (S, A) or (n,), got {groups!r}.")
        names = np.unique(labels[labels >= 0])
        return cls((labels[..., None] == names).astype(np.float64), "aggregate")

    @classmethod
    def random(cls, mdp: TabularMDP, d: int, seed: int) -> Features:
        """Return (S, A, d) numbers uniform in [-1, 1) from splitmix64.

        Raises:
            InputError: d below one, or a seed out of range.

        Example:
            >>> from theory import TabularMDP
            >>> Features.random(TabularMDP.from_dense([[[1.0]]], [[0]], 0.9), 2, seed=0).Z.round(4).tolist()
            [[[0.7666, -0.1369]]]
        """
        _check_count(d, None)
        return cls(2.0 * SplitMix64(seed).uniform(*mdp.r.shape, d) - 1.0, "random")

    @classmethod
    def svd(cls, mdp: TabularMDP, policy: Policy, d: int) -> Features:
        r"""Return the first d left singular vectors of :math:`(I-\gamma P^\pi)^{-1}` over the live rows.

        Signs are fixed: the largest entry of each vector is positive. Dense; for small MDPs.

        Raises:
            InputError: d outside 1 to the number of live rows, or gamma is 1 and the policy does not end.

        Example:
            >>> from theory import Policy, TabularMDP
            >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[0, 0]], 0.9)
            >>> Features.svd(mdp, Policy.uniform(mdp), 1).Z.round(6).tolist()
            [[[0.707107], [0.707107]]]
        """
        P, rows = pair_chain(mdp, policy, mdp.live_states())
        _check_count(d, len(rows))
        if mdp.gamma == 1.0:
            check_proper(P, None, lambda row: f"state {rows[row] // mdp.num_actions}")
        left = linalg.svd(linalg.inv(np.eye(len(rows)) - mdp.gamma * to_dense(P)))[0][:, :d]
        return cls(_over_all_rows(mdp, rows, _fix_signs(left)), "svd")

    @classmethod
    def krylov(cls, mdp: TabularMDP, policy: Policy, d: int) -> Features:
        r"""Return an orthonormal basis of :math:`r, P^\pi r, \dots, (P^\pi)^{d-1} r` over the live rows.

        There are fewer features than d if the space becomes invariant before: then the model and the
        value are exact.

        Raises:
            InputError: d outside 1 to the number of live rows, or the reward is zero everywhere.

        Example:
            >>> from theory import Policy, TabularMDP
            >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[3.0, 4.0]], 0.9)
            >>> Features.krylov(mdp, Policy.uniform(mdp), 1).Z.round(12).tolist()
            [[[0.6], [0.8]]]
        """
        P, rows = pair_chain(mdp, policy, mdp.live_states())
        _check_count(d, len(rows))
        reward = mdp.r.reshape(-1)[rows]
        if not reward.any():
            raise InputError("Krylov features start from the reward, which is zero everywhere.")
        basis = np.zeros((len(rows), 0))
        vector = reward / np.linalg.norm(reward)
        for _ in range(d):
            size = float(np.linalg.norm(vector))
            for _ in range(2):  # once is not enough for orthogonality in floating point
                vector = vector - basis @ (basis.T @ vector)
            left = float(np.linalg.norm(vector))
            if left <= 1e-12 * size or size == 0.0:
                break
            basis = np.column_stack([basis, vector / left])
            vector = np.asarray(P @ basis[:, -1])
        return cls(_over_all_rows(mdp, rows, basis), "krylov")

    @classmethod
    def rbf(cls, coordinates: Any, centres: Any, width: float) -> Features:
        r"""Return :math:`\exp(-\|x - c_j\|^2 / 2 w^2)` for each centre, and a constant.

        Args:
            coordinates: (S, A, k) or (n, k), a point for each row.
            centres: (d, k).
            width: w, above zero.

        Raises:
            InputError: another shape, NaN, or a width that is not positive.

        Example:
            >>> Features.rbf([[0.0], [1.0]], [[0.0]], 1.0).Z.round(6).tolist()
            [[1.0, 1.0], [0.606531, 1.0]]
        """
        points, middle = as_array("coordinates", coordinates), as_array("centres", centres)
        if middle.ndim != 2 or points.ndim not in (2, 3) or points.shape[-1] != middle.shape[1]:
            raise InputError(
                f"coordinates (S, A, k) or (n, k) and centres (d, k) must share k, got {points.shape} "
                f"and {middle.shape}."
            )
        if not 0.0 < width < np.inf:
            raise InputError(f"width must be positive and finite, got {width}.")
        squares = ((points[..., None, :] - middle) ** 2).sum(axis=-1)
        bumps = np.exp(-squares / (2.0 * width**2))
        return cls(np.concatenate([bumps, np.ones((*bumps.shape[:-1], 1))], axis=-1), "rbf")

    @classmethod
    def tile(cls, coordinates: Any, tiles: int, tilings: int = 1) -> Features:
        """Return tile coding: each tiling cuts every coordinate into ``tiles`` intervals.

        Args:
            coordinates: (S, A, k) or (n, k); scaled to [0, 1] by their own range.
            tiles: intervals a coordinate, at least one.
            tilings: copies, shifted by 1 / tilings of an interval; a shifted copy has one interval more.

        Raises:
            InputError: another shape, NaN, or a count below one.

        Example:
            >>> Features.tile([[0.0], [1.0], [2.0], [3.0]], 2).Z.tolist()
            [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
        """
        points = as_array("coordinates", coordinates)
        if points.ndim not in (2, 3) or 0 in points.shape:
            raise InputError(f"coordinates must have shape (S, A, k) or (n, k), got {points.shape}.")
        _check_count(tiles, None, "tiles")
        _check_count(tilings, None, "tilings")
        flat = points.reshape(-1, points.shape[-1])
        span = np.ptp(flat, axis=0)
        unit = (flat - flat.min(axis=0)) / np.where(span > 0.0, span, 1.0)
        blocks = [_one_tiling(unit * tiles, tiles, copy / tilings) for copy in range(tilings)]
        return cls(np.concatenate(blocks, axis=1).reshape(*points.shape[:-1], -1), "tile")

    def rescale(self, T: Any) -> Features:
        """Return the features ``Z T``: the same span if ``T`` is invertible, another basis.

        Args:
            T: (d, k), or (d,) for a diagonal.

        Raises:
            InputError: another shape or NaN.

        Example:
            >>> Features([[1.0, 2.0]]).rescale([1.0, 0.5]).Z
            array([[1., 1.]])
        """
        matrix = as_array("T", T)
        if matrix.ndim == 1:
            matrix = np.diag(matrix)
        check_shape("T", matrix, (self.d, matrix.shape[-1]), "(d, k)")
        return Features(self.Z @ matrix, f"{self.name} rescaled")


def _check_count(d: int, limit: int | None, name: str = "d") -> None:
    """Raise unless 1 <= d <= limit."""
    if d < 1 or (limit is not None and d > limit):
        raise InputError(f"{name} must be at least 1{f' and at most {limit}' if limit else ''}, got {d}.")


def _fix_signs(vectors: Array) -> Array:
    """Return the columns with their largest entry positive; the first of those within rounding."""
    size = np.abs(vectors)
    lead = np.argmax(size >= size.max(axis=0) * (1.0 - 1e-9), axis=0)
    return np.asarray(vectors * np.where(vectors[lead, np.arange(vectors.shape[1])] < 0.0, -1.0, 1.0))


def _over_all_rows(mdp: TabularMDP, rows: Any, values: Array) -> Array:
    """Return (S, A, d) with the values in the given rows and zero elsewhere."""
    full = np.zeros((mdp.r.size, values.shape[1]))
    full[rows] = values
    return frozen(full.reshape(*mdp.r.shape, -1))


def _one_tiling(scaled: Array, tiles: int, shift: float) -> Array:
    """Return (n, cells) of 0 and 1 for points scaled to [0, tiles]."""
    per_axis = tiles + (shift > 0.0)
    cell = np.minimum(np.floor(scaled + shift).astype(np.int64), per_axis - 1)
    index = np.ravel_multi_index(tuple(cell.T), (per_axis,) * scaled.shape[1])
    hot = np.zeros((len(scaled), per_axis ** scaled.shape[1]))
    hot[np.arange(len(scaled)), index] = 1.0
    return hot
