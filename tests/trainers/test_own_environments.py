"""Training in a user's own environment, whatever form it has; several lanes that end at their own times.

What one environment gives is tested in ``tests/envs``; here it is the whole run: what was counted,
stored and drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import NormalizeObservation, RecordEpisodeStatistics, TimeLimit

import uld_torchrl
from uld_torchrl.config import AgentConfig, override
from uld_torchrl.envs import copy_env
from uld_torchrl.errors import InputError
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import ULDTrainer

Make = Callable[..., ULDTrainer]


class Diary(gymnasium.Env):
    """Shows (number of its seed, episode, time); 3 to 9 steps, terminated or truncated; pays the time."""

    observation_space = Box(-np.inf, np.inf, (3,), np.float64)
    action_space = Discrete(2)

    def __init__(self) -> None:
        self.episode = 0

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.lane = float(self.np_random.integers(1, 1_000_000))
            self.episode = 0
        self.episode += 1
        self.time, self.length = 0, int(self.np_random.integers(3, 10))
        self.terminal = bool(self.np_random.integers(2))
        return self.look(), {}

    def look(self) -> np.ndarray:
        return np.array([self.lane, self.episode, self.time], np.float64)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        over = self.time == self.length
        return self.look(), float(self.time), over and self.terminal, over and not self.terminal, {}


class Named(Diary):
    """The same as a dict, given in another order than the space's."""

    observation_space = Dict(
        [("time", Box(0, 99, ())), ("lane", Box(0, 1e6, (1,))), ("episode", Box(0, 99, (1,)))]
    )

    def look(self) -> Any:
        lane, episode, time = super().look()
        return {"episode": [episode], "lane": [lane], "time": time}


def records(trainer: ULDTrainer) -> dict[str, np.ndarray]:
    """The stored records in the order of writing, [T, lanes, ...]."""
    stored = trainer.buffer.state_dict()["records"]
    return {
        "now": stored["observation"].numpy(),
        "after": stored["next"]["observation"].numpy(),
        "reward": stored["next"]["reward"].squeeze(-1).numpy(),
        "terminated": stored["next"]["terminated"].squeeze(-1).numpy(),
        "truncated": stored["next"]["truncated"].squeeze(-1).numpy(),
    }


def played(lane: int, table: dict[str, np.ndarray]) -> tuple[list[float], int]:
    """Check a lane's records step by step against the rules of Diary; return finished returns, steps."""
    returns, total = [], 0.0
    now, after = table["now"][:, lane], table["after"][:, lane]
    for t in range(len(now)):
        assert after[t].tolist() == [now[t][0], now[t][1], now[t][2] + 1]
        assert table["reward"][t, lane] == after[t][2]
        total += table["reward"][t, lane]
        ended = bool(table["terminated"][t, lane] | table["truncated"][t, lane])
        if t + 1 < len(now):
            follows = [now[t][0], now[t][1] + 1, 0] if ended else after[t].tolist()
            assert now[t + 1].tolist() == follows
        if ended:
            assert 3 <= after[t][2] <= 9
            returns.append(total)
            total = 0.0
    return returns, len(now)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_lanes_end_at_their_own_times_and_no_window_mixes_them(
    workers: int, tmp_path: Path, make_trainer: Make
) -> None:
    settings = {"num_envs": 3, "total_steps": 120, "log_every": 120, "random_steps": 30}
    trainer = make_trainer(tmp_path, Diary, options={"env_workers": workers}, **settings)
    trainer.train()
    trainer.close()
    table = records(trainer)
    lanes = [played(lane, table) for lane in range(3)]
    assert len({tuple(table["now"][:, lane, 0]) for lane in range(3)}) == 3
    returns = [value for lane, _ in lanes for value in lane]
    assert sum(steps for _, steps in lanes) == trainer.step == 120
    (row,) = read_rows(trainer.run.metrics)
    assert int(row["episodes"]) == len(returns) > 12
    assert float(row["episode_return"]) == pytest.approx(np.mean(returns))
    assert int(row["updates"]) == 120 - 30 and table["terminated"].any() and table["truncated"].any()
    assert any(len(set(map(bool, ends))) == 2 for ends in table["terminated"] | table["truncated"])

    # Every window that is ever drawn: one lane, consecutive until a termination, never past a truncation.
    drawn = set()
    for _ in range(150):
        batch = trainer.buffer.sample()
        for window, anchor in zip(batch["observation"].numpy(), batch["anchor_index"][:, 0], strict=True):
            drawn.add(tuple(anchor.tolist()))
            t, lane = anchor.tolist()
            assert (window[:, 0] == window[0, 0]).all()
            np.testing.assert_array_equal(window, table["now"][t : t + 5, lane])
            for k in range(4):
                if table["terminated"][t + k, lane]:
                    break
                assert not table["truncated"][t + k, lane]
    horizon, legal = 5, set()
    for lane in range(3):
        for t in range(40 - horizon + 1):
            terminated, truncated = (
                table[name][t : t + 4, lane].tolist() for name in ("terminated", "truncated")
            )
            first = [*(k for k in range(4) if terminated[k] or truncated[k]), None][0]
            if first is None or terminated[first]:
                legal.add((t, lane))
    assert drawn <= legal
    assert len(drawn) > 0.9 * len(legal)


