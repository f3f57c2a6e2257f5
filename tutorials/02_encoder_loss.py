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
# # The encoder loss, from the equations to the code
#
# In MR.Q and ULD one loss trains everything the value stands on. It takes three lines of a paper. Between
# those lines and a program lie decisions that no line shows: is the mean over all windows, or over those
# still running? Does step 3 start from what was seen, or from what was predicted? What is there to predict
# when the episode is over? Each can be got wrong without a crash, and the agent still learns something. So
# we compute the loss a second time, from the weights up, and compare.
#
# You will learn
#
# - what a window of the replay buffer holds, and which part of it the loss reads;
# - to work out the three terms and their gradient in plain torch, and to find the library's numbers;
# - why the terms are summed over time, and averaged over the whole batch;
# - what an end inside a window changes, and what the model is asked to predict there;
# - which term teaches which network, and how far ahead the result can look;
# - that the same loss, made linear, has the model of theorem 1 as its minimum.
#
# It takes about 20 minutes to read and 30 seconds to run. You should know the idea of MR.Q (arXiv
# 2501.16142), and torch. Every claim is asserted by the code next to it.

# %%
import copy
import logging

import matplotlib.pyplot as plt
import numpy as np
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.nn.functional import elu, one_hot
from torchrl.collectors import Collector
from torchrl.data import OneHot

import theory
from uld_torchrl import PeriodicHardUpdate, make_env, make_loss, make_networks, make_replay_buffer, preset
from uld_torchrl.config import override
from uld_torchrl.functional import alive_mask, two_hot, two_hot_cross_entropy, two_hot_mean
from uld_torchrl.modules import Networks

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"  # Okabe and Ito
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100, "axes.titlesize": 10})
logging.getLogger("torchrl").setLevel(logging.WARNING)  # it reports each new storage
torch.manual_seed(0)
eps = torch.finfo(torch.float64).eps

# %% [markdown]
# ## A window
#
# The data are random play in CartPole, whose pole falls after some twenty steps. CartPole pays 1 at every
# step, which would hide every slip in time; here it pays minus the pole's lean in degrees, after the action.
#
# The replay buffer hands out *windows*: a batch `[B, H]` of B stretches of H consecutive steps. A window may
# run on past a termination, into an episode with which it has nothing to do. A step is *alive* if no earlier
# step of its window was terminal; the terminal step itself is alive. By hand that is a walk:


# %%
def record(steps, seed):
    """Random play in 4 CartPoles [4, steps / 4], which pays minus the lean in degrees."""
    env = make_env("CartPole-v1", num_envs=4, seed=seed)
    data = next(iter(Collector(env, None, frames_per_batch=steps, total_frames=steps)))
    data["next", "reward"] = -torch.rad2deg(data["next", "observation"][..., 2:3]).abs()
    return data


def store(data, horizon, batch_size):
    size = {"capacity": data.numel(), "num_lanes": 4}
    replay = make_replay_buffer(**size, horizon=horizon, batch_size=batch_size)
    replay.extend(data)
    return replay


def walk(terminated):
    """Which steps are alive: those with no end before them."""
    return torch.tensor([[not any(row[:t]) for t in range(len(row))] for row in terminated.tolist()])


B, H = 128, 5
data = record(4000, seed=0)
replay = store(data, H, B)
window = replay.sample()
terminated = window["next", "terminated"].squeeze(-1)
alive = walk(terminated)
assert window.shape == (B, H)
assert torch.equal(alive, window["validity_mask"]) and torch.equal(alive, alive_mask(terminated).bool())

print("alive at t = 0 ... 4:", *alive.sum(0).tolist(), "of", B)
assert alive[:, 0].all() and B / 2 < alive[:, -1].sum() < B
follows = (window["next", "observation"][:, :-1] == window["observation"][:, 1:]).all(-1)
assert torch.equal(follows, ~terminated[:, :-1])  # a step begins where the last one led to, or anew

# %% [markdown]
# ## A reward as two bins
#
# The reward is predicted as a distribution over 65 *bins* $b_k$, which are symexp of an even grid: fine
# around 0, coarse far out, up to $\pm22\,025$. The target is *two-hot*: a reward between $b_k$ and $b_{k+1}$
# puts its weight on these two, in proportion. Seen from a bin, the weight is a hat: 1 at the bin, falling to
# 0 at both neighbours. So it is written here. The library's `two_hot` looks up the bin and scatters.


