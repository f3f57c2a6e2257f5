"""The export of an agent: its numbers are worked out once more in NumPy, from the weights alone."""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from tensordict import TensorDict

import theory
from uld_torchrl.config import AgentConfig, override, preset
from uld_torchrl.data import WindowReplayBuffer, make_replay_buffer
from uld_torchrl.diagnostics import export_embeddings, replay_counts, save_export
from uld_torchrl.envs import TaskSpaces
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import Agent

MDP = theory.garnet(5, 3, 2, gamma=0.9, seed=0)
EMBEDDINGS = {"zs", "zsa", "zs_next_pred"}
PAIRS = {"q", "r_hat", "d_hat", "v_at_pred"}
NUMBERS = {"gamma", "n_step", "reward_scale", "greedy", "mdp"}


def agent_of(*settings: str, space: Any = None, num_actions: int = 3, seed: int = 0) -> Agent:
    """A tiny untrained agent; its weights are moved by up to half, so that no bias is zero."""
    config = override(preset("debug"), list(settings))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        spaces = TaskSpaces(Discrete(5) if space is None else space, Discrete(num_actions))
        agent = Agent.build("custom/garnet", spaces, config)
        for tensor in agent._tensors().values():
            tensor += torch.rand(tensor.shape) - 0.5
    agent.loss.reward_scale.fill_(2.5)
    return agent


def lively(agent: Agent) -> Agent:
    """Centre policy and termination, so that neither is the same everywhere."""
    tensors = agent._tensors()
    with torch.no_grad():
        td = agent.policy(TensorDict({"observation": torch.eye(5)}, batch_size=[5]))
    tensors["actor_network.module.mlp.l3.bias"] -= td["pre_activation"].mean(0)
    tensors["predictor.module.linear.bias"][0] += 0.5 - export_embeddings(agent, MDP)["d_hat"].mean()
    return agent


# The networks once more, in float64.


def weights(agent: Agent) -> dict[str, np.ndarray]:
    return {key: value.numpy().astype(np.float64) for key, value in agent._tensors().items()}