FORMS: dict[str, Callable[[], Any]] = {
    "an environment": Diary,
    "a class": lambda: Diary,
    "a function": lambda: lambda: Diary(),
    "a wrapped environment": lambda: TimeLimit(Diary(), 100),
    "a vector environment": lambda: SyncVectorEnv([Diary]),
    "a dict observation": lambda: Named,
}


def seen_by(trainer: ULDTrainer) -> np.ndarray:
    """Train, and return all observations."""
    trainer.train()
    trainer.close()
    now = records(trainer)["now"]
    # A dict's space has time first.
    return now[..., [1, 2, 0]] if isinstance(trainer.agent.observation_space, Dict) else now


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, make_trainer: Make) -> np.ndarray:
    """What the run on the class itself sees."""
    return seen_by(make_trainer(tmp_path_factory.mktemp("plain"), Diary))


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS.keys())
def test_every_form_of_the_same_environment_gives_the_same_run(
    make: Callable[[], Any], tmp_path: Path, make_trainer: Make, plain: np.ndarray
) -> None:
    np.testing.assert_array_equal(seen_by(make_trainer(tmp_path, make())), plain)


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_a_vector_environment_sets_the_number_of_lanes(kind: Any, tmp_path: Path, make_trainer: Make) -> None:
    env = kind([Diary] * 2)
    trainer = make_trainer(tmp_path, env, total_steps=60)
    trainer.train()
    trainer.close()
    env.close()
    assert trainer.config.run.num_envs == 2
    assert [played(lane, records(trainer))[1] for lane in (0, 1)] == [30, 30]
    assert {row["episodes"] for row in read_rows(trainer.run.evaluations)} == {"1"}


