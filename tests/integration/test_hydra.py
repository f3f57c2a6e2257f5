"""Hydra's nodes: composed and instantiated they give what is built by hand, to the last bit."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, OneHot, TensorSpec, Unbounded

from uld_torchrl import make_loss, make_networks, make_replay_buffer
from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig, OptimConfig
from uld_torchrl.data import WindowReplayBuffer
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import ULDOptimizationStepper

pytest.importorskip("hydra", reason="Hydra comes with the extra 'hydra'")
hydra_configs = pytest.importorskip("uld_torchrl.hydra_configs")
from hydra import compose, initialize  # noqa: E402
from hydra.core.config_store import ConfigStore  # noqa: E402
from hydra.errors import ConfigCompositionException  # noqa: E402
from hydra.utils import instantiate  # noqa: E402

SIZES = {"z_s_dim": 8, "z_a_dim": 4, "z_sa_dim": 8, "hidden_dim": 8, "num_bins": 9, "bin_range": 3.0}
LOSS = {"gamma": 0.9, "horizon": 4, "n_steps": 2, "value_loss": "mse", "target_noise": 0.3}
OPTIM = {"batch_size": 6, "period": 2, "value_lr": 1e-3}
BUFFER = {"capacity": 80, "num_lanes": 2, "horizon": 4, "batch_size": 6, "alpha": 0.7}
SPECS = [Bounded(-1, 1, (2,)), OneHot(3)]


@pytest.fixture(scope="module", autouse=True)
def primary() -> None:
    parts = [{"network": "uld"}, {"loss": "uld"}, {"replay_buffer": "uld"}, {"hook@stepper": "uld_stepper"}]
    ConfigStore.instance().store(name="parts", node={"defaults": [*parts, "_self_"]})
    named = {part: f"${{{part}}}" for part in ("env", "network", "loss", "replay_buffer")}
    whole = [*parts[:3], {"env": "uld"}, {"trainer": "uld"}, "_self_"]
    ConfigStore.instance().store(name="whole", node={"defaults": whole, "trainer": named})


def composed(name: str, **sections: dict[str, Any]) -> Any:
    """Return what Hydra makes of settings given as at its command line."""
    overrides = [
        f"{part}.{key}={value}" for part, values in sections.items() for key, value in values.items()
    ]
    with initialize(version_base=None, config_path=None):
        return compose(name, overrides=overrides)


def steps(spec: TensorSpec) -> TensorDict:
    """Return 2 lanes of 30 steps with a termination and a truncation."""
    generator = torch.Generator().manual_seed(3)
    ends = torch.zeros(2, 30, 1, dtype=torch.bool)
    terminated, truncated = ends.clone(), ends.clone()
    terminated[0, 9], truncated[1, 14] = True, True
    states = torch.randn(2, 31, 3, generator=generator)
    torch.manual_seed(5)
    after = {"observation": states[:, 1:], "reward": torch.randn(2, 30, 1, generator=generator)}
    after |= {"terminated": terminated, "truncated": truncated, "done": terminated | truncated}
    entries = {"observation": states[:, :-1], "action": spec.rand((2, 30)), "next": after}
    return TensorDict(entries, batch_size=[2, 30])


def by_hydra(spec: TensorSpec) -> ULDOptimizationStepper:
    cfg = composed(
        "parts",
        network=SIZES,
        loss=LOSS | {"num_bins": 9, "bin_range": 3.0},
        stepper=OPTIM,
        replay_buffer=BUFFER,
    )
    torch.manual_seed(0)
    networks = instantiate(cfg.network)(Unbounded(3), spec)
    loss = instantiate(cfg.loss)(networks, spec)
    return instantiate(cfg.stepper)(loss, instantiate(cfg.replay_buffer))


def by_hand(spec: TensorSpec) -> ULDOptimizationStepper:
    config = AgentConfig(model=ModelConfig(**SIZES), loss=LossConfig(**LOSS))
    torch.manual_seed(0)
    networks = make_networks(Unbounded(3), spec, config.model, loss=config.loss)
    loss = make_loss(networks, spec, config)
    return ULDOptimizationStepper(loss, make_replay_buffer(**BUFFER), OptimConfig(**OPTIM))


def three_updates(
    stepper: ULDOptimizationStepper, spec: TensorSpec
) -> tuple[list[TensorDict], dict[str, Any]]:
    """Return three value batches with their losses, and the weights after these updates."""
    stepper.replay_buffer.extend(steps(spec))
    torch.manual_seed(1)
    seen = []
    for _ in range(3):
        batch = stepper.replay_buffer.sample()
        seen.append(TensorDict({"batch": batch.clone(), "metrics": stepper.step(None, batch)}))
    return seen, dict(stepper.loss_module.state_dict())


def differing(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    assert left.keys() == right.keys()
    return [name for name, value in left.items() if not torch.equal(value, right[name])]


@pytest.mark.parametrize("spec", SPECS, ids=["box", "discrete"])
def test_hydra_gives_the_same_windows_losses_and_weights_as_building_by_hand(spec: TensorSpec) -> None:
    ours, theirs = by_hand(spec), by_hydra(spec)
    assert differing(dict(ours.loss_module.state_dict()), dict(theirs.loss_module.state_dict())) == []
    (seen, weights), (seen_theirs, weights_theirs) = three_updates(ours, spec), three_updates(theirs, spec)
    for mine, other in zip(seen, seen_theirs, strict=True):
        assert (mine == other).all()
    assert {"loss_encoder", "loss_qvalue", "loss_actor"} <= set(seen[0]["metrics"].keys())
    assert differing(weights, weights_theirs) == []


def test_the_comparison_sees_one_changed_setting() -> None:
    ours, theirs = by_hand(SPECS[0]), by_hydra(SPECS[0])
    theirs.loss_module.gamma *= 0.99
    (seen, weights), (seen_theirs, weights_theirs) = (
        three_updates(ours, SPECS[0]),
        three_updates(theirs, SPECS[0]),
    )
    assert seen[0]["metrics", "loss_qvalue"] != seen_theirs[0]["metrics", "loss_qvalue"]
    assert differing(weights, weights_theirs) != []


def test_the_trainer_node_trains_as_it_is() -> None:
    env = {"env": "CartPole-v1", "num_envs": 2, "seed": 0}
    trainer = {
        "total_frames": 40,
        "init_random_frames": 20,
        "progress_bar": False,
        "optim": "{batch_size:6,period:5}",
    }
    buffer = {"capacity": 80, "num_lanes": 2, "horizon": 4, "batch_size": 6}
    cfg = composed(
        "whole",
        network=SIZES,
        loss=LOSS | {"num_bins": 9, "bin_range": 3.0},
        env=env,
        trainer=trainer,
        replay_buffer=buffer,
    )
    made = instantiate(cfg.trainer)
    assert made.loss_module.gamma == 0.9
    made.train()
    assert made.collected_frames == 40
    assert made.optimization_stepper.updates == 20
    assert made.optimization_stepper.config == OptimConfig(batch_size=6, period=5)


def test_sampler_and_window_nodes_fit_torchrls_own_buffer_node() -> None:
    from torchrl.trainers.algorithms import configs

    node = configs.ReplayBufferConfig(
        _target_="uld_torchrl.data.WindowReplayBuffer",
        storage=configs.LazyTensorStorageConfig(max_size=80, ndim=2),
        sampler=hydra_configs.SubTrajectorySamplerConfig(ring_length=40, num_lanes=2, horizon=4, alpha=0.7),
        sample_unit=hydra_configs.HorizonWindowConfig(horizon=4),
        writer=configs.RoundRobinWriterConfig(),
        batch_size=6,
    )
    samples = []
    for buffer in (instantiate(node), make_replay_buffer(**BUFFER)):
        assert isinstance(buffer, WindowReplayBuffer)
        buffer.extend(steps(SPECS[0]))
        torch.manual_seed(2)
        samples.append(buffer.sample())
    assert (samples[0] == samples[1]).all()
    assert samples[0].batch_size == (6, 4)


@pytest.mark.parametrize(
    ("node", "settings"),
    [("ULDLossConfig", LossConfig), ("ULDStepperConfig", OptimConfig), ("ULDNetworksConfig", ModelConfig)],
)
def test_a_node_has_every_setting_with_its_default(node: str, settings: type[Any]) -> None:
    made = getattr(hydra_configs, node)()
    own = dataclasses.asdict(settings())
    assert {name: getattr(made, name) for name in own} == own


def test_the_nodes_are_those_of_the_groups_and_subclass_torchrls() -> None:
    store = ConfigStore.instance()
    for (group, name), node in hydra_configs.NODES.items():
        assert store.load(f"{group}/{name}.yaml").provider == "uld_torchrl"
        assert node.__mro__[1].__module__.startswith("torchrl.trainers.algorithms.configs")
    for group in {group for group, _ in hydra_configs.NODES}:
        assert len(store.list(group)) > 1  # TorchRL's own are still there


def test_an_unknown_field_is_refused_by_hydra() -> None:
    with pytest.raises(ConfigCompositionException, match=r"loss\.gama"):
        composed("parts", loss={"gama": 0.9})


def test_a_wrong_value_is_refused_with_the_message_of_the_settings() -> None:
    cfg = composed("parts", loss={"gamma": 1.5}, replay_buffer={"capacity": 80})
    networks = instantiate(cfg.network)(Unbounded(3), SPECS[0])
    with pytest.raises(InputError, match=r"gamma must lie in \[0, 1\], got 1\.5"):
        instantiate(cfg.loss)(networks, SPECS[0])


def test_nested_keys_arrive_as_lists() -> None:
    networks = hydra_configs.build_networks(
        Unbounded(3), SPECS[0], observation_key=["robot", "state"], **SIZES
    )
    assert networks.state_encoder.in_keys == [("robot", "state")]


def test_without_hydra_the_message_says_what_to_install() -> None:
    code = """
import sys
sys.modules["hydra"] = None
try:
    import uld_torchrl.hydra_configs
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert "needs hydra-core" in done.stdout
    assert "pip install 'uld-torchrl[hydra]'" in done.stdout
