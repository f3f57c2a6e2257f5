"""Features of state-action rows: one-hot, aggregates, random, spectral, Krylov, radial, tiles.

Spectral and Krylov features are built from a policy's chain over the live states; rows of terminal
states are zero there and are never used. Random ones come from splitmix64. Learned embeddings enter
through :meth:`Features.from_array`. Large arrays stay in the type and the place they came in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg

from theory.chains import pair_chain, pair_product
from theory.checks import (
    Array,
    any_array,
    as_array,
    check_count,
    check_number,
    check_shape,
    frozen,
    to_dense,
)
from theory.errors import InputError
from theory.resolvent import check_proper
from theory.splitmix import SplitMix64

if TYPE_CHECKING:
    from theory.mdp import TabularMDP
    from theory.policy import Policy

LARGE = 2**24  # numbers; beyond it features are not converted to float64 (that would be 128 MB)
SIZES = (1e-70, 1e70)  # squares of squares stay within float64
LARGEST_DENSE = 5000  # rows; beyond it nothing with so many rows and columns is formed


@dataclass(frozen=True, init=False, eq=False)
class Features:
    """One vector for each state-action row.

    Arrays of more than 16 million numbers stay float32 if they came so, and are converted block by block
    where they are used; read-only ones, a ``numpy.memmap`` opened for reading among them, are not copied.

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
        array = as_features(Z)
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
        """Return one feature for each row of a live state, (S, A, live rows). Dense; for small MDPs.

        Raises:
            InputError: more than 5000 rows.

        Example:
            >>> from theory import TabularMDP
            >>> Features.one_hot(TabularMDP.from_dense([[[1.0], [1.0]]], [[0, 0]], 0.9)).Z.tolist()
            [[[1.0, 0.0], [0.0, 1.0]]]
        """
        live = np.repeat(~mdp.terminal, mdp.num_actions)
        check_dense(len(live), "One-hot features are", "Use Features.aggregate or Features.random")
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
        labels = any_array("groups", groups)
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
        stream, Z = SplitMix64(seed), np.empty((*mdp.r.shape, d))
        states = max(1, LARGE // (16 * mdp.num_actions * d))  # the stream's own arrays stay small
        for start in range(0, len(Z), states):
            block = Z[start : start + states]
            block[:] = 2.0 * stream.uniform(*block.shape) - 1.0
        return cls(frozen(Z), "random")

    @classmethod
    def svd(cls, mdp: TabularMDP, policy: Policy, d: int) -> Features:
        r"""Return the first d left singular vectors of :math:`(I-\gamma P^\pi)^{-1}` over the live rows.

        Signs are fixed: the largest entry of each vector is positive. Dense; for small MDPs.

        Raises:
            InputError: d outside 1 to the number of live rows, more than 5000 of these, or gamma is 1 and the
                policy does not end.

        Example:
            >>> from theory import Policy, TabularMDP
            >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[0, 0]], 0.9)
            >>> Features.svd(mdp, Policy.uniform(mdp), 1).Z.round(6).tolist()
            [[[0.707107], [0.707107]]]
        """
        check_dense(mdp.num_actions * len(mdp.live_states()), "Spectral features are", "Use Features.krylov")
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
        P, rows = pair_product(mdp, policy, mdp.live_states())
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
        width = check_number("width", width, above=0.0)
        with np.errstate(over="ignore"):  # far away is far away
            squares = (((points[..., None, :] - middle) / width) ** 2).sum(axis=-1)
        bumps = np.exp(-squares / 2.0)
        bumps[bumps < SIZES[0]] = 0.0
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
        if np.abs(points).max() > 1e300:
            raise InputError(f"coordinates must not exceed 1e300 in size, got {np.abs(points).max():g}.")
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
        if matrix.ndim not in (1, 2):
            raise InputError(f"T must have shape (d, k) or (d,), got {matrix.shape}.")
        if matrix.ndim == 1:
            matrix = np.diag(matrix)
        check_shape("T", matrix, (self.d, matrix.shape[-1]), "(d, k)")
        return Features(self.Z @ matrix, f"{self.name} rescaled")


def as_features(Z: Any) -> Array:
    """Return features as a read-only array of finite numbers: float64, but for large ones.

    Raises:
        InputError: not numeric, complex, an entry is NaN or infinite, or a feature beyond 1e-70 to 1e70.

    Example:
        >>> as_features(np.ones((1, 2), dtype=np.float32)).dtype
        dtype('float64')
    """
    if not (isinstance(Z, np.ndarray) and Z.size > LARGE and Z.dtype in (np.float32, np.float64)):
        array = as_array("Z", Z)
        if array.ndim > 1 and array.size:
            check_size("Z", array.reshape(-1, array.shape[-1]))
        elif array.size:
            check_size("Z", array)
        return array
    step = max(1, LARGE // (16 * (Z.size // len(Z))))
    largest = np.zeros((1, Z.shape[-1]))
    for start in range(0, len(Z), step):
        block = Z[start : start + step]
        bad = np.argwhere(~np.isfinite(block))
        if len(bad):
            index = (start + int(bad[0][0]), *(int(i) for i in bad[0][1:]))
            raise InputError(f"Z must be finite, got {Z[index]} at index {index}.")
        largest = np.maximum(largest, np.abs(block).reshape(-1, Z.shape[-1]).max(axis=0))
    check_size("Z", largest)
    return frozen(Z.copy()) if Z.flags.writeable else Z


def check_size(name: str, array: Array) -> None:
    """Raise if a column of (n,) or (n, d) numbers, unless it is zero, is too large or too small as a whole.

    Raises:
        InputError: its largest number lies outside 1e-70 to 1e70 in size.

    Example:
        >>> check_size("r", np.array([0.0, 1e-300, 1.0]))
    """
    largest = np.atleast_1d(np.maximum(array.max(axis=0), -array.min(axis=0)))
    bad = np.flatnonzero((largest > SIZES[1]) | ((largest > 0.0) & (largest < SIZES[0])))
    if len(bad):
        where = f" in column {bad[0]}" if array.ndim > 1 else ""
        raise InputError(
            f"The largest size in {name} must be 0 or from {SIZES[0]:g} to {SIZES[1]:g}, got "
            f"{largest[bad[0]]:.6g}{where}; in float64 its powers would overflow or vanish. Use another unit."
        )


def check_dense(rows: int, what: str, instead: str) -> None:
    """Raise if an array with so many rows and columns is too large to be formed.

    Raises:
        InputError: more than 5000.

    Example:
        >>> check_dense(5000, "They are", "Use others")
    """
    if rows > LARGEST_DENSE:
        size = rows * rows * 8 / 1e9
        raise InputError(
            f"{what} dense, with at most {LARGEST_DENSE} rows and as many columns; got {rows} rows "
            f"({size:.1f} GB). {instead}."
        )


def _check_count(d: int, limit: int | None, name: str = "d") -> None:
    """Raise unless d is whole and 1 <= d <= limit."""
    if limit is None:
        check_count(name, d)
    elif not 1 <= check_count(name, d, -(2**63)) <= limit:
        raise InputError(f"{name} must be at least 1 and at most {limit}, got {d}.")


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