def normal(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def linear(w: dict[str, np.ndarray], name: str, x: np.ndarray, head: Any = ()) -> np.ndarray:
    return x @ w[f"{name}.weight"][head].T + w[f"{name}.bias"][head]


def mlp(w: dict[str, np.ndarray], name: str, x: np.ndarray, activation: Any, head: Any = ()) -> np.ndarray:
    for layer in ("l1", "l2"):
        x = activation(normal(linear(w, f"{name}.module.mlp.{layer}", x, head)))
    return linear(w, f"{name}.module.mlp.l3", x, head)


class ByHand:
    """f, g, m, pi and Q of an agent for vectors, one vector at a time."""

    def __init__(self, agent: Agent) -> None:
        self.w, self.num_actions = weights(agent), agent.action_space.n
        self.bins = agent.loss.bins.numpy().astype(np.float64)
        self.scale = float(agent.loss.reward_scale)
        self.num_heads = agent.config.model.num_values

    def f(self, s: np.ndarray) -> np.ndarray:
        return elu(normal(mlp(self.w, "state_encoder", s, elu)))

    def g(self, z: np.ndarray, a: int) -> np.ndarray:
        z_a = elu(linear(self.w, "state_action_encoder.module.action_embedding", np.eye(self.num_actions)[a]))
        return mlp(self.w, "state_action_encoder", np.concatenate([z, z_a]), elu)

    def m(self, z_sa: np.ndarray) -> tuple[float, np.ndarray, float]:
        out = linear(self.w, "predictor.module.linear", z_sa)
        logits = out[17:]
        chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        return out[0], out[1:17], float(chances @ self.bins) if len(logits) > 1 else float(logits[0])

    def q(self, z_sa: np.ndarray) -> list[float]:
        hidden = [mlp(self.w, "qvalue_network", z_sa, elu, head) for head in range(self.num_heads)]
        outs = [linear(self.w, "qvalue_network.module.out", elu(normal(x)), i) for i, x in enumerate(hidden)]
        return [self.scale * float(out[0]) for out in outs]

    def pi(self, z: np.ndarray, policy: str) -> np.ndarray:
        logits = mlp(self.w, "actor_network", z, relu)
        if policy == "greedy":
            return np.eye(self.num_actions)[logits.argmax()]
        return np.exp(logits) / np.exp(logits).sum()

    def follows(self, z_sa: np.ndarray, policy: str) -> float:
        d, z_next, _ = self.m(z_sa)
        values = [np.mean(self.q(self.g(z_next, a))) for a in range(self.num_actions)]
        return (1 - min(max(d, 0.0), 1.0)) * float(self.pi(z_next, policy) @ values)


def expected(agent: Agent, vectors: np.ndarray, policy: str) -> dict[str, np.ndarray]:
    hand, actions = ByHand(agent), range(agent.action_space.n)
    zs = [hand.f(vector) for vector in vectors]
    zsa = [[hand.g(z, a) for a in actions] for z in zs]
    predicted = [[hand.m(z) for z in row] for row in zsa]
    heads = np.array([[hand.q(z) for z in row] for row in zsa])
    return {
        "zs": np.array(zs),
        "zsa": np.array(zsa),
        "q": heads.mean(-1),
        "q_heads": heads.transpose(2, 0, 1),
        "pi": np.array([hand.pi(z, policy) for z in zs]),
        "d_hat": np.array([[d for d, _, _ in row] for row in predicted]),
        "zs_next_pred": np.array([[z for _, z, _ in row] for row in predicted]),
        "r_hat": np.array([[r for _, _, r in row] for row in predicted]),
        "v_at_pred": np.array([[hand.follows(z, policy) for z in row] for row in zsa]),
    }


VARIANTS = {
    "published": (),
    "reward by its square": ("loss.reward_loss=mse",),
    "one head": ("model.num_values=1",),
    "three heads": ("model.num_values=3",),
}


@pytest.mark.parametrize("policy", ["greedy", "softmax"])
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_array_is_what_the_weights_say(settings: tuple[str, ...], policy: Any) -> None:
    agent = lively(agent_of(*settings))
    found = export_embeddings(agent, MDP, policy)
    wanted = expected(agent, np.eye(5), policy)
    assert found.keys() == wanted.keys() | NUMBERS
    for name, array in wanted.items():
        # float32 networks of nine layers against float64
        np.testing.assert_allclose(
            found[name], array, rtol=1e-4, atol=1e-5 * np.abs(array).max(), err_msg=name
        )
    assert len(np.unique(found["pi"].argmax(1))) > 1  # not one action for all states
    assert found["d_hat"].min() < 0 and found["d_hat"].max() > 1  # both ends of the clipping matter


def test_numbers_are_those_of_the_loss_and_counts_are_handed_through() -> None:
    agent = agent_of("loss.gamma=0.7", "loss.n_steps=2")
    arrays = export_embeddings(agent, MDP, counts=np.arange(15).reshape(5, 3))
    assert (arrays["gamma"], arrays["n_step"], arrays["reward_scale"]) == (0.7, 2, 2.5)
    assert arrays["counts"].tolist() == np.arange(15.0).reshape(5, 3).tolist()
    assert {name: arrays[name].shape for name in NUMBERS} == dict.fromkeys(NUMBERS, ())
    assert {name: str(arrays[name].dtype) for name in EMBEDDINGS} == dict.fromkeys(EMBEDDINGS, "float32")
    assert {name: str(arrays[name].dtype) for name in PAIRS} == dict.fromkeys(PAIRS, "float64")


def test_the_softmax_policy_is_how_often_the_gumbel_policy_prefers_each_action() -> None:
    agent = agent_of("model.gumbel_tau=3.0")
    pi = export_embeddings(agent, MDP, "softmax")["pi"]
    draws = 20_000
    td = TensorDict({"observation": torch.eye(5).repeat(draws, 1)}, batch_size=[5 * draws])
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        for module in list(agent.policy)[:2]:  # without the exploration noise
            td = module(td)
    taken = np.eye(3)[td["action"].argmax(-1).numpy()].reshape(draws, 5, 3).mean(0)
    # Five standard deviations of a frequency.
    assert (np.abs(taken - pi) <= 5 * np.sqrt(pi * (1 - pi) / draws)).all()
    assert pi.max() < 0.95


def test_the_greedy_policy_is_how_the_agent_acts() -> None:
    agent = agent_of()
    assert export_embeddings(agent, MDP)["pi"].argmax(1).tolist() == agent.predict(np.arange(5)).tolist()


def test_states_evaluated_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_of()
    whole = export_embeddings(agent, MDP)
    monkeypatch.setattr("uld_torchrl.diagnostics.export._ROWS", 18)  # two states at a time
    for name, array in export_embeddings(agent, MDP).items():
        np.testing.assert_allclose(array, whole[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_nothing_of_the_agent_or_of_the_random_state_changes() -> None:
    agent = agent_of()
    before, trains = copy.deepcopy(agent.loss.state_dict()), [m.training for m in agent.loss.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    arrays = export_embeddings(agent, MDP, "softmax")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert [m.training for m in agent.loss.modules()] == trains
    assert torch.is_grad_enabled()
    for key, value in agent.loss.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.grad is None for parameter in agent.loss.parameters())
    for name, array in export_embeddings(agent, MDP, "softmax").items():  # and it is repeatable
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.gpu
def test_an_agent_on_a_gpu_gives_the_same() -> None:
    agent = agent_of()
    on_gpu = Agent.build("custom/garnet", agent.spaces, agent.config, "cuda")
    on_gpu.loss.load_state_dict(agent.loss.state_dict())
    state = torch.cuda.get_rng_state()
    found = export_embeddings(on_gpu, MDP, "softmax")
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for name, array in export_embeddings(agent, MDP, "softmax").items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-3, err_msg=name)


def test_half_precision_networks_are_exported() -> None:
    agent = agent_of()
    agent.loss.to(torch.bfloat16)
    agent._read = lambda given: TensorDict({"observation": torch.eye(5).bfloat16()}, batch_size=[5])  # type: ignore[method-assign]
    found = export_embeddings(agent, MDP)
    assert {str(found[name].dtype) for name in EMBEDDINGS} == {"float32"}


# Observations


@pytest.mark.parametrize(
    ("space", "given"),
    [
        (Discrete(5, start=7), None),
        (Box(0, 1, (5,)), None),
        (Box(0, 1, (5,)), np.eye(5)),
        (Discrete(5), np.arange(5)),
        (Dict(one=Box(0, 1, (2,)), two=Box(0, 1, (3,))), {"one": np.eye(5)[:, :2], "two": np.eye(5)[:, 2:]}),
    ],
    ids=["Discrete", "Box", "given rows", "given numbers", "Dict"],
)
def test_one_hot_states_in_any_dress_give_the_same(space: Any, given: Any) -> None:
    found = export_embeddings(agent_of(space=space), MDP, observations=given)
    for name, array in export_embeddings(agent_of(), MDP).items():
        np.testing.assert_array_equal(found[name], array)


def test_given_observations_are_what_the_agent_sees() -> None:
    places = np.array([[0.0, 0.5], [1.0, -2.0], [3.0, 0.0], [0.25, 0.125], [-1.0, 1.0]])
    agent = agent_of(space=Box(-5, 5, (2,)))
    found = export_embeddings(agent, MDP, observations=places)
    np.testing.assert_allclose(found["zs"], expected(agent, places, "greedy")["zs"], rtol=1e-4, atol=1e-5)


def test_an_agent_of_images_is_exported() -> None:
    frames = np.random.default_rng(0).integers(256, size=(5, 3, 31, 31), dtype=np.uint8)
    spaces = TaskSpaces(Box(0, 255, (3, 31, 31), np.uint8), Discrete(3), frames=3)
    agent = Agent.build("custom/film", spaces, preset("debug"))
    arrays = export_embeddings(agent, MDP, observations=frames)
    with torch.no_grad():
        td = agent.policy[0](TensorDict({"pixels": torch.from_numpy(frames)}, batch_size=[5]))
    np.testing.assert_allclose(arrays["zs"], td["state_embedding"].numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="give observations, one for each state"):
        export_embeddings(agent, MDP)


# Refusals


def with_nan(agent: Agent, name: str) -> Agent:
    agent._tensors()[name].fill_(np.nan)
    return agent


def refusal(**changes: Any) -> str:
    arguments: dict[str, Any] = {"agent": agent_of(), "mdp": MDP, **changes}
    with pytest.raises(InputError) as caught:
        export_embeddings(**arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_policy_is_refused() -> None:
    assert refusal(policy="boltzmann") == "policy must be one of greedy, softmax; got 'boltzmann'."


def test_an_mdp_of_another_environment_is_refused() -> None:
    wide, long = theory.garnet(5, 4, 2, gamma=0.9, seed=0), theory.garnet(6, 3, 2, gamma=0.9, seed=0)
    assert "the action space Discrete(3), the MDP has 4 actions" in refusal(mdp=wide)
    assert "Discrete(5), in which the 6 states of the MDP are not known" in refusal(mdp=long)
    assert "got a batch of (5,)" in refusal(mdp=long, observations=np.arange(5))
    assert "mdp must be a theory.TabularMDP, got str: uld_torchrl.envs.named_mdp" in refusal(mdp="garnet")
    assert "agent must be an Agent, such as uld_torchrl.load(run), got str" in refusal(agent="runs/mine")


@pytest.mark.parametrize("space", [Box(-1, 1, (5,)), Box(0, 2, (5,)), Box(-np.inf, np.inf, (5,))])
def test_as_many_numbers_as_states_are_not_taken_for_one_hot_states(space: Box) -> None:
    agent = agent_of(space=space)
    assert "in which the 5 states of the MDP are not known" in refusal(agent=agent)
    given = export_embeddings(agent, MDP, observations=np.eye(5) / 2)
    assert given["zs"].shape[0] == 5


def test_continuous_actions_are_refused() -> None:
    agent = Agent.build("custom/car", TaskSpaces(Discrete(5), Box(-1, 1, (3,))), preset("debug"))
    assert "must be Discrete" in refusal(agent=agent)


def test_predictions_of_pairs_are_refused() -> None:
    agent = agent_of("loss.dynamics_target=state_action", "loss.unroll=false")
    assert "Train with loss.dynamics_target=state" in refusal(agent=agent)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((5, 4)), "the shape (5, 5), got the shape (5, 4)"),
        (np.zeros(5), "batch of ()"),
        (np.zeros((4, 5)), "batch of (4,)"),
        (np.full((5, 5), np.nan), "must be finite"),
        ("states", "numbers"),
    ],
)
def test_observations_that_do_not_fit_are_refused(given: Any, said: str) -> None:
    assert said in refusal(agent=agent_of(space=Box(0, 1, (5,))), observations=given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((3, 5)), "(5, 3), got (3, 5)"),
        (np.full((5, 3), -1.0), "got -1.0 at state 0, action 0"),
        (np.full((5, 3), np.inf), "got inf at state 0, action 0"),
        ([["many"]], "numbers"),
    ],
)
def test_counts_that_do_not_fit_are_refused(given: Any, said: str) -> None:
    assert said in refusal(counts=given)


