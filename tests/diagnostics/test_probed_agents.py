"""``probe`` of any agent: the same columns, nothing touched, bad input named."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from gymnasium.spaces import Discrete
from probed import image_agent, make_agent, random_windows, replay
from torch import nn

from uld_torchrl.diagnostics.probes import PROBE_COLUMNS, probe, probe_columns
from uld_torchrl.trainers import Agent

SWITCHES = [
    "loss.reward_loss=mse",
    "loss.dynamics_target=state_action",
    "loss.unroll=false",
    "loss.target_encoder=false",
    "loss.freeze_encoder=true",
    "loss.value_loss=mse",
    "loss.reward_scaling=false",
    "model.value_head=linear",
    "model.num_values=1",
]
AGENTS = {
    "continuous": make_agent,
    "discrete": lambda: make_agent(Discrete(3)),
    "images": image_agent,
    "switches": lambda: make_agent(None, *SWITCHES),
}


@pytest.mark.parametrize("kind", AGENTS)
def test_any_agent_gives_the_same_finite_columns_of_its_replay(kind):
    agent = AGENTS[kind]()
    row = probe(agent, replay(agent))
    assert list(row) == list(probe_columns(agent.config.loss.horizon))
    assert all(value is None or (type(value) is float and math.isfinite(value)) for value in row.values())
    missing = {name for name, value in row.items() if value is None}
    assert missing <= {"terminated_predicted", "terminated_calibration_error"}


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("training", [True, False])
def test_a_probe_touches_nothing_and_depends_on_no_random_state(kind, training):
    agent = AGENTS[kind]()
    agent.loss.train(training)
    batch = replay(agent)
    held, kept = batch.clone(), {name: value.clone() for name, value in agent.loss.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    row = probe(agent, batch)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert probe(agent, batch) == row
    assert agent.loss.training is training and torch.is_grad_enabled()
    assert all(torch.equal(value, kept[name]) for name, value in agent.loss.state_dict().items())
    assert all(parameter.grad is None for parameter in agent.loss.parameters())
    assert set(batch.keys(True)) == set(held.keys(True)) and (batch == held).all()


def test_networks_are_run_without_gradients():
    agent, seen = make_agent(), []
    for network in (agent.loss.state_encoder, agent.loss.predictor, agent.loss.qvalue_network):
        network.module.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    probe(agent, random_windows())
    assert len(seen) > 3 and not any(seen)


def test_a_loss_stands_for_its_agent_and_stays_copyable():
    agent, batch = make_agent(), random_windows()
    row = probe(agent.loss, batch)
    assert probe(agent, batch) == row
    assert probe(copy.deepcopy(agent.loss), batch) == row


def test_two_windows_are_enough():
    row = probe(make_agent(), random_windows(B=2))
    assert row["value_r2_z_sa"] == pytest.approx(0, abs=1e-6)
    assert row["effective_rank"] == pytest.approx(1, abs=1e-6)


def test_columns_are_named_for_each_step():
    columns = probe_columns(3)
    assert list(columns)[:-3] == list(PROBE_COLUMNS)[:-1]
    assert list(columns)[-3:] == [f"dynamics_error_t{k}" for k in (1, 2, 3)]
    assert columns["dynamics_error_t2"].startswith("squared error of the embedding predicted for step 2 over")
    assert all(meaning and "\n" not in meaning and "|" not in meaning for meaning in columns.values())


# Bad input


def test_a_batch_or_agent_of_another_kind_is_refused():
    agent, batch = make_agent(), random_windows()
    with pytest.raises(ValueError, match="batch must be a TensorDict of windows"):
        probe(agent, {"observation": torch.zeros(3)})
    with pytest.raises(ValueError, match="agent must be an Agent or its ULDLoss, got Linear"):
        probe(nn.Linear(3, 2), batch)
    with pytest.raises(ValueError, match=r"expected windows of batch size \(B, 3\), got \(12, 2\)"):
        probe(agent, batch[:, :2])
    with pytest.raises(ValueError, match=r"lacks the entry \('next', 'reward'\)"):
        probe(agent, batch.exclude(("next", "reward")))
    with pytest.raises(ValueError, match="at least 2 windows, better 256, got 1"):
        probe(agent, batch[:1])
    with pytest.raises(ValueError, match="runs on past the truncation at its step 1"):
        batch["next", "truncated"] = torch.zeros(12, 3, 1, dtype=torch.bool)
        batch["next", "truncated"][4, 1] = True
        probe(agent, batch)


@pytest.mark.parametrize("key", ["observation", "action", ("next", "observation"), ("next", "reward")])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused_by_name_and_place(key, value):
    batch = random_windows()
    batch[key][3, 1, 0] = value
    name = repr(key).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"entry {name} must be finite, got .* at step 1 of window 3"):
        probe(make_agent(), batch)


def test_networks_that_diverged_are_named():
    agent = make_agent()
    with torch.no_grad():
        agent.loss.qvalue_network_params.apply_(lambda x: x.fill_(math.inf))
    with pytest.raises(
        ValueError, match="agent's value is not finite on this batch: its networks have diverged"
    ):
        probe(agent, random_windows())


def test_targets_that_nobody_set_are_refused(tmp_path):
    agent, batch = make_agent(), random_windows()
    with pytest.raises(ValueError, match="no target updater"):
        probe(Agent.build(agent.env_id, agent.spaces, agent.config), batch)
    agent.save(tmp_path)
    assert probe(Agent.load(tmp_path), batch) == probe(agent, batch)
