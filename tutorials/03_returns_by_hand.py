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
# # n-step returns, termination and truncation by hand
#
# Three rewards: 1, 10, 5. The episode ended in a terminal state with the second one; the third belongs to
# the next episode, which merely lies behind it in the replay buffer. What is the three-step return of the
# first step, at $\gamma = 0.99$?
#
# The answer is 10.90. A slip of one line makes it 1.00, 15.80 or 108.91. Below we make all three slips; no
# program crashes at any of them, which is what makes such faults hard to see.
#
# You will learn
#
# - to work n-step returns and their bootstrap by hand, with exact fractions, beside the library calls;
# - why the place of one mask decides whether a terminal reward exists at all;
# - what to do at a *truncation* (a time limit), which is not an end;
# - which windows the replay buffer hands out, and why it refuses the others;
# - why the reward scale of MR.Q changes no fixed point.
#
# It takes about 10 minutes to read and 15 seconds to run. You should know what a discount factor and a
# bootstrapped target are. Every figure is asserted by the code next to it.

# %%
import logging
from fractions import Fraction

import matplotlib.pyplot as plt
import torch
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import Bounded, MultiStep, Unbounded
from torchrl.objectives.value import TD0Estimator

from uld_torchrl import PeriodicHardUpdate, ULDLoss, make_networks, make_replay_buffer
from uld_torchrl.config import ModelConfig
from uld_torchrl.functional import alive_mask, n_step_return

logging.getLogger("torchrl").setLevel(logging.WARNING)  # it reports each new storage
gamma = Fraction(99, 100)


def numbers(values):
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def near(result, exact):
    """Whether a number computed in float64 is the exact one up to rounding."""
    return abs(float(result) - float(exact)) < 1e-12


# %% [markdown]
# ## Three rewards and one end
#
# A person would walk along the rewards, add them up, and stop where the episode stops. If it never stops,
# the value of the state after the last reward stands in for the rest: that is the bootstrap. So there are
# two things to return: the sum $G$, and the factor $D$ that the bootstrap value is multiplied by.


# %%
def by_hand(rewards, terminated, gamma):
    """Walk along the window: return G, and the discount D of the bootstrap value."""
    total, discount = Fraction(0), Fraction(1)
    for reward, end in zip(rewards, terminated, strict=True):
        total += discount * reward
        if end:
            return total, Fraction(0)
        discount *= gamma
    return total, discount


rewards, terminated = [1, 10, 5], [False, True, False]
G, D = by_hand(rewards, terminated, gamma)
assert G == 1 + gamma * 10 == Fraction("10.90")
assert D == 0  # after the end there is nothing to bootstrap from

# %% [markdown]
# A batch of windows knows no `return` statement, so the walk becomes a product. Step $t$ counts if no
# *earlier* step was terminal:
#
# $$\text{alive}_t = \prod_{k<t} (1 - \text{terminated}_k), \qquad
# G = \sum_{t<n} \gamma^t\, \text{alive}_t\, r_t, \qquad D = \gamma^n\, \text{alive}_n .$$
#
# The product is *exclusive*: the terminal step itself is still alive, and its reward is paid. This is
# `uld_torchrl.functional`:

# %%
assert alive_mask(torch.tensor(terminated)).tolist() == [1, 1, 0]
total, discount = n_step_return(numbers(rewards), torch.tensor(terminated), 0.99)
assert near(total, G)
assert discount == 0
print(f"G = {total:.2f}, D = {discount:.0f}")

# %% [markdown]
# One example proves little. Here are all eight ways in which three steps can end; the walk and the product
# agree on each.

# %%
for flags in [[bool(i & 1), bool(i & 2), bool(i & 4)] for i in range(8)]:
    G, D = by_hand(rewards, flags, gamma)
    total, discount = n_step_return(numbers(rewards), torch.tensor(flags), 0.99)
    assert near(total, G)
    assert near(discount, D)
    ends = "".join("x" if flag else "." for flag in flags)
    print(f"terminal {ends}   G = {float(G):8.4f}   D = {float(D):.6f}")


# %% [markdown]
# ## Three masks, three answers
#
# Two slips are easy to make. Make the product *inclusive* ($k \le t$), and the terminal step no longer
# counts. Leave the mask out, and the reward of the next episode leaks in.


# %%
def masked_return(rewards, mask):
    return sum(gamma**t * alive * reward for t, (alive, reward) in enumerate(zip(mask, rewards, strict=True)))


