# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Compose with a TorchRL pipeline
#
# `uld_torchrl.train` is one call. This notebook takes it apart: every part is an ordinary TorchRL object, and
# can stand in a loop of your own, next to collectors, trainers, loggers and environments of TorchRL.
#
# You will learn to
#
# - use the replay buffer and the three losses in your own loop, with your own optimisers;
# - run the same agent in `torchrl.trainers.Trainer`, and see that it reaches the same losses to the last bit;
# - train on recorded data alone, without an environment;
# - put in an encoder of your own, for observations of two entries;
# - bring environments of TorchRL whose actions are not in [-1, 1].
#
# It takes about 10 minutes to read and 30 seconds to run. You should know TorchRL's `TensorDict`, `Collector`
# and `LossModule`. The networks here are small and the learning rates high, so that you need not wait.

# %%
import csv
import dataclasses
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import Unbounded
from torchrl.envs import ActionScaling, DMControlEnv, DoubleToFloat, GymEnv, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.record import CSVLogger

from uld_torchrl import (
    PeriodicHardUpdate,
    TorchRLTrainer,
    ULDOptimizationStepper,
    make_env,
    make_loss,
    make_networks,
    make_policy,
    make_replay_buffer,
    preset,
)
from uld_torchrl.config import override
from uld_torchrl.data import ReplayKeys
from uld_torchrl.trainers import evaluate

logging.getLogger("torchrl").setLevel(logging.WARNING)  # it reports each new storage
sizes = ["model.z_s_dim=64", "model.z_a_dim=32", "model.z_sa_dim=64", "model.hidden_dim=64"]
speed = ["optim.encoder_lr=1e-3", "optim.value_lr=1e-3", "optim.policy_lr=1e-3", "optim.period=25"]
config = override(preset("uld"), [*sizes, *speed, "optim.batch_size=64", "loss.horizon=3", "loss.gamma=0.98"])

# %% [markdown]
# ## Your own loop
#
# Four parts. The environment has two lanes, that is, it steps two CartPoles at once. The networks come from
# the environment's specs; loss and policy share their parameters. The replay buffer keeps each lane in
# order, for it hands out *windows*, here of 3 consecutive steps.


# %%
def build(env, seed=0):
    """Return loss, policy and replay buffer for an environment."""
    torch.manual_seed(seed)
    action_spec = env.action_spec[0]  # of one lane
    networks = make_networks(env.observation_spec["observation"], action_spec, config.model)
    replay = make_replay_buffer(
        capacity=20_000, num_lanes=env.batch_size[0], horizon=config.loss.horizon, batch_size=64
    )
    return make_loss(networks, action_spec, config), make_policy(networks, action_spec, config), replay


env = make_env("CartPole-v1", num_envs=2, seed=0)
loss, policy, replay = build(env)

# %% [markdown]
# `ULDLoss` gives three losses, and each sends gradients to its own networks only. So three optimisers, of any
# kind, can step one after the other:

# %%
networks = {
    "encoder": [loss.state_encoder_params, loss.state_action_encoder_params, loss.predictor_params],
    "value": [loss.qvalue_network_params],
    "policy": [loss.actor_network_params],
}
parameters = {name: [p for net in nets for p in net.parameters()] for name, nets in networks.items()}
optimizers = {name: torch.optim.NAdam(group, lr=3e-3) for name, group in parameters.items()}
targets = PeriodicHardUpdate(loss, period=25)  # copies the target networks at updates 1, 26, 51, ...


def descend(name, one_loss):
    one_loss.backward()
    reached = [other for other, group in parameters.items() if any(p.grad is not None for p in group)]
    assert reached == [name]  # no other network got a gradient
    optimizers[name].step()
    optimizers[name].zero_grad()


def update():
    targets.step()
    window = replay.sample()
    encoder_loss, errors = loss.encoder_loss(window)
    descend("encoder", encoder_loss)
    value_loss, value = loss.value_loss(window)
    descend("value", value_loss)
    replay.update_priority(window["anchor_index"], value["td_error"])
    actor_loss, _ = loss.actor_loss(value)
    descend("policy", actor_loss)
    return float(errors["reward_mae"])


# %% [markdown]
# The loop itself is TorchRL's. A collector over 2 lanes gives batches `[2, T]`, which is what `extend` takes.
# (The last argument silences a warning about recurrent policies that TorchRL 0.14 has for every policy.)
#
# Each step pays 1. The reward is predicted on bins that reach up to 22 025, so the first predictions are
# far off.