# %%
def hats(x, bins):
    """The two-hot weights (..., K) of x: the way that x has gone to each bin, less that to the next one."""
    way = ((x[..., None] - bins[:-1]) / bins.diff()).clamp(0, 1)
    one = torch.ones_like(x)[..., None]
    return torch.cat([one, way], -1) - torch.cat([way, 0 * one], -1)


grid = torch.linspace(-10, 10, 65, dtype=torch.float64)
bins = grid.sign() * grid.abs().expm1()
x = 100 * torch.randn(1000, dtype=torch.float64)
weights = two_hot(x, bins)
assert round(bins[-1].item()) == 22025
assert torch.equal(weights, hats(x, bins)) and ((weights > 0).sum(-1) == 2).all()

_, ax = plt.subplots(figsize=(9, 2.8))
fine = torch.linspace(-3.2, 3.2, 2001, dtype=torch.float64)  # symlog of a reward
for hat in two_hot(fine.sign() * fine.abs().expm1(), bins).T:
    ax.plot(fine[hat > 0], hat[hat > 0], color=GREY, lw=0.6)
for reward, colour in zip(torch.tensor([-9.0, 0.5, 3.0]).double(), (BLUE, GREEN, ORANGE), strict=True):
    place = reward.sign() * reward.abs().log1p()
    ax.axvline(place, 0, 0.84, color=colour, lw=1.2, ls=":")
    ax.plot([], [], color=colour, lw=5, label=f"reward {reward:g}")
    for k, weight in enumerate(two_hot(reward, bins)):
        if weight > 0:
            ax.plot([grid[k]] * 2, [0, weight], color=colour, lw=5, solid_capstyle="butt")
            ax.plot(place, weight, "o", color=colour, ms=5)
            side, shift = ("right", -0.04) if grid[k] < place else ("left", 0.04)
            ax.text(
                grid[k] + shift, weight, f"{weight:.2f}", ha=side, va="bottom", color=colour, weight="bold"
            )
ticks = torch.tensor([-20.0, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20])
ax.set_xticks(ticks.sign() * ticks.abs().log1p(), [f"{tick:g}" for tick in ticks])
ax.set(xlim=(-3.2, 3.2), ylim=(0, 1.25), yticks=[0, 0.5, 1], xlabel="reward", ylabel="weight")
ax.set_title("A hat for each bin: a reward's weights are the heights at which it meets hats", loc="left")
ax.legend(loc="upper center", ncols=3, fontsize=9)
plt.show()

# %% [markdown]
# Two consequences. **Means survive**: the weights times the bins give the reward back, and that is linear,
# so a mixture of two-hots has the mean reward. A reward that is 0 or 20 by the toss of a coin is predicted as
# 10; who regresses on symlog of the reward, on the same scale, gets 3.6. And the **cross-entropy does not go
# to 0**: its minimum is the entropy of the target, $\log 2$ for a reward halfway between two bins. A reward
# loss that stays up is not yet a failure to learn.

# %%
beside = (weights > 0).double() @ bins.abs()  # the size of the two bins
assert ((weights @ bins - x).abs() <= 8 * eps * beside).all()
coin = torch.tensor([0.0, 20.0], dtype=torch.float64)
assert abs(two_hot(coin, bins).mean(0) @ bins - 10) <= 8 * eps * 65
assert round(coin.log1p().mean().expm1().item(), 1) == 3.6

halfway = (bins[40:41] + bins[41:42]) / 2
logits = two_hot(halfway, bins).clamp(min=1e-300).log()
assert abs(two_hot_cross_entropy(logits, halfway, bins) - np.log(2)) <= 65 * eps
others = two_hot_cross_entropy(logits + torch.randn(1000, 65), halfway.expand(1000), bins)
assert others.min() > np.log(2)