def test_another_number_of_lanes_is_refused(tmp_path: Path, make_trainer: Make) -> None:
    with pytest.raises(InputError, match="num_envs must be 2"):
        make_trainer(tmp_path, SyncVectorEnv([Diary] * 2), num_envs=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_gymnasiums_own_vectorised_task(tmp_path: Path, make_trainer: Make) -> None:
    """CartPole pays 1 a step; the steps between two episodes belong to none and are never drawn."""
    env = gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point")
    settings = {"total_steps": 300, "log_every": 300, "random_steps": 250, "eval_episodes": 4}
    trainer = make_trainer(tmp_path, env, **settings)
    trainer.train()
    trainer.close()
    stored = trainer.buffer.state_dict()["records"]["next"]
    reward, done = stored["reward"].squeeze(-1), stored["done"].squeeze(-1)
    seam = torch.zeros_like(done)
    seam[1:] = done[:-1] & (reward[1:] == 0)
    (row,) = read_rows(trainer.run.metrics)
    assert int(row["episodes"]) == int((done & ~seam).sum()) > 5
    finished = [
        float(run)
        for lane in range(3)
        for run in np.diff(np.flatnonzero(done[:, lane] & ~seam[:, lane]), prepend=-1)
    ]
    # All but a lane's first episode have a seam before them, which pays nothing.
    lanes = (done & ~seam).any(0).sum()
    mean = (sum(finished) - len(finished) + lanes) / len(finished)
    assert float(row["episode_return"]) == pytest.approx(mean)
    assert not trainer.buffer._sampler.priorities[: len(seam)][seam].any()
    assert {row["episodes"] for row in read_rows(trainer.run.evaluations)} == {"4"}


def test_wrappers_see_all_of_training_and_nothing_of_evaluation(tmp_path: Path, tiny: AgentConfig) -> None:
    env = RecordEpisodeStatistics(Diary(), buffer_length=1000)
    result = uld_torchrl.train(tiny, env, run_dir=tmp_path, progress=False)
    rows = read_rows(result.path / "metrics.csv")
    assert len(env.return_queue) == int(rows[-1]["episodes"]) > 3
    # Still open, and the user's own: it goes on where training left it.
    env.reset(seed=5)
    assert env.step(0)[1] == 1.0


class Door(Diary):
    """Keeps a list of all there are, and of those that were closed."""

    made: ClassVar[list[Door]] = []

    def __init__(self) -> None:
        super().__init__()
        self.made.append(self)
        self.closed = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Door:
        return Door()

    def close(self) -> None:
        self.closed = True


def test_objects_stay_open_and_their_copies_are_closed(tmp_path: Path, tiny: AgentConfig) -> None:
    Door.made.clear()
    env, judge = Door(), Door()
    config = override(tiny, ["run.num_envs=2"])
    uld_torchrl.train(config, env, eval_env=judge, run_dir=tmp_path, progress=False)
    assert len(Door.made) == 3  # one more lane
    assert [door.closed for door in Door.made] == [False, False, True]
    uld_torchrl.train(tiny, Door(), run_dir=tmp_path, name="alone", progress=False)
    assert [door.closed for door in Door.made[3:]] == [False, True]


def test_other_classes_or_wrappers_do_not_share_a_run(tmp_path: Path, tiny: AgentConfig) -> None:
    uld_torchrl.train(tiny, Diary, run_dir=tmp_path, progress=False)
    with pytest.raises(InputError, match=r"another configuration \(task.layers.*TimeLimit"):
        uld_torchrl.train(tiny, lambda: TimeLimit(Diary(), 3), run_dir=tmp_path, progress=False)
    other = type("Diary", (Named,), {})  # the same name, other spaces
    with pytest.raises(InputError, match=r"another configuration .*task.observation_space"):
        uld_torchrl.train(tiny, other, run_dir=tmp_path, progress=False)


@pytest.mark.parametrize("episodes", [1, 3])
def test_one_object_for_training_and_evaluation_is_refused(
    episodes: int, tmp_path: Path, tiny: AgentConfig
) -> None:
    env = Diary()
    config = override(tiny, [f"run.eval_episodes={episodes}"])
    for given, judge in ((lambda: env, None), (env, env)):
        with pytest.raises(InputError, match="same environment"):
            uld_torchrl.train(config, given, eval_env=judge, run_dir=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_an_evaluation_of_another_task_is_refused(tmp_path: Path, make_trainer: Make) -> None:
    with pytest.raises(InputError, match="eval_env must have the spaces of env"):
        make_trainer(tmp_path, Diary, options={"eval_env": "CartPole-v1"})
    assert not list(tmp_path.iterdir())


def test_windows_of_one_record_would_hold_the_steps_between_episodes(
    tmp_path: Path, tiny: AgentConfig
) -> None:
    config = override(tiny, ["loss.horizon=1", "loss.n_steps=1"])
    env = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point")
    with pytest.raises(InputError, match=r"horizon must be at least 2 .*NEXT_STEP"):
        uld_torchrl.train(config, env, run_dir=tmp_path, progress=False)


def test_what_a_wrapper_learns_is_warned_of(
    tmp_path: Path, make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    make_trainer(tmp_path, lambda: NormalizeObservation(Diary())).close()
    (record,) = (record for record in caplog.records if "statistics" in record.message)
    assert "NormalizeObservation" in record.message


def test_a_copy_that_is_made_anew_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    copy_env(gymnasium.make("Reacher-v5"))
    assert "copied by making it again" in caplog.text
    caplog.clear()
    copy_env(Diary())
    assert caplog.text == ""


def test_evaluation_plays_what_it_is_given(tmp_path: Path, make_trainer: Make) -> None:
    trainer = make_trainer(
        tmp_path, Diary, eval_episodes=5, options={"eval_env": lambda: TimeLimit(Diary(), 2)}
    )
    result = trainer.train()
    trainer.close()
    assert (result.length_mean, result.return_mean, result.return_std) == (2.0, 3.0, 0.0)


def test_a_run_of_ones_own_environment_is_evaluated_with_it(tmp_path: Path, tiny: AgentConfig) -> None:
    result = uld_torchrl.train(tiny, Diary, run_dir=tmp_path, progress=False)
    assert result.path == tmp_path / "custom/Diary/custom/seed0"
    with pytest.raises(InputError, match=r"custom/Diary.*Python"):
        uld_torchrl.evaluate_run(result.path)
    first, again = (uld_torchrl.evaluate_run(result.path, env=Diary, episodes=3, seed=2) for _ in range(2))
    assert first.result.returns.tolist() == again.result.returns.tolist()
    with pytest.raises(InputError, match="env must have the spaces of custom/Diary"):
        uld_torchrl.evaluate_run(result.path, env="CartPole-v1")


def test_the_seed_decides_also_for_objects(tmp_path: Path, make_trainer: Make) -> None:
    tables = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer = make_trainer(tmp_path / name, Diary(), seed=seed, num_envs=2)
        trainer.train()
        trainer.close()
        tables.append(records(trainer))
    for key, value in tables[0].items():
        np.testing.assert_array_equal(value, tables[1][key])
    assert not np.array_equal(tables[0]["now"], tables[2]["now"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"config": None}, "config must be an AgentConfig or the name of a preset, got None"),
        ({"config": "tiny"}, "preset must be one of"),
        ({"seed": 1.5}, "seed must be an integer from 0 to 4294967295, got 1.5"),
        ({"seed": "a"}, "seed must be an integer"),
        ({"device": "gpu"}, "device must be one of"),
        ({"env": 3}, "env must be a name such as"),
    ],
)
def test_wrong_arguments_of_train(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        uld_torchrl.train(**{"config": "debug", "env": "CartPole-v1", "run_dir": tmp_path, **arguments})
    assert not list(tmp_path.iterdir())


def test_an_older_model_of_a_run_that_goes_on_is_warned_of(
    tmp_path: Path, make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_trainer(tmp_path)
    first.train()
    first.close()
    uld_torchrl.load(first.run.path)
    assert "goes on to" not in caplog.text
    longer = make_trainer(tmp_path, total_steps=60)
    longer._evaluate = longer.close  # type: ignore[method-assign,assignment]
    with pytest.raises(AttributeError):  # it ends there
        longer.train()
    uld_torchrl.load(first.run.path)
    assert "is that of step 40; the run goes on to 60" in caplog.text