exclusive, inclusive, missing = (masked_return(rewards, mask) for mask in ([1, 1, 0], [1, 0, 0], [1, 1, 1]))
assert exclusive == Fraction("10.90")
assert inclusive == 1
assert missing == Fraction("15.8005")
assert missing - exclusive == gamma**2 * 5  # the leak

# %% [markdown]
# Which of the two is worse depends on the task. Where a task pays only at its end (a goal, a game won), the
# inclusive mask leaves nothing to learn. The only reward is masked, a terminal step has no bootstrap, and
# victory and defeat have the same target: 0.

# %%
won, lost, last_ends = [0, 0, 1], [0, 0, 0], [False, False, True]
assert by_hand(won, last_ends, gamma) == (gamma**2, 0)
assert by_hand(lost, last_ends, gamma) == (0, 0)

inclusive_mask = [1, 1, 0]  # drops the terminal step
assert masked_return(won, inclusive_mask) == masked_return(lost, inclusive_mask) == 0

# %% [markdown]
# ## A time limit is not an end
#
# Gymnasium tells two endings apart. *Terminated*: the pole fell, nothing can be earned any more, the value
# of what follows is 0. *Truncated*: the recording stopped, the task did not. The value of what follows is
# what it always was, and the target needs it.
#
# The test case is the dullest task there is: reward 1 at every step, for ever. Its value is
# $1/(1-\gamma)=100$. A critic that knows this must be left alone by its own target, and by every window,
# wherever the time limit fell.

# %%
value = 1 / (1 - gamma)
assert value == 100

G, D = by_hand([1, 1, 1], [False, False, False], gamma)  # the third step was truncated: it is no end
assert G == 1 + gamma + gamma**2 == Fraction("2.9701")
assert G + D * value == value  # 2.9701 + 97.0299, the fixed point

G, D = by_hand([1, 1, 1], [False, False, True], gamma)  # the same step taken for a termination
assert G + D * value == Fraction("2.9701")  # the target says: this state is worth 3, not 100

# %% [markdown]
# So a target reads `terminated` and never `done`, which is true at both. `n_step_return` has no argument
# for truncation at all.
#
# One question stays open: what if the truncation falls in the *middle* of a window? What follows belongs to
# another episode, so the sum has to stop there; but unlike a termination it has to stop with a bootstrap,
# from the state in which the recording stopped. Another length for each window, then? There is a simpler
# answer: never hand out such a window.

# %% [markdown]
# ## What the replay buffer hands out
#
# The buffer stores time steps in *lanes*, one for each environment, and draws *windows* of $H$ consecutive
# records. A window is named by its first record, the anchor. An anchor is legal if its window
#
# - is all written,
# - does not run on past a truncation (a truncation in its very last record is fine: bootstrap there),
# - but may run on past a termination: the mask takes care of what follows.
#
# Two lanes of 20 records, $H = 5$. Lane 0 terminates at record 6 and is truncated at 13; lane 1 is
# truncated at 4 and terminates at 11.

# %%
LANES, STEPS, H = 2, 20, 5
ends = {"terminated": [(0, 6), (1, 11)], "truncated": [(0, 13), (1, 4)]}


def flag(kind):
    marks = torch.zeros(LANES, STEPS, 1, dtype=torch.bool)
    for lane, step in ends[kind]:
        marks[lane, step] = True
    return marks


is_terminated, is_truncated = flag("terminated"), flag("truncated")
number = torch.arange(STEPS).float().expand(LANES, STEPS).unsqueeze(-1)  # each record shows its number
steps = TensorDict(
    {
        "observation": number,
        "action": torch.zeros(LANES, STEPS, 1),
        "next": {
            "observation": number + 1,
            "reward": torch.ones(LANES, STEPS, 1),
            "terminated": is_terminated,
            "truncated": is_truncated,
            "done": is_terminated | is_truncated,
        },
    },
    batch_size=[LANES, STEPS],
)
generator = torch.Generator().manual_seed(0)
buffer = make_replay_buffer(
    capacity=LANES * (STEPS + 10), num_lanes=LANES, horizon=H, batch_size=2000, generator=generator
)
buffer.extend(steps)
batch = buffer.sample()
assert batch.shape == (2000, H)


# %% [markdown]
# By hand, the rule is a walk again: go through the window; a termination makes it legal there and then, a
# truncation before the last record makes it illegal. The anchors that 2000 draws bring up are those, all of
# them and no others.


# %%
def is_legal(lane, anchor):
    window = range(anchor, anchor + H)
    if window[-1] >= STEPS:
        return False  # not written yet
    for step in window[:-1]:
        if (lane, step) in ends["terminated"]:
            return True  # what follows is masked
        if (lane, step) in ends["truncated"]:
            return False
    return True


