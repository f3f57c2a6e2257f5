"""Taking times: several calls in turn, so that what else the machine does falls on all of them alike.

What is called is in the files named after the benchmarks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

Call = Callable[[], object]


def milliseconds(
    calls: Mapping[str, Call], *, rounds: int, warm_up: int = 3, device: torch.device | str = "cpu"
) -> dict[str, list[float]]:
    """Return how long each call took, in each of the rounds a, b, c, a, b, c, ...

    Args:
        calls: by name.
        rounds: how often each is timed.
        warm_up: rounds before, which are not timed.
        device: whose queue is waited for.

    Example:
        >>> times = milliseconds({"sum": lambda: sum(range(10))}, rounds=5)
        >>> len(times["sum"])
        5
    """
    wait = _waiter(torch.device(device))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            wait()
            start = time.perf_counter()
            call()
            wait()
            if number >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


@contextmanager
def with_threads(number: int | None) -> Iterator[None]:
    """Let PyTorch use so many threads meanwhile; None: as many as it does.

    Example:
        >>> with with_threads(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _waiter(device: torch.device) -> Call:
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