# %% [markdown]
# ## From the weights up
#
# The loss, for a window $(s_0,a_0,r_0,s_1,a_1,\dots)$, with $e_t=1$ at a terminal step and else 0:
#
# $$z_0=f(s_0),\qquad (d_t,\ z_{t+1},\ \ell_t)=m\big(g(z_t,a_t)\big),\qquad t=0,\dots,H-1,$$
#
# $$L=\sum_{t<H}\ \operatorname{mean}_B\ \text{alive}_t\Big[\tfrac1n\lVert z_{t+1}-f'(s_{t+1})\rVert^2
# +0.1\,\mathrm{CE}\big(\ell_t,\text{two-hot}(r_t)\big)+0.1\,(d_t-e_t)^2\Big].$$
#
# Only the first observation is encoded by $f$; each later $z_t$ is the model's own prediction. $f'$ is the
# *target* encoder, an older copy of $f$ that gets no gradient. $m$ is one linear layer; $f$ and $g$ are
# three-layer MLPs with ELU and a LayerNorm without parameters; $z$ has $n$ entries, here 64. $d_t$ has no
# sigmoid; some predictions lie below 0.
#
# That is some 30 lines of torch. They read the weights from the library, and use none of its code.


# %%
def linear(x, p):
    return x @ p["weight"].mT + p["bias"]


def norm(x):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def mlp(x, p):
    return linear(elu(norm(linear(elu(norm(linear(x, p["l1"]))), p["l2"]))), p["l3"])


def f(s, p):
    return elu(norm(mlp(s, p["module", "mlp"])))


def g(z, a, p):
    z_a = elu(linear(a.to(z.dtype), p["module", "action_embedding"]))
    return mlp(torch.cat([z, z_a], -1), p["module", "mlp"])


def unroll(loss, window, carry=lambda t, z: z):
    """Return d, z_1 ... z_H and the logits, (B, H, ...); ``carry`` tells what step t starts from."""
    z, steps = f(window["observation"][:, 0], loss.state_encoder_params), []
    for t, action in enumerate(window["action"].unbind(1)):
        z_sa = g(carry(t, z), action, loss.state_action_encoder_params)
        d, z, logits = linear(z_sa, loss.predictor_params["module", "linear"]).split([1, 64, 65], -1)
        steps.append((d.squeeze(-1), z, logits))
    return [torch.stack(part, 1) for part in zip(*steps, strict=True)]


def by_hand(loss, window, carry=lambda t, z: z):
    """Return the three terms at each step of each window, (B, H); zero where the step is not alive."""
    d, z, logits = unroll(loss, window, carry)
    after = window["next"]
    with torch.no_grad():
        z_after = f(after["observation"], loss.target_state_encoder_params)
    ended, reward = after["terminated"].squeeze(-1), after["reward"].squeeze(-1)
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    return {
        "dynamics_error": walk(ended) * (z - z_after).square().mean(-1),
        "reward_error": walk(ended) * -(hats(reward, bins.to(reward.dtype)) * log_p).sum(-1),
        "terminated_error": walk(ended) * (d - ended.to(d.dtype)).square(),
    }


def weighted(terms):
    return terms["dynamics_error"] + 0.1 * terms["reward_error"] + 0.1 * terms["terminated_error"]


# %% [markdown]
# The networks should have learned a little, and the target encoder should lag behind, or some slips would
# not show. So 60 updates first; the last copy was made before the 51st.
#
# *How equal is equal?* Two right programs may differ by rounding, and rounding errors are proportional to
# the precision. Those of float32 are $2^{29}$ times as large as those of float64: large enough to measure.
# So we compute by hand in both precisions, from the same numbers, divide the largest difference by
# $2^{29}$, and allow the library 16 times as much.


# %%
def make(horizon, seed=0):
    torch.manual_seed(seed)
    sizes = ["model.z_s_dim=64", "model.z_a_dim=32", "model.z_sa_dim=64", "model.hidden_dim=64"]
    config = override(preset("uld"), [*sizes, f"loss.horizon={horizon}", "loss.n_steps=1"])
    env = make_env("CartPole-v1", num_envs=1)
    networks = make_networks(env.observation_spec["observation"], env.action_spec[0], config.model)
    return make_loss(networks, env.action_spec[0], config)


def learners(loss):
    """The parameters of f, g and m."""
    groups = (loss.state_encoder_params, loss.state_action_encoder_params, loss.predictor_params)
    return [parameter for group in groups for parameter in group.parameters()]


def train(loss, replay, updates):
    optimizer = torch.optim.AdamW(learners(loss), lr=1e-3, weight_decay=1e-4)
    targets = PeriodicHardUpdate(loss, period=50)
    for _ in range(updates):
        targets.step()  # copies f to f' before updates 1, 51, 101, ...
        optimizer.zero_grad()
        loss.encoder_loss(replay.sample())[0].backward()
        optimizer.step()