@pytest.mark.parametrize(
    ("tensor", "array"),
    [
        ("state_encoder.module.mlp.l3.bias", "zs"),
        ("predictor.module.linear.bias", "zs_next_pred"),
        ("qvalue_network.module.out.bias", "q"),
    ],
)
def test_a_network_that_gives_nan_is_refused(tensor: str, array: str) -> None:
    agent = with_nan(agent_of(), tensor)
    assert refusal(agent=agent) == f"{array} of the agent must be finite, got NaN or infinity at state 0."


# Files


def test_a_saved_export_loads_without_pickle_and_theory_reads_it(tmp_path: Path) -> None:
    arrays = export_embeddings(agent_of(), MDP, counts=np.ones((5, 3)))
    save_export(tmp_path / "new" / "step-7.npz", {**arrays, "step": 7})
    with np.load(tmp_path / "new" / "step-7.npz", allow_pickle=False) as file:
        assert set(file) == {*arrays, "step"}
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[name], array)
            assert file[name].dtype == array.dtype
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["step-7.npz"]


def test_equal_exports_are_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        save_export(tmp_path / name, export_embeddings(agent_of(), MDP))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_no_number_is_not_saved(tmp_path: Path) -> None:
    for value in ("word", object(), None, [object()]):
        with pytest.raises(InputError, match="extra must be an array of numbers"):
            save_export(tmp_path / "file.npz", {"q": np.ones(3), "extra": value})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_export(tmp_path / "file.npz", {"q": np.ones(3)})

    def fail(file: Any, *_: Any, **__: Any) -> None:
        raise OSError("disk full")

    for place, name in ((np, "savez"), (os, "replace")):
        monkeypatch.setattr(place, name, fail)
        with pytest.raises(OSError, match="disk full"):
            save_export(tmp_path / "file.npz", {"q": np.zeros(3)})
        monkeypatch.undo()
    with np.load(tmp_path / "file.npz") as file:
        assert file["q"].tolist() == [1, 1, 1]


