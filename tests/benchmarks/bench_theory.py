"""Cost of the checks of ``theory`` against the number of state-action rows: seconds and peak memory.

Run: ``python tests/benchmarks/bench_theory.py`` (``--largest 1e5`` and ``--features 64`` for less,
``--world grid`` for a walk on a square). Every size runs in two processes of its own: one makes the whole
report on a fresh problem, one its parts one after another. Parts that several need are computed once, by the
first of them. Printed are elapsed and processor seconds, the highest memory so far, and the load of the
machine. Set OMP_NUM_THREADS to the cores that are free: BLAS threads that wait for a busy core spin, and
take many times as long.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from theory import (
    Features,
    Policy,
    Problem,
    TabularMDP,
    Weights,
    bounds,
    certified_q,
    check_fixed_point_equivalence,
    fit_linear_model,
    garnet,
    problem_report,
    stability,
    td_system,
    value_error,
)
from theory.whitening import whiten

ACTIONS, BRANCHING, GAMMA = 4, 5, 0.99
LARGE = 10**8  # numbers; beyond it features are float32


def grid(side: int) -> TabularMDP:
    """Return a walk on a square: four directions, any of them with chance 0.2, a reward in a corner."""
    S = side * side
    row, column = np.divmod(np.arange(S), side)
    clip = lambda x: np.clip(x, 0, side - 1)  # noqa: E731
    ahead = [clip(row + dr) * side + clip(column + dc) for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    step = [sparse.coo_array((np.ones(S), (np.arange(S), to)), shape=(S, S)).tocsr() for to in ahead]
    drift = 0.05 * sum(step[1:], start=step[0])
    stacked = sparse.vstack([0.8 * move + drift for move in step]).tocsr()
    order = (np.arange(S)[:, None] + S * np.arange(ACTIONS)).reshape(-1)
    r = np.zeros((S, ACTIONS))
    r[-1] = 1.0
    return TabularMDP(sparse.csr_array(stacked[order]), r, GAMMA)


def features(rows: int, d: int) -> Features:
    """Return standard normal features, float32 if they are large."""
    Z = np.empty((rows, d), dtype=np.float32 if rows * d > LARGE else np.float64)
    rng = np.random.default_rng(0)
    for start in range(0, rows, 8192):
        Z[start : start + 8192] = rng.standard_normal(Z[start : start + 8192].shape, dtype=Z.dtype.type)
    Z.setflags(write=False)  # large read-only features are not copied
    return Features(Z, "normal")


def world(kind: str, rows: int) -> TabularMDP:
    """Return a sparse MDP of about so many state-action rows."""
    if kind == "grid":
        return grid(round((rows / ACTIONS) ** 0.5))
    return garnet(rows // ACTIONS, ACTIONS, BRANCHING, GAMMA, seed=1, dense=False)


def measured(name: str, action: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """Return what the action returns, and its cost."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    cost = {"name": name, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return result, cost | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def one_size(kind: str, rows: int, d: int, whole: bool) -> list[dict[str, Any]]:
    """Return the costs of a size: of the whole report, or of its parts."""
    mdp, made = measured("the MDP itself", lambda: world(kind, rows))
    policy, Z = Policy.uniform(mdp), features(mdp.r.size, d)
    problem, posed = measured("the problem", lambda: Problem(mdp, policy, Z, Weights.uniform(mdp)))
    if whole:
        report, cost = measured("REPORT on theorems 1 and 2", lambda: problem_report(problem))
        missing = [name for name in ("tau", "sigma") if report.data[name] is None]
        return [cost | {"note": report.verdict + "".join(f", {name} not computed" for name in missing)}]
    parts: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("policy values, certified", lambda: certified_q(mdp, policy)),
        ("A, b, C, X and their triangle", lambda: td_system(problem)),
        ("whitened coordinates", lambda: whiten(problem)),
        ("the linear model", lambda: fit_linear_model(problem)),
        ("theorem 1", lambda: check_fixed_point_equivalence(problem)),
        ("stability, tau, sigma", lambda: stability(problem)),
        ("theorem 2 as an equality", lambda: value_error(problem)),
        ("bounds, ||G||_D, oblique norm", lambda: bounds(problem)),
    )
    return [made, posed, *(measured(name, action)[1] for name, action in parts)]


def in_own_process(kind: str, rows: int, d: int, whole: bool) -> list[dict[str, Any]]:
    """Return the costs of a size, measured in a fresh process."""
    arguments = ["--world", kind, "--one", str(rows), str(d), str(int(whole))]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    costs: list[dict[str, Any]] = json.loads(done.stdout)
    return costs


def main() -> None:
    """Print the table, or with ``--one`` the costs of one size as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", choices=("garnet", "grid"), default="garnet")
    parser.add_argument("--largest", type=float, default=1e6)
    parser.add_argument("--features", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--one", type=int, nargs=3, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.one:
        rows, d, whole = parsed.one
        print(json.dumps(one_size(parsed.world, rows, d, bool(whole))))
        return
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"{parsed.world}, {ACTIONS} actions, gamma {GAMMA}; {threads} threads on {os.cpu_count()} cores")
    for d in parsed.features:
        before = 0.0
        for rows in (10**k for k in range(3, 7) if 10**k <= parsed.largest):
            load = os.getloadavg()[0]
            costs = in_own_process(parsed.world, rows, d, False) + in_own_process(parsed.world, rows, d, True)
            print(f"\n{rows:,} rows, {d} features (load {load:.1f})")
            for cost in costs:
                seconds = f"{cost['wall']:9.3f} s elapsed {cost['cpu']:9.3f} s processor"
                print(f"  {cost['name']:<32}{seconds} {cost['peak']:6.2f} GB  {cost.get('note', '')}")
            each = 1e6 * costs[-1]["cpu"] / rows
            growth = f", {each / before:.2f} times as many as the size before" if before else ""
            print(f"  {each:.1f} processor microseconds a row{growth}")
            before = each


if __name__ == "__main__":
    main()