single = make(H)
train(single, replay, 60)
loss = copy.deepcopy(single).double()
assert (loss.dynamics_coeff, loss.reward_coeff) == (1, 0.1) and loss.terminated_coeff == torch.tensor(0.1)
loss.terminated_coeff.fill_(0.1)  # a buffer, so that it can be scheduled: it was the 0.1 of float32
batch = window.apply(lambda entry: entry.double() if entry.is_floating_point() else entry)
rough, exact = by_hand(single, window), by_hand(loss, batch)
value, parts = loss.encoder_loss(batch)
assert ((loss.bins - bins).abs() <= 4 * eps * bins.abs()).all()

print(f"{'':18}{'by hand':>20}{'library':>20}{'difference':>12}{'allowed':>10}")
allowed = {name: 16 * H * (rough[name] - exact[name]).abs().max() / 2**29 for name in exact}
for name, term in exact.items():
    hand, off = term.sum(1).mean(), abs(term.sum(1).mean() - parts[name])
    print(f"{name:18}{hand:20.15f}{parts[name]:20.15f}{off:12.1e}{allowed[name]:10.1e}")
    assert off <= allowed[name] < 1e-11
tolerance = weighted(allowed)
assert abs(weighted(exact).sum(1).mean() - value) <= tolerance

# %% [markdown]
# A check that cannot fail is worth nothing. Here are four slips, each with the size of its mistake. The last
# one is the subtle one: cut the gradient between the steps, and the loss is what it was; only its gradient
# is another. So gradients are compared too, entry by entry, with a tolerance found in the same way.


# %%
def gradient(loss, value):
    grads = torch.autograd.grad(value, learners(loss), retain_graph=True)
    return torch.cat([each.flatten() for each in grads])


hand, library = gradient(loss, weighted(exact).sum(1).mean()), gradient(loss, value)
coarse = gradient(single, weighted(rough).sum(1).mean())
tolerance_of_gradient = 16 * (hand - coarse).abs().max() / 2**29
assert (hand - library).abs().max() <= tolerance_of_gradient < 1e-11

seen = f(batch["observation"], loss.state_encoder_params)
fresh = copy.deepcopy(loss)
PeriodicHardUpdate(fresh).copy_()
d = unroll(loss, batch)[0]
assert d[alive].min() < 0
sigmoid = {"terminated_error": alive * (d.sigmoid() - terminated.double()).square()}
slips = {
    "each step starts from what was seen": (loss, by_hand(loss, batch, lambda t, z: seen[:, t])),
    "no target encoder": (fresh, by_hand(fresh, batch)),
    "a sigmoid on the termination": (loss, exact | sigmoid),
    "no gradient between the steps": (loss, by_hand(loss, batch, lambda t, z: z.detach() if t else z)),
}
print(f"{'':38}{'loss':>10}{'gradient':>10}")
print(f"{'tolerance':38}{tolerance:10.1e}{tolerance_of_gradient:10.1e}")
for name, (networks, terms) in slips.items():
    wrong = weighted(terms).sum(1).mean()
    off, off_gradient = abs(wrong - value), (gradient(networks, wrong) - library).abs().max()
    print(f"{name:38}{off:10.1e}{off_gradient:10.1e}")
    assert off_gradient > 1e6 * tolerance_of_gradient
    assert (off <= tolerance) if name.startswith("no gradient") else (off > 1e6 * tolerance)

# %% [markdown]
# What does the loss read, then? The first observation, all actions, and all that they led to. The later
# entries of `observation` it never looks at: predictions have taken their place.


# %%
def loss_changes(key, steps):
    """Whether the loss is another if the entry is, at these steps, that of another window."""
    other = batch.clone()
    other[key][:, steps] = other[key][:, steps].flip(0)
    return not torch.equal(loss.encoder_loss(other)[0], value)


assert loss_changes("observation", [0]) and not loss_changes("observation", [1, 2, 3, 4])
led_to = [("next", key) for key in ("observation", "reward", "terminated")]
assert all(loss_changes(key, [t]) for t in range(H) for key in ("action", *led_to))

