"""Environments that fail as planned and write down what really happened; what a run may have stored of it.

Every state of every episode has a number of its own, drawn when it is reached; it can be read from the
observation, a vector or an image. The diary is a file a lane, so it outlives environments and processes.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

SIZE = 40
"""Height and width of the images."""
Plan = Mapping[int, str]
"""From the number of a call in a lane's life (resets and steps are counted apart) to what happens in it."""


class Mortal(gymnasium.Env[Any, Any]):
    """Episodes of 2 to 9 steps that end in each way; ``steps`` and ``resets`` say in which call it fails.

    Args:
        folder: of the diaries; None: none is kept, and nothing fails.
        lane: names its diary.
        steps: "raise", "nan observation", "nan reward", "form", "kill" or "exit", at the call of that number.
        resets: the same; the first reset is 1.
        image: whether images are observed.
    """

    action_space = Discrete(3)

    def __init__(
        self,
        folder: Path | None = None,
        lane: int = 0,
        steps: Plan | None = None,
        resets: Plan | None = None,
        image: bool = False,
    ) -> None:
        self.diary = None if folder is None else folder / f"lane{lane}.jsonl"
        self.plans, self.image = {"step": steps or {}, "reset": resets or {}}, image
        self.observation_space = Box(0, 255, (SIZE, SIZE), np.uint8) if image else Box(0, 1, (1,), np.float32)
        self.body = len(self.read("made"))
        self.write("made")

    def read(self, kind: str) -> list[dict[str, Any]]:
        return [] if self.diary is None else [line for line in lines(self.diary) if line["kind"] == kind]

    def write(self, kind: str, **facts: Any) -> None:
        if self.diary is not None:
            with self.diary.open("a") as file:
                print(json.dumps({"kind": kind, "body": self.body, **facts}), file=file)

    def fate(self, call: str, **facts: Any) -> str:
        """Count the call, and do what is planned for it; return what is wrong with its result."""
        if self.diary is None:
            return ""
        self.write(f"call of {call}", **facts)
        what = self.plans[call].get(len(self.read(f"call of {call}")), "")
        if what == "raise":
            raise ZeroDivisionError("no wheels")
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            os._exit(3)
        return what

    def observe(self, wrong: str) -> Any:
        self.state = int(self.np_random.integers(1, 2**24))
        if wrong == "nan observation":
            return np.full(self.observation_space.shape or (), np.nan, np.float32)
        if not self.image:
            return np.array([self.state / 2**24], np.float32)
        frame = np.zeros((SIZE, SIZE), np.uint8)
        frame[0, :3] = np.frombuffer(self.state.to_bytes(3, "big"), np.uint8)
        return frame

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        wrong = self.fate("reset", seed=seed)
        self.left, self.ending = int(self.np_random.integers(2, 10)), int(self.np_random.integers(3))
        observation = self.observe(wrong)
        self.write("reset", state=self.state, seed=seed)
        return None if wrong == "form" else (observation, {})

    def step(self, action: Any) -> Any:
        before, wrong = self.state, self.fate("step")
        self.left -= 1
        observation, reward = self.observe(wrong), int(self.np_random.integers(-8, 9)) / 8
        ended = self.left == 0
        terminated, truncated = ended and self.ending != 1, ended and self.ending != 0
        facts = {"action": int(action), "reward": reward, "terminated": terminated, "truncated": truncated}
        if not wrong:
            self.write("step", before=before, state=self.state, **facts)
        if wrong == "form":
            return None
        return observation, np.nan if wrong == "nan reward" else reward, terminated, truncated, {}

    def close(self) -> None:
        self.write("closed")


class Unlucky(gymnasium.Env[Any, Any]):
    """Fails as its random state has it, so that an episode that is played again fails again."""

    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(3)

    def __init__(self, risk: float = 0.0) -> None:
        self.risk = risk

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(4, 12))
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        if self.np_random.random() < self.risk:
            raise ZeroDivisionError("no luck")
        self.left -= 1
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), 1.0, self.left == 0, False, {}


def lines(diary: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in diary.read_text().splitlines()] if diary.exists() else []


@dataclass(frozen=True)
class Real:
    """A step that an environment really made, in the ``episode``-th of its lane, the ``time``-th of it."""

    episode: int
    time: int
    before: int
    state: int
    action: int
    reward: float
    terminated: bool
    truncated: bool


def diary(folder: Path, lane: int, kind: str) -> list[dict[str, Any]]:
    """Return the lines of one kind in a lane's diary."""
    return [line for line in lines(folder / f"lane{lane}.jsonl") if line["kind"] == kind]


def real_steps(folder: Path, lane: int) -> list[Real]:
    """Return what really happened in a lane."""
    found: list[Real] = []
    episode, time = -1, 0
    for line in lines(folder / f"lane{lane}.jsonl"):
        if line["kind"] == "reset":
            episode, time = episode + 1, 0
        elif line["kind"] == "step":
            facts = {key: line[key] for key in Real.__dataclass_fields__ if key in line}
            found.append(Real(episode=episode, time=time, **facts))
            time += 1
    return found


