"""``agent.predict``: the task's own observations in, the task's own actions out, single or batched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from uld_torchrl.config import AgentConfig, preset
from uld_torchrl.envs import TaskSpaces, make_env
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import Agent, evaluate

DEBUG = preset("debug")
PLACE = Box(-10, 10, (3,), np.float64)
PARTS = Dict({"place": PLACE, "gear": Discrete(4, start=1)})
WHEEL = Box(np.array([[-2.0], [0.0]]), np.array([[2.0], [10.0]]), dtype=np.float64)
BUTTON = Discrete(3, start=5)


def agent_of(
    action: gymnasium.Space[Any], observation: gymnasium.Space[Any] = PLACE, config: AgentConfig = DEBUG
) -> Agent:
    torch.manual_seed(0)
    return Agent.build("custom/Toy", TaskSpaces(observation, action), config)


def by_policy(agent: Agent, vectors: np.ndarray) -> torch.Tensor:
    """The policy's own answer, in the agent's form."""
    td = TensorDict(observation=torch.as_tensor(vectors, dtype=torch.float32), batch_size=[len(vectors)])
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        return agent.policy(td)["action"]


def test_a_box_action_has_the_shape_type_and_range_of_its_space() -> None:
    agent = agent_of(WHEEL)
    places = np.linspace(-9, 9, 30).reshape(10, 3)
    batch = agent.predict(places)
    assert (batch.shape, batch.dtype) == ((10, 2, 1), np.float64)
    unit = by_policy(agent, places).double().numpy()
    np.testing.assert_allclose(batch[:, 0, 0], 2 * unit[:, 0], rtol=1e-15)
    np.testing.assert_allclose(batch[:, 1, 0], 5 + 5 * unit[:, 1], rtol=1e-15)
    assert batch.std(0).min() > 0  # it does look at the observation
    for place, expected in zip(places, batch, strict=True):
        action = agent.predict(place)
        assert WHEEL.contains(action)
        np.testing.assert_allclose(action, expected, rtol=1e-5)  # one row, or ten: another product order


def test_a_discrete_action_is_a_choice_of_its_space() -> None:
    agent = agent_of(BUTTON)
    places = np.random.default_rng(0).uniform(-10, 10, (50, 3))
    batch = agent.predict(places)
    assert (batch.shape, batch.dtype) == ((50,), np.int64)
    assert batch.tolist() == (by_policy(agent, places).long().argmax(-1) + 5).tolist()
    assert len(set(batch.tolist())) > 1
    single = agent.predict(places[0])
    assert BUTTON.contains(single)
    assert single == batch[0]


def test_dict_observations_are_taken_by_name() -> None:
    agent = agent_of(WHEEL, PARTS)
    place = [1.0, -2.0, 3.0]
    one = agent.predict({"place": place, "gear": 2})
    # The space sorts a plain dict by key: gear first, as a choice of 1, 2, 3, 4.
    expected = by_policy(agent, np.array([[0, 1, 0, 0, *place]]))
    assert one[0, 0] == pytest.approx(2 * float(expected[0, 0]), rel=1e-6)
    np.testing.assert_array_equal(agent.predict({"gear": 2, "place": place}), one)
    assert not np.array_equal(agent.predict({"gear": 3, "place": place}), one)
    batch = agent.predict({"gear": np.array([2, 3]), "place": np.array([place, place])})
    assert batch.shape == (2, 2, 1)
    np.testing.assert_allclose(batch[0], one, rtol=1e-6)


def test_deterministic_answers_repeat_and_exploring_ones_do_not() -> None:
    agent = agent_of(WHEEL)
    place = np.ones(3)
    fixed = [agent.predict(place) for _ in range(3)]
    assert all(np.array_equal(action, fixed[0]) for action in fixed)
    tried = np.array([agent.predict(place, deterministic=False)[0, 0] for _ in range(200)])
    # Noise of .2 in units of [-1, 1], on bounds of +-2.
    assert 0.3 < tried.std() < 0.5
    assert abs(tried.mean() - fixed[0][0, 0]) < 0.15


@pytest.mark.parametrize("name", ["uld", "mrq"])
def test_a_discrete_answer_is_the_most_probable_also_where_evaluation_samples(name: str) -> None:
    config = AgentConfig(model=DEBUG.model, run=preset(name).run)
    agent = agent_of(BUTTON, config=config)
    answers = agent.predict(np.ones((300, 3)))
    assert len(set(answers.tolist())) == 1
    assert len(set(agent.predict(np.ones((300, 3)), deterministic=False).tolist())) == 3
    # The policy itself keeps its setting.
    assert len(by_policy(agent, np.ones((300, 3))).unique(dim=0)) == (1 if name == "uld" else 3)


def test_tensors_are_taken_as_arrays_are() -> None:
    agent = agent_of(WHEEL, PARTS)
    expected = agent.predict({"gear": 2, "place": [1.0, 2.0, 3.0]})
    for place in (
        torch.tensor([1.0, 2.0, 3.0], requires_grad=True),
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16),
    ):
        np.testing.assert_array_equal(agent.predict({"gear": torch.tensor(2), "place": place}), expected)


def test_arrays_are_read_however_they_lie_in_memory() -> None:
    agent, places = agent_of(WHEEL), np.linspace(-9, 9, 30, dtype=np.float32).reshape(10, 3)
    backwards = places[::-1, ::-1]
    np.testing.assert_array_equal(agent.predict(backwards), agent.predict(backwards.copy()))
    places.flags.writeable = False
    assert agent.predict(places).shape == (10, 2, 1)
    assert agent.predict(places[:0]).shape == (0, 2, 1)


BAD: dict[str, tuple[Any, Any, list[str]]] = {
    "too short": (PLACE, [1.0, 2.0], ["(3,)", "(2,)"]),
    "too many dimensions": (PLACE, np.zeros((2, 2, 3)), ["(3,)", "(2, 2, 3)"]),
    "a word": (PLACE, "left", ["observation"]),
    "NaN": (PLACE, [0.0, np.nan, 0.0], ["observation[1]", "finite"]),
    "infinity in a batch": (PLACE, [[0.0, 0, 0], [0, 0, np.inf]], ["observation[2]", "finite"]),
    "a part is missing": (PARTS, {"gear": 1}, ["place", "gear"]),
    "a part too many": (PARTS, {"gear": 1, "place": [0.0, 0, 0], "x": 1}, ["place", "x"]),
    "no dict": (PARTS, [0.0, 0, 0], ["dict", "place"]),
    "no such gear": (PARTS, {"gear": 0, "place": [0.0, 0, 0]}, ["gear", "1 to 4"]),
}


@pytest.mark.parametrize(("space", "observation", "words"), BAD.values(), ids=BAD.keys())
def test_an_observation_that_does_not_fit_is_named(space: Any, observation: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        agent_of(WHEEL, space).predict(observation)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "dmc/cartpole-swingup"])
def test_a_plain_loop_plays_as_evaluation_does(env_id: str, tmp_path: Path) -> None:
    """predict in the raw environment and the policy in ours see and do the same, to float32."""
    env = make_env(env_id)
    torch.manual_seed(1)
    agent = Agent.for_env(env_id, env, DEBUG)
    agent.save(tmp_path)
    loaded = Agent.load(tmp_path)
    expected = evaluate(env, agent.policy, seed=7)
    if env_id.startswith("dmc/"):
        from uld_torchrl.envs.dmc import DMControlTask

        raw: gymnasium.Env[Any, Any] = DMControlTask(env_id.removeprefix("dmc/"))
    else:
        raw = gymnasium.make(env_id)
    raw.reset(seed=7)
    observation, _ = raw.reset()  # evaluate seeds, which resets, and resets
    total, length, done = 0.0, 0, False
    while not done:
        action = loaded.predict(observation)
        assert raw.action_space.contains(action)
        observation, reward, terminated, truncated, _ = raw.step(action)
        total, length, done = total + float(reward), length + 1, terminated or truncated
    raw.close()
    assert length == int(expected.lengths)
    assert total == pytest.approx(float(expected.returns), rel=1e-4, abs=1e-4)


def test_the_policy_is_a_module_for_rollouts() -> None:
    env = make_env("Pendulum-v1", num_envs=2, seed=0)
    agent = Agent.for_env("gym/Pendulum-v1", env, DEBUG)
    rollout = env.rollout(5, agent.policy)
    assert rollout.shape == (2, 5)
    assert rollout["action"].abs().max() <= 1