# %% [markdown]
# ## Sums over time, means over the whole batch
#
# **A sum over t.** To unroll further adds terms, and leaves those that were there alone: the loss with
# $H=5$ is that with $H=3$ plus steps 3 and 4. With a mean over t, every other H would also be another weight
# of the first step, and another learning rate.
#
# **A mean over the whole batch.** Steps behind an end count as zeros; the divisor is B, not the number of
# steps still alive. So a window's loss is its own, whoever is with it in the batch, and the mean over a batch
# estimates that over the buffer without a bias. Divide by the living, and a late step weighs the more, the
# more *other* windows have ended: two halves of the batch no longer average to the whole.

# %%
short = copy.deepcopy(loss)
short.horizon = 3
first_three = short.encoder_loss(batch[:, :3])[0]
last_two = weighted(exact)[:, 3:].sum(1).mean()
assert abs(first_three + last_two - value) <= tolerance < first_three < 0.9 * value

loss.reduction = "none"  # one loss a window
each = loss.encoder_loss(batch)[0]
alone = torch.cat([loss.encoder_loss(batch[i : i + 1])[0] for i in range(B)])
loss.reduction = "mean"
assert (each - alone).abs().max() <= tolerance and abs(each.mean() - value) <= tolerance

order = alive.sum(1).argsort(descending=True, stable=True)  # windows without an end first
halves = order[: B // 2], order[B // 2 :]


def by_living(chosen):
    return (weighted(exact)[chosen].sum(0) / alive[chosen].sum(0)).sum()


apart, living_apart = (sum(map(mean, halves)) / 2 for mean in (lambda half: each[half].mean(), by_living))
print(f"divided by B:           {value:.4f} whole, {apart:.4f} as two halves")
print(f"divided by the living:  {by_living(order):.4f} whole, {living_apart:.4f} as two halves")
assert abs(apart - value) <= tolerance and abs(living_apart - by_living(order)) > 1e6 * tolerance

# %% [markdown]
# ## An end inside a window
#
# Behind a termination lie steps of another episode. They may hold any numbers: here every entry behind an end
# becomes noise, and neither the loss nor its parts nor any entry of the gradient changes by a single bit.

# %%
behind = ~alive.unsqueeze(-1)
noisy = batch.clone()
for key in ("observation", ("next", "observation"), ("next", "reward")):
    noisy[key] = torch.where(behind, 100 * torch.randn_like(noisy[key]), noisy[key])
noisy["action"] = torch.where(behind, 1 - noisy["action"], noisy["action"])
noisy["next", "terminated"] ^= behind
noisy_value, noisy_parts = loss.encoder_loss(noisy)
assert behind.sum() > 30 and torch.equal(noisy_value, value) and (noisy_parts == parts).all()
assert torch.equal(gradient(loss, noisy_value), library)

# %% [markdown]
# The terminal step itself is none of these. Its reward counts, often the only one a task has; its flag is the
# one 1 that $d$ gets to see; and its dynamics have a target too: **the encoded terminal observation**
# $f'(s_T)$, here of a pole that leans too far. Nothing marks it as an end.
#
# Theory wants something else. What follows an end is worth 0, so in
# [theorem 1](../docs/theory/theorem-1.md) the embedding that follows is the zero vector
# ([setting](../docs/theory/index.md)). With $f'(s_T)$ in its place the matrix learned is not the theorem's
# $W_d$ ([E18](../docs/theory/mistakes.md)); the last section shows it. The published loss does it this way,
# and so does this library. The agent's value learns from TD targets, which stop at an end by themselves
# (notebook 03), and not from rollouts of $m$. Who does roll $m$ out has to stop by $d$.

# %%
for key in led_to:
    other = batch.clone()
    other[key][terminated & alive] = 0
    assert not torch.equal(loss.encoder_loss(other)[0], value)

last = terminated & alive
z_end = f(batch["next", "observation"], loss.target_state_encoder_params)[last]
z = unroll(loss, batch)[1][last]
assert z_end.square().mean(-1).min() > 0.1  # far from zero: f ends in LayerNorm and ELU
with_zero = parts["dynamics_error"] + (z.square() - (z - z_end).square()).mean(-1).sum() / B
print(f"dynamics error {parts['dynamics_error']:.4f}; with zero as the target at ends {with_zero:.4f}")
assert abs(with_zero - parts["dynamics_error"]) > 1e6 * allowed["dynamics_error"]


# %% [markdown]
# ## Which term teaches whom
#
# Switch the terms on one at a time. $f$ and $g$ learn from all three, through the whole unroll. In $m$, the
# rows of the termination and of the reward learn from their own term alone, those of the next embedding from
# all three: later rewards and ends are predicted from it. Target networks, value heads and policy get
# nothing. Nor does a gradient arrive by way of any later observation: only $s_0$ is encoded with one.


# %%
def reached(coefficients):
    """The norms of the gradients that arrive, by network and by rows of m; and the gradient of f, g, m."""
    other = copy.deepcopy(loss)
    other.dynamics_coeff, other.reward_coeff, terminated_coeff = coefficients
    other.terminated_coeff.fill_(terminated_coeff)
    other.encoder_loss(batch)[0].backward()
    norms = {}
    for name, network in other.named_children():
        grads = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        norms[name.removesuffix("_params")] = torch.cat(grads).norm().item() if grads else None
    rows = other.predictor_params["module", "linear", "weight"].grad.split([1, 64, 65])
    for name, row in zip(("termination", "next embedding", "reward"), rows, strict=True):
        norms[f"  m: {name}"] = row.norm().item()
    return norms, torch.cat([p.grad.flatten() for p in learners(other)])


columns, grads = zip(*map(reached, torch.eye(3).tolist()), strict=True)
print(f"{'gradient norm':32}{'dynamics':>10}{'reward':>10}{'end':>10}")
for name in columns[0]:
    shown = ["none" if column[name] is None else f"{column[name]:.3f}" for column in columns]
    print(f"{name:32}" + "".join(f"{norm:>10}" for norm in shown))

taught = {"state_encoder", "state_action_encoder", "predictor", "  m: next embedding"}
for column, own in zip(columns, ("next embedding", "reward", "termination"), strict=True):
    assert {name for name, norm in column.items() if norm} == taught | {f"  m: {own}"}
assert (grads[0] + 0.1 * grads[1] + 0.1 * grads[2] - library).abs().max() <= tolerance_of_gradient

leaf = batch.clone()
observed = [leaf[key].requires_grad_() for key in ("observation", ("next", "observation"))]
now, later = torch.autograd.grad(loss.encoder_loss(leaf)[0], observed, allow_unused=True)
assert now[:, 0].any() and not now[:, 1:].any() and later is None

# %% [markdown]
# ## How far it carries
#
# Why unroll at all? With $H=1$ the model learns single steps, each from the embedding of something seen.
# Rolled out, it is fed its own predictions, which it never met in training. Below, models learn with $H=1$
# and with $H=5$, twice each, from the same data with as many updates. Then they are asked what follows the
# first state of new windows, twelve steps ahead. The reward has a unit, degrees, in which all can be
# compared. The error of an embedding has none, since an encoder may shrink all its embeddings; so it is
# divided by their variance at that step, and 1 is the error of who always predicts the step's mean.

# %%
STEPS = 12
test = record(4000, seed=1)
test = torch.cat([test[:, t : t + STEPS] for t in range(test.shape[1] - STEPS)])
test = test[~test["next", "done"][:, :-1].any(1).squeeze(-1)]  # no end before the last step
lean = test["next", "reward"].squeeze(-1)


def look_ahead(horizon, seed):
    """Train; return the errors of embedding (over variance) and reward (degrees), (2, STEPS)."""
    loss = make(horizon, seed)
    train(loss, store(data, horizon, 64), 600)
    _, z, logits = unroll(loss, test)
    z_true = f(test["next", "observation"], loss.state_encoder_params)
    spread = (z_true - z_true.mean(0)).square().mean((0, 2))
    error = (two_hot_mean(logits, loss.bins) - lean).abs().mean(0)
    return torch.stack([(z - z_true).square().mean((0, 2)) / spread, error]).detach()


errors = {H: torch.stack([look_ahead(H, seed) for seed in range(2)]) for H in (1, 5)}
(z_1, lean_1), (z_5, lean_5) = errors[1].mean(0), errors[5].mean(0)
guess = (lean - lean.mean(0)).abs().mean(0)
for t in (0, 4, 11):
    print(f"{t + 1:2} ahead: embedding {z_1[t]:.2f} (H = 1), {z_5[t]:.2f} (H = 5);", end=" ")
    print(f"reward {lean_1[t]:.1f}, {lean_5[t]:.1f}; the mean would err by {guess[t]:.1f}")
assert z_1[0] < z_5[0]  # a single step is learned best from single steps,
assert z_5[4] < z_1[4] / 1.2 and z_5[11] < z_1[11] / 2  # many steps from many,
assert lean_5[4] < guess[4] and lean_5[11] < lean_1[11]  # and rewards follow their embeddings

_, axes = plt.subplots(1, 2, figsize=(10, 3.4))
for k, ax in enumerate(axes):
    ax.axvspan(1, 5, color=ORANGE, alpha=0.08, lw=0)
    for horizon, colour, style in ((1, BLUE, "s--"), (5, ORANGE, "o-")):
        first, second = errors[horizon][:, k]
        ax.plot(range(1, 13), first, style, color=colour, ms=4, lw=1.2, label=f"trained with H = {horizon}")
        ax.plot(range(1, 13), second, style, color=colour, ms=4, lw=1.2)
    ax.set(xlabel="steps ahead", xticks=range(1, 13), xlim=(0.7, 12.3))
axes[0].axhline(1, color=GREY, lw=1.2, ls=":", label="the mean embedding of the step")
axes[0].set(yscale="log", ylim=(0.04, 2), ylabel="squared error / variance", title="The next embeddings")
axes[0].set_yticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
axes[0].minorticks_off()
axes[1].plot(range(1, 13), guess, color=GREY, lw=1.2, ls=":", label="the mean reward of the step")
axes[1].set(ylim=(0, None), ylabel="mean error (degrees)", title="The reward: minus the lean of the pole")
axes[0].legend(fontsize=9, loc="lower right")
axes[1].legend(fontsize=9, loc="upper left")
plt.show()

# %% [markdown]
# ## The same loss, and theorem 1
#
# Theorem 1 is about a *linear* model of *given* embeddings: $w_r$ and $W_d$ are the least squares solutions
# of $r\approx Zw_r$ and $Z'\approx ZW_d$, where $Z'$ holds the expected next state-action embeddings under
# the policy (notebook 06). Does the encoder loss find them? Five switches lead from the published loss to
# that of the theorem: frozen encoders, squared error for the reward, $z_{s'a'}$ as the target in place of
# $z_{s'}$, no target encoder, no unroll. Besides, $m$ loses its bias, and the weights of the terms become
# those of plain sums of squares (2 undoes the mean over two features).
#
# The problem: *stay* keeps the state; *go* leads from state 0 to state 1 in three cases of four, and from
# state 1 in one case of two to the end, which pays 4, else back to state 0. Staying in state 1 pays 1. The
# policy goes in state 0 and stays in state 1. Two features for four pairs: neither rewards nor next
# embeddings fit exactly. The batch has 40 single steps, in exact proportion to what happens how often.

# %%
pairs = [[[1, 0], [0, 1]], [[1, 1], [0, 2]]]  # the embedding of [state][action]; 0 is stay, 1 is go
steps = [(0, 0, 0, 0)] * 4 + [(0, 1, 1, 0)] * 6 + [(0, 1, 0, 0)] * 2  # state, action, next state, reward
steps += [(1, 0, 1, 1)] * 12 + [(1, 1, 2, 4)] * 8 + [(1, 1, 0, 0)] * 8  # state 2 is the end
s, a, after, reward = torch.tensor(steps).T.unsqueeze(-1)  # 40 windows of one step
following = {"observation": one_hot(after, 3).double(), "reward": reward[..., None].double()}
following["terminated"] = (after == 2)[..., None]
tosses = TensorDict(
    {"observation": one_hot(s, 3).double(), "action": one_hot(a, 2), "next": following}, [40, 1]
)

given = {"r": [0, 0, 1, 2], "Z": np.reshape(pairs, (4, 2)), "mu": [0.1, 0.2, 0.3, 0.4], "gamma": 0.9}
chain = [[0, 1, 0, 0], [0, 0.25, 0.75, 0], [0, 0, 1, 0], [0, 0.5, 0, 0]]  # of the pairs, under the policy
problem = theory.Problem.from_chain(chain, **given)
model = theory.fit_linear_model(problem)


class Frozen(nn.Module):
    """f as a table of three embeddings, g as one of four, and the policy: swap (1, 0) and (0, 1)."""

    def __init__(self, run, table):
        super().__init__()
        self.run, self.table = run, nn.Parameter(torch.tensor(table).double())

    def forward(self, *inputs):
        return self.run(self.table, *inputs)


class Linear(nn.Linear):
    def forward(self, z_sa):
        return super().forward(z_sa).split([1, 2, 1], -1)


switches = """freeze_encoder=true reward_loss=mse dynamics_target=state_action target_encoder=false
    unroll=false horizon=1 n_steps=1 target_noise=0 dynamics_coeff=2 reward_coeff=1"""
theorem = override(preset("uld"), [f"loss.{each}" for each in switches.split()])


def minimum(end):
    """Descend the encoder loss; return w_r, W_d and a bound on their error. ``end`` is f of the end."""
    f = Frozen(lambda table, s: s @ table, [[1, 0], [0, 1], end])
    g = Frozen(lambda table, z, a: torch.einsum("...s,...a,sad->...d", z, a.double(), table), pairs)
    m, policy = Linear(2, 4, bias=False), Frozen(lambda table, z: (z @ table, z), [[0, 1], [1, 0]])
    z_s, z_sa = ["state_embedding"], ["state_action_embedding"]
    networks = Networks(
        TensorDictModule(f, ["observation"], z_s),
        TensorDictModule(g, [*z_s, "action"], z_sa),
        TensorDictModule(m, z_sa, ["terminated_pred", ("next", *z_sa), "reward_logits"]),
        TensorDictModule(policy, z_s, ["action", "pre_activation"]),
        [TensorDictModule(nn.Linear(2, 1), z_sa, ["state_action_value"])],
    )
    loss = make_loss(networks, OneHot(2), theorem).double()
    PeriodicHardUpdate(loss).copy_()
    weight = loss.predictor_params["module", "weight"]
    for _ in range(400):
        (slope,) = torch.autograd.grad(loss.encoder_loss(tosses)[0], weight)
        weight.data -= 0.2 * slope
    loss.encoder_loss(tosses)[0].backward()
    assert all((p.grad is not None) == (p is weight) for p in loss.parameters())  # f and g are frozen
    _, W_d, w_r = np.split(weight.detach().numpy(), [1, 3])
    curvature = 2 * np.linalg.eigvalsh(problem.Z.T * problem.mu @ problem.Z)[0]  # the least there is
    return w_r[0], W_d.T, slope[1:].norm().item() / curvature + 100 * eps


def distance(ours, theirs):
    return np.linalg.norm(ours - theirs)


w_r, W_d, bound = minimum(end=[0, 0])
print("encoder loss: w_r", *w_r.round(6), " W_d", *W_d.round(6))
print("theorem 1:    w_r", *model.w_r.round(6), " W_d", *model.W_d.round(6))
assert max(distance(w_r, model.w_r), distance(W_d, model.W_d)) <= bound < 1e-12

# %% [markdown]
# And the end? Here $f$ makes the zero vector of it, and the theorem holds: the value of this model is what TD
# finds. Now let the terminal observation look like state 0 to $f$; nothing forbids it. The loss then finds
# the model of another problem, in which that step leads back to state 0. No reward has changed, and the value
# of every pair has.

# %%
w_r_too, W_leaked, bound = minimum(end=[1, 0])
endless = theory.Problem.from_chain([*chain[:3], [0, 1, 0, 0]], **given)
assert max(distance(w_r_too, w_r), distance(W_leaked, theory.fit_linear_model(endless).W_d)) <= 2 * bound

values = [problem.Z @ np.linalg.solve(np.eye(2) - 0.9 * W, w_r) for W in (W_d, W_leaked)]
print("value of the four pairs, end as zero:     ", *values[0].round(3))
print("value of the four pairs, end like state 0:", *values[1].round(3))
assert distance(values[0], problem.Z @ theory.td_fixed_point(problem).w) < 1e-12
assert (values[1] > values[0] + 0.3).all()

# %% [markdown]
# ## Where this is in the code
#
# The loss, its target and its mask are in `uld_torchrl/objectives/encoder.py`, the unroll in
# `uld_torchrl/modules/rollout.py`, two-hot and alive in `uld_torchrl/functional.py`, the networks in
# `uld_torchrl/modules/encoders.py`; the switches are fields of `LossConfig`. Theorem 1 is in
# [the handbook](../docs/theory/theorem-1.md).
#
# To try: give $m$ its bias back in the last section. For which embeddings would that change nothing?