def test_a_saved_agent_gives_the_same_export(tmp_path: Path) -> None:
    agent = agent_of()
    agent.save(tmp_path)
    loaded = export_embeddings(Agent.load(tmp_path), MDP)
    assert loaded["reward_scale"] == 2.5
    for name, array in export_embeddings(agent, MDP).items():
        np.testing.assert_array_equal(loaded[name], array)


# Visits


def filled(
    states: list[list[int]], actions: list[list[int]], seen: np.ndarray, **options: Any
) -> WindowReplayBuffer:
    """A replay buffer [lanes, T] that holds these states, shown as rows of ``seen``."""
    vectors = torch.from_numpy(seen).float()[torch.tensor(states)]
    no = torch.zeros(*vectors.shape[:2], 1, dtype=torch.bool)
    after = {"observation": vectors, "reward": no.float(), "terminated": no, "truncated": no, "done": no}
    action = torch.eye(3, dtype=torch.int64)[torch.tensor(actions)]
    buffer = make_replay_buffer(num_lanes=len(states), horizon=1, **{"capacity": 40, **options})
    for step in TensorDict({"observation": vectors, "action": action, "next": after}, no.shape[:2]).unbind(1):
        buffer.add(step)
    return buffer


def test_visits_are_counted_over_all_lanes() -> None:
    states, actions = [[0, 1, 4, 4], [1, 1, 2, 4]], [[2, 0, 1, 1], [0, 1, 2, 0]]
    counts = replay_counts(filled(states, actions, np.eye(5)), agent_of(), MDP)
    wanted = np.zeros((5, 3), dtype=int)
    for lane in range(2):
        for state, action in zip(states[lane], actions[lane], strict=True):
            wanted[state, action] += 1
    assert counts.tolist() == wanted.tolist()
    assert counts.dtype == np.int64


