"""The peers' settings: what is refused, what a preset and a setting make of them, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from uld_torchrl.cli import Train, settings
from uld_torchrl.cli_peers import peer_command
from uld_torchrl.config import AgentConfig, RunConfig, preset
from uld_torchrl.errors import InputError
from uld_torchrl.experiments.records import nearest_preset
from uld_torchrl.peers import (
    DQNConfig,
    SACConfig,
    TD3Config,
    about_peer,
    harness_config,
    metrics_of,
    name_of,
    own_settings,
    peer_of,
    read_settings,
    shared_settings,
)
from uld_torchrl.trainers.logs import PEER_METRICS

ALL = [TD3Config(), SACConfig(), DQNConfig()]


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        (TD3Config, {"gamma": 1.5}, "gamma must lie in"),
        (TD3Config, {"tau": 0.0}, "tau must lie in"),
        (TD3Config, {"tau": 0.6}, "tau must lie in"),
        (TD3Config, {"policy_delay": 0}, "policy_delay must be greater than zero"),
        (TD3Config, {"batch_size": 1.5}, "batch_size must be an integer"),
        (TD3Config, {"target_noise": -0.1}, "target_noise must not be negative"),
        (SACConfig, {"temperature": 0.0}, "temperature must be greater than zero"),
        (SACConfig, {"entropy_per_action": float("nan")}, "entropy_per_action must be finite, got nan"),
        (SACConfig, {"entropy_per_action": float("-inf")}, "entropy_per_action must be finite"),
        (SACConfig, {"log_std_min": 3.0}, "log_std_min and log_std_max must be an interval"),
        (DQNConfig, {"epsilon_end": 1.1}, "epsilon_end must lie in"),
        (DQNConfig, {"update_every": 0}, "update_every must be greater than zero"),
        (DQNConfig, {"capacity": 0}, "capacity must be greater than zero"),
    ],
)
def test_values_out_of_range_are_refused(kind: Any, values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        kind(**values)


@pytest.mark.parametrize("peer", ALL, ids=name_of)
def test_a_description_leads_back_to_the_peer(peer: Any) -> None:
    changed = type(peer)(gamma=0.5, capacity=77)
    assert peer_of(about_peer(changed)) == changed
    run, again = read_settings(name_of(peer), "small", own_settings(changed))
    assert again == changed and run == preset("small").run
    assert own_settings(peer) == []


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"agent": "ppo"}, "agent must be one of td3, sac, dqn; got 'ppo'"),
        ({"agent": ["td3"]}, "agent must be one of uld"),
        ({"agent": "td3", "peer": {"gama": 1.0}}, "unknown td3.gama"),
        ({"agent": "td3", "peer": {"gamma": "x"}}, "td3.gamma must be of type float"),
        ({"agent": "td3", "peer": 3}, "settings must be a table"),
        ({"peer": {}}, "got 'uld'"),
    ],
)
def test_a_damaged_description_is_refused(about: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        peer_of(about)


def test_a_run_takes_the_steps_of_the_preset_and_nothing_else_of_it() -> None:
    run, peer = read_settings("dqn", "small", ["run.num_envs=2", "dqn.update_every=1"])
    config = harness_config(run, peer)
    assert peer == DQNConfig(update_every=1)
    assert (config.run.total_steps, config.run.num_envs) == (15_000, 2)
    assert config.model == AgentConfig().model
    # What replay and loop read of it: single transitions, drawn alike, and no compiling.
    assert (config.loss.horizon, config.loss.n_steps, config.replay.lap_alpha) == (1, 1, 0.0)
    assert (config.replay.capacity, config.optim.batch_size) == (10_000, 128)
    assert (config.optim.precision, config.optim.compile) == ("float32", "off")


@pytest.mark.parametrize(
    "setting",
    ["loss.gamma=0.9", "optim.batch_size=3", "sac.gamma=0.9", "td3.gama=0.9", "td3.gamma", "gamma=1"],
)
def test_settings_of_others_are_refused(setting: str) -> None:
    with pytest.raises(InputError, match=r"no setting '.*' of agent td3"):
        read_settings("td3", "small", [setting])


def test_how_uld_is_evaluated_is_no_setting_of_others() -> None:
    with pytest.raises(
        InputError, match="does not go with agent dqn, which is evaluated without exploration"
    ):
        read_settings("dqn", "small", ["run.greedy_discrete_eval=false"])
    given = ["run.greedy_discrete_eval=false", "run.num_envs=2"]
    assert shared_settings("dqn", given) == given[1:] and shared_settings("uld", given) == given


@pytest.mark.parametrize("setting", ["td3.tau=0.1", "agent=td3"])
def test_settings_of_a_peer_without_its_agent_say_how_to_ask_for_it(setting: str) -> None:
    with pytest.raises(InputError, match="this run is of agent uld: add --agent td3"):
        settings(Train(set=("loss.gamma=0.9", setting)))


def test_the_agent_is_no_setting_of_all_runs() -> None:
    for agent in ("uld", "td3"):
        with pytest.raises(InputError, match="use --agent, or --variant name:agent=td3"):
            shared_settings(agent, ["run.num_envs=2", "agent=td3"])


def test_a_value_that_does_not_fit_is_told_with_its_name() -> None:
    with pytest.raises(InputError, match=r"td3\.policy_delay must be of type int, got '1\.5'"):
        read_settings("td3", "small", ["td3.policy_delay=1.5"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"schedule": "periodic"}, "--schedule periodic does not go with --agent td3"),
        ({"ablation": "no-mr"}, "--ablation no-mr does not go with"),
        ({"seeds": "0-2"}, "--seeds 0-2 does not go with"),
        ({"audit_every": 5}, "--audit-every 5 does not go with"),
        ({"probe_every": 5}, "--probe-every 5 does not go with"),
        ({"precision": "bfloat16"}, "--precision bfloat16 does not go with"),
        ({"compile": "graph"}, "--compile graph does not go with"),
        ({"set": ("loss.gamma=0.5",)}, "no setting 'loss.gamma=0.5' of agent td3"),
    ],
)
def test_options_of_uld_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        settings(Train(agent="td3", **options))


def test_options_of_the_run_apply() -> None:
    command = Train(agent="sac", num_envs=3, total_steps=9000, precision="float32", compile="off")
    config, peer = peer_command(command)
    assert settings(command) == config and peer == SACConfig()
    assert (config.run.num_envs, config.run.total_steps) == (3, 9000)


def test_the_nearest_preset_of_a_peers_run_is_that_of_its_steps() -> None:
    run = RunConfig(total_steps=15_000, random_steps=2_000, eval_every=2_500, checkpoint_every=100)
    bases = {name: harness_config(preset(name).run, TD3Config()) for name in ("uld", "small")}
    found = nearest_preset(harness_config(run, TD3Config()), bases)
    assert found == ("small", ["run.checkpoint_every=100"])


def test_each_metric_of_a_peer_is_documented_and_some_peer_has_it() -> None:
    assert set().union(*map(metrics_of, ALL)) == set(PEER_METRICS)


def test_the_documents_show_the_metrics() -> None:
    text = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")
    counters = {"step", "episodes", "episode_return", "updates", "skipped_updates"}
    for name, meaning in PEER_METRICS.items():
        assert name in counters or f"| `{name}` | {meaning} |\n" in text
