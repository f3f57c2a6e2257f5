"""Who can reach whom: the questions about a chain that depend on which entries are positive only.

Used to decide propriety (does every run end?), reachability from the start, and recurrent classes.
Probabilities are not looked at beyond being zero or not.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from theory.checks import Bools, Ints, Matrix


def reachable(graph: Matrix, sources: Bools) -> Bools:
    """Return which of n nodes can be reached from the sources along positive entries of (n, n).

    Example:
        >>> reachable(np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0]]), np.array([True, False, False]))
        array([ True,  True, False])
    """
    n = len(sources)
    edges = sparse.coo_array(graph)
    into = np.flatnonzero(sources)
    rows = np.concatenate([edges.row, np.full(len(into), n)])  # node n points at every source
    columns = np.concatenate([edges.col, into])
    keep = np.concatenate([edges.data > 0.0, np.ones(len(into), dtype=bool)])
    augmented = sparse.csr_array((np.ones(keep.sum()), (rows[keep], columns[keep])), shape=(n + 1, n + 1))
    found = csgraph.breadth_first_order(augmented, n, return_predecessors=False)
    flags = np.zeros(n + 1, dtype=bool)
    flags[found] = True
    return flags[:n]


def never_ending(chain: Matrix, leaves: Bools) -> Bools:
    """Return the nodes from which no node that ``leaves`` can be reached.

    Example:
        >>> never_ending(np.eye(2), np.array([True, False]))
        array([False,  True])
    """
    return ~reachable(sparse.csr_array(chain).T, leaves)


def recurrent_classes(chain: Matrix, leaves: Bools) -> list[Ints]:
    """Return the closed communicating classes of the chain, each sorted, in order of first member.

    A class is closed if no positive entry goes out of it and none of its nodes ``leaves``.

    Example:
        >>> recurrent_classes(np.array([[0, 1], [0, 1]]), np.array([False, False]))
        [array([1])]
    """
    edges = sparse.coo_array(chain)
    positive = edges.data > 0.0
    graph = sparse.csr_array(
        (np.ones(positive.sum()), (edges.row[positive], edges.col[positive])), shape=edges.shape
    )
    count, label = csgraph.connected_components(graph, directed=True, connection="strong")
    open_class = np.zeros(count, dtype=bool)
    open_class[label[leaves]] = True
    crossing = label[edges.row] != label[edges.col]
    open_class[label[edges.row[positive & crossing]]] = True
    classes = [np.flatnonzero(label == index) for index in np.flatnonzero(~open_class)]
    return sorted(classes, key=lambda members: int(members[0]))