def state_of(observations: torch.Tensor) -> torch.Tensor:
    """Return the numbers of the states that vectors [..., 1] or stacks [..., k, h, w] were observed in."""
    if observations.dtype == torch.uint8:
        pixels = observations[..., -1, 0, :3].long()
        return pixels[..., 0] * 2**16 + pixels[..., 1] * 2**8 + pixels[..., 2]
    return (observations.double() * 2**24).round().long().squeeze(-1)


def stored_steps(folder: Path, lane: int, state: dict[str, Any], seams: bool = False) -> list[Real | None]:
    """Check the records of a lane against its diary, and return what they are of.

    Each record must be a step that really happened, in the order in which they did; of an episode the first
    steps, without a gap; and the last that is stored of an episode, and no other, must say that it is done.

    Args:
        folder: of the diaries.
        lane: which.
        state: of the replay buffer, of vectors.
        seams: whether there may be steps between two episodes (NEXT_STEP), which come out as None.
    """
    records = {key: value[:, lane] for key, value in state["records"].items() if key != "next"}
    after = {key: value[:, lane] for key, value in state["records"]["next"].items()}
    real = {step.state: step for step in real_steps(folder, lane)}
    begun = {line["state"] for line in diary(folder, lane, "reset")}
    steps: list[Real | None] = []
    reached = state_of(after["observation"]).tolist()
    for row, number in enumerate(reached):
        if seams and number in begun:
            assert bool(after["truncated"][row]) and float(after["reward"][row]) == 0
            steps.append(None)
            continue
        step = real[number]
        assert int(state_of(records["observation"][row])) == step.before
        assert int(records["action"][row].argmax()) == step.action
        assert float(after["reward"][row]) == step.reward
        assert bool(after["terminated"][row]) == step.terminated
        steps.append(step)
    for row, (step, following) in enumerate(zip(steps, [*steps[1:], None], strict=True)):
        assert bool(after["done"][row]) == bool(after["terminated"][row] | after["truncated"][row])
        if step is None:
            continue
        goes_on = following is not None and following.episode == step.episode
        assert not goes_on or following.time == step.time + 1  # type: ignore[union-attr]
        assert goes_on or following is None or following.time == 0
        if row + 1 < len(steps):
            assert bool(after["done"][row]) != goes_on
            assert bool(after["truncated"][row]) == (step.truncated or not (goes_on or step.terminated))
    return steps


def check_windows(steps: list[Real | None], priorities: torch.Tensor, horizon: int) -> None:
    """Check that windows begin just where they hold steps of one episode up to its end by termination.

    Args:
        steps: of :func:`stored_steps`.
        priorities: of the records, [T].
        horizon: records in a window.
    """
    for anchor in range(len(steps)):
        window = steps[anchor : anchor + horizon]
        legal = len(window) == horizon and window[0] is not None
        for step, following in pairwise(window):
            if not legal or (step is not None and step.terminated):
                break
            legal = step is not None and following is not None and step.episode == following.episode
        assert bool(priorities[anchor] > 0) == legal, anchor


def check_replay(folder: Path, buffer: Any, lanes: int, faults: int, seams: bool = False) -> None:
    """Check all that a replay buffer of vectors holds against the diaries; a fault costs a lane one step."""
    state = buffer.state_dict()
    for lane in range(lanes):
        steps = stored_steps(folder, lane, state, seams)
        check_windows(steps, state["priorities"][:, lane], state["horizon"])
        lost = len(real_steps(folder, lane)) - sum(step is not None for step in steps)
        assert 0 <= lost <= faults


def check_drawn(folder: Path, buffer: Any, draws: int, lanes: int) -> None:
    """Check windows drawn from a replay buffer, of vectors or images, against the diaries."""
    real = {step.state: (lane, step) for lane in range(lanes) for step in real_steps(folder, lane)}
    for _ in range(draws):
        batch = buffer.sample()
        key = "pixels" if "pixels" in batch else "observation"
        before, after = state_of(batch[key]), state_of(batch["next", key])
        for row in range(len(batch)):
            steps = []
            for time, number in enumerate(after[row].tolist()):
                steps.append(real[number])
                assert int(before[row, time]) == steps[-1][1].before
                assert float(batch["next", "reward"][row, time]) == steps[-1][1].reward
                if steps[-1][1].terminated:
                    break
            first_lane, first = steps[0]
            for time, (lane, step) in enumerate(steps):
                assert (lane, step.episode, step.time) == (first_lane, first.episode, first.time + time)
            if key == "pixels":
                check_stack(batch["next", key][row], steps, real)


def check_stack(stacks: torch.Tensor, steps: list[tuple[int, Real]], real: dict[int, Any]) -> None:
    """Check that the older frames [T, k, h, w] of a window are those of the same episode."""
    for stack, (_, step) in zip(stacks, steps, strict=False):
        frames = state_of(stack.unsqueeze(1)).tolist()
        expected = [step.state]
        while len(expected) < len(frames):
            _, came = real.get(expected[0], (0, None))
            expected.insert(0, expected[0] if came is None else came.before)
        assert frames == expected