def test_visits_that_were_overwritten_no_longer_count() -> None:
    buffer = filled([[0, 1, 2, 3, 4]], [[0] * 5], np.eye(5), capacity=3)
    assert replay_counts(buffer, agent_of(), MDP)[:, 0].tolist() == [0, 0, 1, 1, 1]


def test_an_empty_buffer_has_no_visits() -> None:
    assert not replay_counts(make_replay_buffer(capacity=40), agent_of(), MDP).any()


def test_states_are_told_by_given_observations_and_zero_has_no_sign() -> None:
    places = np.array([[0.0, 0.5], [-0.0, 0.25], [3.0, 0.0], [0.1, 0.1], [-1.0, 1.0]])
    shown = places * np.where(places == 0, -1, 1)
    agent = agent_of(space=Box(-5, 5, (2,)))
    buffer = filled([[0, 1, 2, 3, 3]], [[0, 1, 2, 0, 0]], shown)
    assert replay_counts(buffer, agent, MDP, places).argmax(1).tolist()[:4] == [0, 1, 2, 0]
    assert replay_counts(buffer, agent, MDP, places).sum(1).tolist() == [1, 1, 1, 2, 0]


def test_states_that_look_the_same_are_refused() -> None:
    places = np.array([[0.0], [1.0], [2.0], [1.0], [3.0]])
    agent = agent_of(space=Box(-5, 5, (1,)))
    with pytest.raises(InputError, match="the same for states 1 and 3"):
        replay_counts(filled([[0]], [[0]], places), agent, MDP, places)


def test_a_terminal_state_may_look_like_a_live_one() -> None:
    mdp = theory.random_walk(3)  # terminal at both ends
    agent = agent_of(space=Box(-5, 5, (1,)), num_actions=1)
    places = np.array([[1.0], [1.0], [2.0], [3.0], [9.0]])
    buffer = filled([[1, 2, 3, 1, 4]], [[0] * 5], places)
    assert replay_counts(buffer, agent, mdp, places)[:, 0].tolist() == [0, 2, 1, 1, 1]


def test_an_observation_of_no_state_is_refused() -> None:
    buffer = filled([[0, 1]], [[0, 0]], np.eye(5) * 0.5)
    with pytest.raises(InputError, match=r"holds \[0.5, 0.0, 0.0, 0.0, 0.0\], which is none of"):
        replay_counts(buffer, agent_of(), MDP)


def test_images_are_not_counted() -> None:
    spaces = TaskSpaces(Box(0, 255, (3, 31, 31), np.uint8), Discrete(3), frames=3)
    agent = Agent.build("custom/film", spaces, preset("debug"))
    with pytest.raises(InputError, match="this agent sees images"):
        replay_counts(make_replay_buffer(capacity=40), agent, MDP)


def test_the_settings_of_these_tests_are_the_tiny_ones() -> None:
    assert isinstance(preset("debug"), AgentConfig)
    assert preset("debug").model.z_s_dim == 16  # where ByHand cuts the predictor's output
