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
# # TensorDict and this library in ten minutes
#
# Everything in this library passes one kind of object around: a dictionary of tensors that have their first
# dimensions in common. Who can read it can read the library, since every function's type is "a TensorDict
# with these keys in, a TensorDict with these keys out".
#
# You will learn
#
# - to read and write nested keys, to slice a batch, and what shares memory with what;
# - what `[lanes, time]` and `[B, H]` mean, and why every step has a part called `"next"`;
# - how a network says which keys it reads and writes, and how networks become one;
# - what a sample of the replay buffer is, record by record;
# - what a loss returns, and which networks its gradient reaches.
#
# It takes about 10 minutes to read and 10 seconds to run. You should know torch and what an observation, an
# action and a reward are; nothing of TorchRL. Every claim is asserted by the code next to it.

# %%
import logging

import matplotlib.pyplot as plt
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.envs.utils import ExplorationType, set_exploration_type

from uld_torchrl import (
    PeriodicHardUpdate,
    make_env,
    make_loss,
    make_networks,
    make_policy,
    make_replay_buffer,
    preset,
)

logging.getLogger("torchrl").setLevel(logging.WARNING)  # it reports each new storage
torch.manual_seed(0)


def refused(call):
    """Return what the call is refused with."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    raise AssertionError("it was not refused")


# %% [markdown]
# ## A dictionary with a shape
#
# Two environments, four steps each, three numbers an observation. The *batch size* `[2, 4]` says which
# leading dimensions all entries share; what follows is each entry's own business. Keys may be nested: a tuple
# is a path.

# %%
td = TensorDict(
    {
        "observation": torch.arange(24.0).view(2, 4, 3),
        "action": torch.zeros(2, 4, 1),
        "next": {"reward": torch.ones(2, 4, 1)},
    },
    batch_size=[2, 4],
)
print(td)
assert td.shape == (2, 4) and len(td) == 2
assert td["next", "reward"] is td["next"]["reward"]
assert td["observation"].shape == (2, 4, 3)
message = refused(lambda: td.set("action", torch.zeros(2, 5, 1)))
print(message)
assert "batch dimension mismatch" in message

# %% [markdown]
# What works on a tensor's leading dimensions works on the whole: index, slice, stack, reshape. As with
# tensors, a plain index or slice *shares memory* (write into it, and the original changes), a list of indices
# copies, and so does `clone`.

# %%
assert td[0].shape == (4,) and td[:, 1:3].shape == (2, 2) and td.flatten(0, 1).shape == (8,)
assert torch.equal(td[1, 2]["observation"], torch.tensor([18.0, 19, 20]))
assert torch.stack([td[0], td[1]]).shape == (2, 4)

td[0]["next", "reward"].fill_(5)  # a view of lane 0
assert td["next", "reward"].sum() == 4 * 5 + 4 * 1
td[[0]]["next", "reward"].fill_(7)  # a copy of lane 0
td.clone()["next", "reward"].fill_(7)
assert td["next", "reward"].sum() == 24

smaller = td.select("observation", ("next", "reward"))  # another dictionary, the same tensors
assert "action" not in smaller and smaller["observation"] is td["observation"]
doubled = td.apply(lambda tensor: 2 * tensor)
assert doubled["next", "reward"].sum() == 48

# %% [markdown]
# ## A step of an environment
#
# An environment has *lanes*: copies that are stepped together. Its batch size is `[lanes]`, also for one
# lane. What may be in an entry is said by a *spec*: shape, type and bounds, and it can draw examples.

# %%
env = make_env("Pendulum-v1", num_envs=2, seed=0)
assert env.batch_size == (2,)
print(env.action_spec)
action_spec, observation_spec = env.action_spec, env.observation_spec["observation"]
assert action_spec.shape == (2, 1) and observation_spec.shape == (2, 3)
assert action_spec.is_in(action_spec.rand()) and not action_spec.is_in(torch.full((2, 1), 1.5))

start = env.reset()
assert {"observation", "done", "terminated"} <= set(start.keys()) and "next" not in start
stepped = env.step(start.set("action", action_spec.rand()))
print("before the step:", sorted(set(stepped.keys()) - {"next"}))
print("what it led to :", sorted(stepped["next"].keys()))
assert {"observation", "reward", "done", "terminated", "truncated"} == set(stepped["next"].keys())

# %% [markdown]
# So one record holds a whole transition: where the agent was and what it did at the root, what came of it
# under `"next"`. Several steps are stacked along a second dimension: `[lanes, time]`. The next record begins
# where the last one led to. Both copies are kept since at the end of an episode they differ: `("next",
# "observation")` is the last thing seen, the following record begins anew.

# %%
rollout = env.rollout(5)
assert rollout.shape == (2, 5)
assert torch.equal(rollout["next", "observation"][:, :-1], rollout["observation"][:, 1:])
assert rollout["next", "reward"].shape == (2, 5, 1)  # a last dimension of 1, not none

# %% [markdown]
# ## A network says which keys it reads and writes
#
# `TensorDictModule` puts names to the arguments and results of any module. It writes into the dictionary that
# it is given. Modules in a sequence find each other by their keys, not by their order of arguments.

# %%
encode = TensorDictModule(torch.nn.Linear(3, 8), in_keys=["observation"], out_keys=["embedding"])
decide = TensorDictModule(torch.nn.Linear(8, 1), in_keys=["embedding"], out_keys=["action"])
both = TensorDictSequential(encode, decide)
assert both.in_keys == ["observation"] and both.out_keys == ["embedding", "action"]

given = rollout.select("observation")
both(given)
assert set(given.keys()) == {"observation", "embedding", "action"} and given["action"].shape == (2, 5, 1)
by_hand = decide.module(encode.module(rollout["observation"]))
assert torch.equal(given["action"], by_hand)
message = refused(lambda: decide(rollout.select("observation")))
print(message)
assert "embedding" in message

# %% [markdown]
# The agent's five networks are such modules. Print their keys, and you have the architecture: $f$ encodes an
# observation, $g$ adds the action, $m$ predicts what follows, one network values, one acts.

# %%
config = preset("debug")  # the smallest networks
networks = make_networks(observation_spec[0], action_spec[0], config.model)
symbols = {
    "f": networks.state_encoder,
    "g": networks.state_action_encoder,
    "m": networks.predictor,
    "Q": networks.qvalue_network[0],  # of two
    "pi": networks.actor_network,
}
for symbol, network in symbols.items():
    print(f"{symbol:3}{list(network.in_keys)} -> {list(network.out_keys)}")
assert symbols["f"].out_keys == ["state_embedding"] and symbols["pi"].in_keys == ["state_embedding"]

policy = make_policy(networks, action_spec[0], config)
with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
    acted = policy(env.reset())
    again = policy(acted.select("observation"))
assert torch.equal(acted["action"], again["action"])  # without exploration it repeats itself
with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
    explored = policy(acted.select("observation"))
assert not torch.equal(acted["action"], explored["action"]) and action_spec.is_in(explored["action"])

# %% [markdown]
# ## Replay: windows
#
# The buffer takes `[lanes, time]` and hands out *windows*: `[B, H]`, B stretches of H consecutive records of
# one lane each. A window knows where it begins: `anchor_index` is (time, lane) in the storage. So each can be
# looked up, and compared record by record. Data are recorded without gradients, or a loss would find its way
# back through the recorded actions, into the policy that chose them. (Which windows there may be is the
# subject of notebook 03.)

# %%
with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
    data = env.rollout(50, policy)
replay = make_replay_buffer(capacity=200, num_lanes=2, horizon=5, batch_size=16)
replay.extend(data)
window = replay.sample()
assert window.shape == (16, 5)

for row in window:
    time, lane = row["anchor_index"][0].tolist()
    stored = data[lane, time : time + 5]
    assert torch.equal(row["observation"], stored["observation"])
    assert torch.equal(row["next", "reward"], stored["next", "reward"])
added = set(window.keys()) - set(data.keys())
print("added to what was stored:", sorted(added))
assert {"anchor_index", "validity_mask"} <= added and window["validity_mask"].all()  # a pendulum never falls

anchors = window["anchor_index"][:, 0]
_, ax = plt.subplots(figsize=(8, 2.2), dpi=100, layout="constrained")
ax.plot(data["next", "reward"][..., 0].T, color="#777777", lw=1)
for time, lane in anchors.tolist():
    colour = ("#0072B2", "#D55E00")[lane]
    steps = range(time, time + 5)
    ax.plot(steps, data["next", "reward"][lane, time : time + 5, 0], color=colour, lw=5, alpha=0.5)
for lane, colour in enumerate(("#0072B2", "#D55E00")):
    ax.plot([], [], color=colour, lw=5, alpha=0.5, label=f"windows of lane {lane}")
ax.set(xlabel="time", ylabel="reward", title="Rewards of two lanes, and a sample of 16 windows of 5 steps")
ax.set_ylim(-18, 1)
ax.legend(frameon=False, ncols=2, loc="lower right", fontsize=9)
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# ## A loss, and where its gradients go
#
# `ULDLoss` reads a window and returns a TensorDict: three losses, and measurements without gradients. The
# window itself stays as it was, but for one new entry: the TD errors, of which the buffer makes priorities.
# The networks' parameters are TensorDicts too; those of the two value heads lie in one, stacked along a first
# dimension of 2.

# %%
loss = make_loss(networks, action_spec[0], config)
targets = PeriodicHardUpdate(loss, period=250)  # copies the target networks, of which more below
before = window.clone()
result = loss(window)
print({name: round(value.item(), 3) for name, value in result.items() if value.numel() == 1})
assert {"loss_encoder", "loss_qvalue", "loss_actor"} <= set(result.keys())
assert set(window.keys(True)) - set(before.keys(True)) == {"td_error"}
assert (window.exclude("td_error") == before).all()
for name, value in result.items():
    assert value.requires_grad == name.startswith("loss_")
assert loss.qvalue_network_params.shape == (2,)

# %% [markdown]
# Three losses, five networks: here is the norm of each gradient. The encoder's loss teaches $f$, $g$ and $m$;
# the value's loss teaches the value only, on embeddings that it may not bend; the policy's loss the policy
# only. So the three may be added up and descended at once, or one after the other. The target networks, older
# copies inside the loss, get no gradient at all.

# %%
groups = {
    "f": loss.state_encoder_params,
    "g": loss.state_action_encoder_params,
    "m": loss.predictor_params,
    "Q": loss.qvalue_network_params,
    "pi": loss.actor_network_params,
}


def gradient_norm(value, group):
    leaves = list(group.values(True, True))
    found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    return sum(grad.square().sum().item() for grad in found if grad is not None) ** 0.5


norms = {
    name: {symbol: gradient_norm(result[name], group) for symbol, group in groups.items()}
    for name in ("loss_encoder", "loss_qvalue", "loss_actor")
}
reached = {name: [symbol for symbol, norm in row.items() if norm > 0] for name, row in norms.items()}
assert reached == {"loss_encoder": ["f", "g", "m"], "loss_qvalue": ["Q"], "loss_actor": ["pi"]}
assert not any(leaf.requires_grad for leaf in loss.target_state_encoder_params.values(True, True))

_, ax = plt.subplots(figsize=(5, 2.2), dpi=100, layout="constrained")
for y, row in enumerate(norms.values()):
    for x, norm in enumerate(row.values()):
        ax.text(x, y, f"{norm:.2g}" if norm else "0", ha="center", va="center")
ax.imshow(
    [[norm > 0 for norm in row.values()] for row in norms.values()], cmap="Blues", vmax=2, aspect="auto"
)
ax.set_xticks(range(5), ["f", "g", "m", "Q", r"$\pi$"])
ax.set_yticks(range(3), list(norms))
ax.set_title("Norm of the gradient")
plt.show()

# %% [markdown]
# ## Names of your own
#
# No key is fixed. If your data call the reward something else, tell the loss, and it reads that.

# %%
renamed = window.rename_key_(("next", "reward"), ("next", "profit"))
assert "reward" in refused(lambda: loss.encoder_loss(renamed))
loss.set_keys(reward="profit")  # below "next", as every reward is
assert torch.equal(loss.encoder_loss(renamed)[0], result["loss_encoder"])

# %% [markdown]
# ## From here
#
# Notebook 01 trains an agent with one call, 05 puts these parts into a loop of your own, 02 works the
# encoder's loss out from the weights. `help(uld_torchrl)` has the papers' symbols beside the names of keys
# and classes.