# %%
collector = Collector(
    env, policy, frames_per_batch=40, total_frames=320, auto_register_policy_transforms=False
)
reward_errors = []
for data in collector:
    replay.extend(data)
    reward_errors += [update() for _ in range(12)]
collector.shutdown()

window = replay.sample()
print("stored", tuple(replay[:].shape), "  a sample", tuple(window.shape))
print(f"error of the predicted reward: {reward_errors[0]:.2f} at first, {reward_errors[-1]:.4f} at last")
assert replay[:].shape == (2, 160) and window.shape == (64, 3)
assert reward_errors[-1] < reward_errors[0] / 10

# %% [markdown]
# Batches end in the middle of an episode, yet episodes do not end there: the next batch goes on in the same
# lane, and windows run across the seam. What ends an episode is told by the environment alone. So leave the
# collector's `set_truncated` at its default here.

# %%
seams = range(19, 159, 20)  # the last step of each batch of 20
goes_on = [bool(replay[:][0, k]["next", "done"].logical_not()) for k in seams]
assert any(goes_on)
for k, same_episode in zip(seams, goes_on, strict=True):
    after, following = (replay[:][0, k]["next", "observation"], replay[:][0, k + 1]["observation"])
    assert torch.equal(after, following) == same_episode

# %% [markdown]
# ## The same agent in TorchRL's `Trainer`
#
# `ULDOptimizationStepper` is the update of ULD and MR.Q ready made: all targets are copied every `period`
# updates, and the encoder trains in bursts at the start of each period. It is a
# `torchrl.trainers.OptimizationStepper`, and works with or without a trainer. First without, in a loop that
# acts, stores and updates; the first 50 steps are random.


# %%
def own_loop(env, loss, policy, replay, steps=150, random_steps=50):
    stepper = ULDOptimizationStepper(loss, replay, config.optim)
    td, losses = env.reset(), []
    torch.manual_seed(7)
    for step in range(1, steps + 1):
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            td = env.rand_action(td) if step <= random_steps else policy(td)
        stepped, td = env.step_and_maybe_reset(td)
        replay.add(stepped)
        if step > random_steps:
            metrics = stepper.step(None, replay.sample())
            losses.append(float(metrics["loss_qvalue"]))
    return losses


env = make_env("CartPole-v1", num_envs=1)
parts = build(env)
env.set_seed(3)
own = own_loop(env, *parts)
assert len(own) == 150 - 50

# %% [markdown]
# Now with `TorchRLTrainer`, which is `torchrl.trainers.Trainer` with our buffer and stepper put in: the
# collector acts, the trainer's hooks store and sample, and TorchRL's `CSVLogger` writes every metric into a
# file of its own. From the same seed it must come to the same losses. It does, to the last bit.

# %%
env = make_env("CartPole-v1", num_envs=1)
loss, policy, replay = build(env)
collector = Collector(
    env, policy, frames_per_batch=1, init_random_frames=50, auto_register_policy_transforms=False
)
log_dir = tempfile.mkdtemp()
trainer = TorchRLTrainer(
    loss,
    replay,
    collector,
    total_frames=150,
    config=config.optim,
    logger=CSVLogger("compose", log_dir=log_dir),
    log_interval=0,
    progress_bar=False,
)
collector.set_seed(3)
collector.reset()
torch.manual_seed(7)
trainer.train()

with next(Path(log_dir).rglob("loss_qvalue.csv")).open(newline="") as file:
    logged = [(int(step), float(value)) for step, value in csv.reader(file)]
assert [step for step, _ in logged] == list(range(51, 151))
assert [value for _, value in logged] == own  # equal, not merely close

# %%
_, ax = plt.subplots(figsize=(7, 3.2), dpi=100, layout="constrained")
ax.plot(range(51, 151), own, color="#0072B2", lw=2, label="own loop")
ax.plot(*zip(*logged[::4], strict=True), "o", mfc="none", color="#D55E00", label="torchrl.trainers.Trainer")
for start in range(51, 151, 25):
    ax.axvline(start, color="#999999", lw=0.8, ls=":", label="targets are copied" if start == 51 else None)
ax.set(xlabel="agent steps", ylabel="value loss", title="One seed, two loops: equal at every update")
ax.set(ylim=(0, 3.4), xlim=(48, 153))
ax.legend(frameon=False, loc="upper left", ncols=3)
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Everything else of the `Trainer` is there too: loggers, checkpoints, hooks at every stage. With larger
# batches the updates follow each batch, still one for each agent step:

# %%
env = make_env("CartPole-v1", num_envs=2, seed=0)
loss, policy, replay = build(env)
collector = Collector(env, policy, frames_per_batch=10, auto_register_policy_transforms=False)
trainer = TorchRLTrainer(loss, replay, collector, total_frames=40, config=config.optim, progress_bar=False)
rewards, updates = [], []
trainer.register_op("pre_steps_log", lambda batch: rewards.append(float(batch["next", "reward"].sum())))
trainer.register_op("post_optim_complete_log", lambda count, metrics: updates.append(count))
trainer.train()
assert rewards == [10.0] * 4  # 2 lanes of 5 steps, each of which pays 1
assert updates == [10, 20, 30, 40]

# %% [markdown]
# **Worker processes.** `MultiSyncCollector` takes the place of the `Collector`: W workers of 2 lanes fill a
# buffer of 2 W lanes, and the trainer hands them the new weights after each batch (in your own loop: `extend`
# with `data.flatten(0, 1)`, and `collector.update_policy_weights_()`). `MultiAsyncCollector` delivers its
# workers' batches in any order. Give it `set_truncated=True` and a buffer with the lanes of *one* worker:
# each batch then ends in a truncation, over which no window runs. The next cell plays this without
# processes: two collectors take turns in one lane. Where a window's step is not followed by what it saw
# next, it has left its episode; that is allowed behind a termination only, where the loss does not look.


# %%
def torn_windows(set_truncated):
    """Take turns, and return how many of 500 windows hold steps that do not belong together."""
    env = make_env("CartPole-v1", num_envs=1)
    _, policy, replay = build(env)
    options = {"frames_per_batch": 10, "total_frames": 100, "auto_register_policy_transforms": False}
    workers = [
        Collector(make_env("CartPole-v1", num_envs=1, seed=k), policy, set_truncated=set_truncated, **options)
        for k in range(2)
    ]
    for batches in zip(*workers, strict=True):
        for data in batches:
            replay.extend(data)
    windows = torch.cat([replay.sample() for _ in range(8)])[:500]
    follows = windows["next", "observation"][:, :-1] == windows["observation"][:, 1:]
    counts = windows["validity_mask"][:, 1:]
    return int((counts & ~follows.all(-1)).any(-1).sum())


print("marked:", torn_windows(set_truncated=True), "  not marked:", torn_windows(set_truncated=False))
assert torn_windows(set_truncated=True) == 0
assert torn_windows(set_truncated=False) > 20

# %% [markdown]
# ## Recorded data, and no environment
#
# A data set of trajectories `[N, T]` goes into a buffer of N lanes in one call. Here it is 2000 steps of the
# random policy, whose pole falls after some twenty steps. No action of the agent will ever be tried while
# it learns.

# %%
env = make_env("CartPole-v1", num_envs=4, seed=0)
torch.manual_seed(0)
dataset = next(iter(Collector(env, None, frames_per_batch=2000, total_frames=2000)))
length = dataset.numel() / int(dataset["next", "done"].sum())
print("data set", tuple(dataset.shape), f"- an episode lasts {length:.0f} steps")
assert 15 < length < 30

loss, policy, replay = build(env)
replay.extend(dataset)
stepper = ULDOptimizationStepper(loss, replay, config.optim)
for _ in range(200):
    stepper.step(None, replay.sample())

test_env = make_env("CartPole-v1", num_envs=10)
learned = evaluate(test_env, policy, seed=1)
print(f"the policy learned from it: {learned.mean:.0f} steps (mean of {len(learned.returns)} episodes)")
assert learned.mean > 2 * length

# %% [markdown]
# The loss wants no buffer either. Any `[B, H]` slice with the documented keys will do; `validity_mask` and
# `anchor_index`, which the buffer adds, may be missing. One thing is refused: a slice that runs on past a
# truncation, for its later steps belong to another episode.

# %%
slices = torch.cat([dataset[:, start : start + 3] for start in range(0, 498, 3)])
plain = slices.select("observation", "action", "next")
losses = loss(plain)
for name in ("loss_encoder", "loss_qvalue", "loss_actor"):
    print(f"{name:12} {losses[name].item():8.3f}")
assert plain.shape == (4 * 166, 3) and all(torch.isfinite(value) for value in losses.values())

cut = plain[:1].clone()
cut["next", "truncated"][:, 0] = True
try:
    loss(cut)