by_rule = {(lane, step) for lane in range(LANES) for step in range(STEPS) if is_legal(lane, step)}
drawn = {(lane, time) for time, lane in batch["anchor_index"][:, 0].tolist()}
assert drawn == by_rule
print(f"{len(drawn)} of {LANES * STEPS} records begin a legal window")

# %%
colours = ["#56B4E9", "#E69F00", "#CC79A7"]  # Okabe and Ito: told apart by all kinds of colour vision
fig, ax = plt.subplots(figsize=(9, 3.5), dpi=110, layout="constrained")
for lane, y in enumerate([0, 1.6]):
    episode = 0
    for step in range(STEPS):
        tile = Rectangle((step - 0.48, y - 0.36), 0.96, 0.72, color=colours[episode], alpha=0.55, lw=0)
        ax.add_patch(tile)
        if (lane, step) in drawn:
            ax.plot(step, y, "o", color="black", ms=7)
        for kind, style in (("terminated", "-"), ("truncated", ":")):
            if (lane, step) in ends[kind]:
                ax.plot([step + 0.5] * 2, [y - 0.45, y + 0.45], style, color="black", lw=3)
                episode += 1
for first, text in ((4, "legal: 7 and 8 are masked"), (11, "refused: 14 and 15 belong elsewhere")):
    last = first + H - 1
    ax.plot([first - 0.4, first - 0.4, last + 0.4, last + 0.4], [0.5, 0.62, 0.62, 0.5], color="black", lw=1)
    ax.text((first + last) / 2, 0.68, text, ha="center", va="top", fontsize=9)
