"""Brief episodes of Gymnasium's tasks, for runs that are about anything but long episodes.

An agent that has learned nothing balances CartPole for some 250 steps and Pendulum always takes 200:
evaluations that long would be a third of a small run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import gymnasium

STEPS = 25


@contextmanager
def brief_episodes() -> Iterator[None]:
    """Limit CartPole and Pendulum made within to 25 steps; worker processes do not know of it."""
    with ExitStack() as stack:
        for name in ("CartPole-v1", "Pendulum-v1"):
            stack.enter_context(patch.object(gymnasium.spec(name), "max_episode_steps", STEPS))
        yield