except ValueError as error:
    print(error)
    assert "runs on past the truncation at its step 0" in str(error)
else:
    raise AssertionError("a window across a truncation was accepted")

# %% [markdown]
# ## An encoder of your own, over two entries
#
# dm_control's cartpole comes from TorchRL with two entries, `position` (3) and `velocity` (2), in float64.
# Everything that reads an observation is in one place, the state encoder; the other four networks see only
# its output, `state_embedding`. So it is enough to replace that one.


# %%
class TwoTowers(nn.Module):
    """Encode position and velocity apart, then join them."""

    def __init__(self, z_s_dim):
        super().__init__()
        self.position = nn.Sequential(nn.Linear(3, 64), nn.ELU(), nn.Linear(64, z_s_dim))
        self.velocity = nn.Sequential(nn.Linear(2, 64), nn.ELU(), nn.Linear(64, z_s_dim))

    def forward(self, position, velocity):
        joined = self.position(position) + self.velocity(velocity)
        return nn.functional.elu(nn.functional.layer_norm(joined, joined.shape[-1:]))


env = TransformedEnv(DMControlEnv("cartpole", "swingup"), DoubleToFloat())
torch.manual_seed(0)
networks = make_networks(Unbounded(5), env.action_spec, config.model)  # the first argument sizes its encoder,
networks = dataclasses.replace(  # which goes at once
    networks,
    state_encoder=TensorDictModule(
        TwoTowers(config.model.z_s_dim), in_keys=["position", "velocity"], out_keys=["state_embedding"]
    ),
)
loss = make_loss(networks, env.action_spec, config)
print(loss.in_keys)
assert loss.in_keys[:4] == ["position", "velocity", ("next", "position"), ("next", "velocity")]


# %% [markdown]
# The replay buffer stores what `ReplayKeys` names. Its fields are its list, so a subclass with two more
# fields stores two more entries. (Or nest both below one key: `ReplayKeys(observation="sensors",
# next_observation=("next", "sensors"))` stores all that is in it.)


# %%
@dataclass(frozen=True)
class TwoEntries(ReplayKeys):
    observation: str = "position"
    next_observation: tuple = ("next", "position")
    velocity: str = "velocity"
    next_velocity: tuple = ("next", "velocity")


replay = make_replay_buffer(capacity=5000, horizon=3, batch_size=64, keys=TwoEntries())
policy = make_policy(networks, env.action_spec, config)
collector = Collector(
    env, policy, frames_per_batch=20, init_random_frames=180, auto_register_policy_transforms=False
)
trainer = TorchRLTrainer(loss, replay, collector, total_frames=300, config=config.optim, progress_bar=False)
errors = []
trainer.register_op(
    "post_optim_complete_log", lambda count, metrics: errors.append(float(metrics["dynamics_error"]))
)
encoder = list(loss.state_encoder_params.parameters())
before = [parameter.clone() for parameter in encoder]
trainer.train()
print(f"error of the predicted embeddings: {errors[0]:.3f} at first, {errors[-1]:.3f} at last")
assert not any(map(torch.equal, encoder, before))
assert errors[-1] < errors[0] / 2
assert set(replay.sample().keys()) >= {"position", "velocity"}

# %% [markdown]
# ## Actions that are not in [-1, 1]
#
# `make_env` scales every task's actions to [-1, 1], which is what the policy's tanh gives. An environment
# that you bring along may have other bounds: TorchRL's own Pendulum takes torques up to 2, of which such a
# policy would use one half. TorchRL has the transform for it.


# %%
def after_one(env, action):
    """Return the observation after one action, from the state that seed 0 starts in."""
    env.set_seed(0)
    td = env.reset()
    return env.step(td.set("action", torch.full_like(env.action_spec.zero(), action)))["next", "observation"]


raw = GymEnv("Pendulum-v1")
scaled = TransformedEnv(GymEnv("Pendulum-v1"), ActionScaling())
assert float(raw.action_spec.space.high) == 2 and float(scaled.action_spec.space.high) == 1
for action in (-1.0, 0.25, 1.0):
    wanted = after_one(raw, 2 * action)
    assert torch.allclose(after_one(scaled, action), wanted)
    assert torch.allclose(after_one(make_env("Pendulum-v1"), action)[0], wanted)

# %% [markdown]
# ## Where to look next
#
# The docstring of `ULDLoss` gives all three losses as formulas; that of `SubTrajectorySampler` says which
# windows may be drawn. Notebook 03 works the returns out by hand.