ax.set(xlim=(-0.7, STEPS - 0.3), ylim=(2.1, -0.55), xlabel="record in the lane")
ax.set_xticks(range(STEPS))
ax.set_yticks([0, 1.6], ["lane 0", "lane 1"])
ax.spines[:].set_visible(False)
ax.tick_params(length=0)
marks = [
    Line2D([], [], marker="o", color="black", ls="", label="legal anchor"),
    Line2D([], [], color="black", lw=3, label="termination"),
    Line2D([], [], color="black", lw=3, ls=":", label="truncation"),
]
episodes = [Patch(color=colour, alpha=0.55, label=f"episode {i + 1}") for i, colour in enumerate(colours)]
ax.legend(handles=marks + episodes, ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
ax.set_title(f"Windows of {H} records may cross a termination, never a truncation", loc="left", fontsize=11)
plt.show()

# %% [markdown]
# A truncation costs $H - 1 = 4$ anchors: its own record and the three before it, whose windows would all
# run on into the next episode. The last four records of a lane are blank too, until more is written.
# Terminations cost none.

# %%
blank = {lane: [step for step in range(STEPS) if (lane, step) not in drawn] for lane in range(LANES)}
assert blank[0] == [10, 11, 12, 13, 16, 17, 18, 19]
assert blank[1] == [1, 2, 3, 4, 16, 17, 18, 19]
assert (0, 9) in drawn  # its window ends exactly at the truncation

# %% [markdown]
# A window that crosses a termination carries a `validity_mask`, the same product as above, and its later
# records do belong to the next episode.

# %%
crossing = batch[(batch["anchor_index"][:, 0] == torch.tensor([4, 0])).all(-1)][0]  # lane 0, records 4 to 8
assert crossing["observation"].flatten().tolist() == [4, 5, 6, 7, 8]
assert crossing["next", "terminated"].flatten().tolist() == [False, False, True, False, False]
assert crossing["validity_mask"].tolist() == [True, True, True, False, False]

masks = batch["validity_mask"]
assert torch.equal(masks, alive_mask(batch["next", "terminated"].squeeze(-1)).bool())


# %% [markdown]
# ## The same question to TorchRL's `MultiStep`
#
# TorchRL has a transform for n-step returns, and an estimator that turns its result into a target. We ask
# them the question of the beginning, with a critic that believes every state to be worth 100.


# %%
def column(values):
    return torch.tensor(values).view(1, -1, 1)


rollout = TensorDict(
    {
        "observation": column([0.0, 1.0, 2.0, 3.0]),
        "next": {
            "observation": column([1.0, 2.0, 3.0, 4.0]),
            "reward": column([1.0, 10.0, 5.0, 0.0]),
            "terminated": column([False, True, False, False]),
            "truncated": column([False, False, False, False]),
            "done": column([False, True, False, False]),
        },
    },
    batch_size=[1, 4],
)
multi = MultiStep(gamma=0.99, n_steps=3)(rollout)
first = multi[0, 0]

critic = torch.full((1, 4, 1), 100.0)
target = TD0Estimator(gamma=0.99, value_network=None).value_estimate(multi, next_value=critic)[0, 0].item()
print(f"target of the first step: {target:.2f}")

assert round(first["next", "reward"].item(), 4) == 10.90  # the sum is right: it stops at the end ...
assert first["next", "observation"].item() == 2  # ... and the next observation is the terminal one,
assert not first["next", "terminated"]  # but the flag is still that of step 0, which did not end,
assert round(target, 2) == 108.91  # so the terminal state is bootstrapped from: 10.90 + 0.99^2 * 100

# %% [markdown]
# In fairness: a terminal state's value is never trained, so it need not be 100; it is whatever the network
# makes of it. And the transform leaves the `done` keys alone by design (the documentation of its twin,
# `MultiStepTransform`, says so). Each part does what it says; it is their sum that goes wrong. Read the
# flag where the next observation was read, and it comes out:

# %%
last = multi["steps_to_next_obs"][0, 0] - 1
multi["next", "terminated"][0, 0] = rollout["next", "terminated"][0, last]
mended = TD0Estimator(gamma=0.99, value_network=None).value_estimate(multi, next_value=critic)[0, 0].item()
assert round(mended, 2) == 10.90

# %% [markdown]
# ## A scale that changes nothing
#
# MR.Q divides its value targets by $c$, the mean absolute reward in the replay buffer, so that one learning
# rate fits all tasks. But $c$ moves as the buffer fills. The target networks were trained under an older
# scale $c'$, so their output is multiplied by that one first:
#
# $$y = \frac{G + D\, c'\, Q'}{c}.$$
#
# By hand, on the dull task whose value is 100: under the old scale $c' = 2$ a perfect target network says
# $Q' = 50$. Whatever the new scale, the target says 100, in its units.

# %%
G, D = by_hand([1, 1, 1], [False, False, False], gamma)
old_scale, Q = 2, Fraction(50)
for scale in (1, 2, Fraction(5, 2), 40):
    y = (G + D * old_scale * Q) / scale
    assert y * scale == 100

forgotten = (G + D * Q) / 2  # without c' the target is that of another task
assert forgotten * 2 == Fraction("51.48505")


# %% [markdown]
# Last, the whole loss: the package's own networks, but value heads that answer 50 and 60 to everything (the
# smaller one counts), and the windows drawn above. All rewards are 1, so the target of a window that ends
# nowhere within its first three steps is 100 again; and where the task ended after the first, second or
# third step it is 1, 1.99 or 2.9701, with no trace of the 50.


# %%
class Constant(torch.nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = torch.nn.Parameter(torch.tensor([answer]))

    def forward(self, z_sa):
        return self.answer.expand(*z_sa.shape[:-1], 1)


torch.manual_seed(0)
small = ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=8, hidden_dim=8)
spec = Bounded(-1, 1, (1,))
networks = make_networks(Unbounded(1), spec, small)
heads = [
    TensorDictModule(Constant(x), ["state_action_embedding"], ["state_action_value"]) for x in (50.0, 60.0)
]
loss = ULDLoss(
    networks.state_encoder,
    networks.state_action_encoder,
    networks.predictor,
    networks.actor_network,
    heads,
    action_spec=spec,
)
PeriodicHardUpdate(loss).copy_()
loss.update_reward_scale_(2.0)  # c = 2
loss.update_reward_scale_(5.0)  # c' = 2, c = 5

_, metadata = loss.value_loss(batch)
targets = metadata["target_value"]  # c y, in the units of the reward
endings = batch["next", "terminated"][:, :3].squeeze(-1)
expected = {
    (False, False, False): 100.0,
    (True, False, False): 1.0,
    (False, True, False): 1.99,
    (False, False, True): 2.9701,
}
seen = {}
for ending, target in zip(endings.tolist(), targets.tolist(), strict=True):
    seen.setdefault(tuple(ending), set()).add(round(target, 3))
for ending, found in sorted(seen.items()):
    print("".join("x" if end else "." for end in ending), found)
assert seen == {ending: {round(value, 3)} for ending, value in expected.items()}

# %% [markdown]
# ## Where this is in the code
#
# | Question | Answered in |
# |---|---|
# | $G$, $D$, the mask | `uld_torchrl/functional.py`: `n_step_return`, `alive_mask` |
# | Which windows are legal | `uld_torchrl/data/sampler.py` |
# | What a window holds | `uld_torchrl/data/windows.py` |
# | The target $y$ | `uld_torchrl/objectives/uld.py` |
#
# To try: which records are anchors if $H = 1$, and why may they all be?
