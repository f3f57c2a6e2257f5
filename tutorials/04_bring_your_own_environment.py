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
# # Bring your own environment: dict, discrete, pixels
#
# An environment of your own is a `gymnasium.Env`, and nothing has to be registered: the class goes where
# `"CartPole-v1"` stands. Here are three, each written out in full, with one thing each that is often got
# wrong.
#
# You will learn
#
# - to write an environment that observes a dictionary, one with numbered actions, and one that shows images;
# - to check it before anything is trained on it, and what such a check cannot see;
# - what the agent gets to see of each of them;
# - which ends are `terminated` and which are `truncated`, and who should count the steps;
# - what you are told when the environment is wrong;
# - to step several at once.
#
# It takes about 15 minutes to read and 30 seconds to run on one CPU core. You should know what `reset` and
# `step` of Gymnasium do. Every claim is asserted by the code next to it.

# %%
import csv
import re

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

from uld_torchrl import InputError, evaluate_run, load, make_env, preset, train
from uld_torchrl.config import override
from uld_torchrl.config_images import PixelConfig
from uld_torchrl.envs import observation_vector, stack_frames

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"  # Okabe and Ito
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100, "axes.titlesize": 10})

# %% [markdown]
# ## A dictionary of observations
#
# A car in a street with three parking bays is told which one is its own. The action is how far it moves, at
# most 0.3; each step costs the distance to the bay. The two parts of the observation keep their names: a
# `Dict`, of a `Box` and a `Discrete`.


# %%
class Parking(gymnasium.Env):
    """Drive to the bay that is asked for."""

    BAYS = (-0.8, 0.0, 0.8)
    observation_space = Dict({"place": Box(-1, 1, (1,)), "bay": Discrete(3)})
    action_space = Box(-0.3, 0.3, (1,))

    def observe(self):
        return {"place": np.array([self.place], np.float32), "bay": self.bay}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)  # seeds self.np_random
        self.place, self.bay = self.np_random.uniform(-1, 1), int(self.np_random.integers(3))
        return self.observe(), {}

    def step(self, action):
        self.place = float(np.clip(self.place + action[0], -1, 1))
        return self.observe(), -abs(self.place - self.BAYS[self.bay]), False, False, {}


check_env(Parking(), skip_render_check=True)  # silent: it found nothing

# %% [markdown]
# Gymnasium's checker looks at spaces, types, shapes, seeding and the five results of `step`. Run it first,
# always. The random numbers come from `self.np_random`, which `super().reset(seed=seed)` seeds; whoever takes
# NumPy's global ones has an environment that no seed repeats. The checker sees that:


# %%
class Unseeded(Parking):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.random.uniform(-1, 1)
        return self.observe(), {}


def told(call):
    """Return the message that a call is refused with."""
    try:
        call()
    except (AssertionError, InputError) as error:
        return str(error)
    raise RuntimeError("it was not refused")


message = told(lambda: check_env(Unseeded(), skip_render_check=True))
print(message.splitlines()[0])
assert "seed" in message

# %% [markdown]
# The agent sees one vector. A `Discrete` becomes one-hot, the parts of a `Dict` come one after the other in
# the order of the *space*, and Gymnasium sorts the keys of a plain dict by name: `bay` comes before `place`.
# Its actions lie in [-1, 1] and are stretched to your bounds.

# %%
env = Parking()
observation, _ = env.reset(seed=0)
vector = observation_vector(env.observation_space, observation)
print(observation, "->", vector)
assert list(env.observation_space.spaces) == ["bay", "place"]
assert np.array_equal(vector, [*np.eye(3)[observation["bay"]], *observation["place"]])

lanes = make_env(Parking)
seen = lanes.reset(seed=0)
assert np.array_equal(seen["observation"][0], vector)
moved = lanes.step(seen.set("action", torch.tensor([[-0.5]])))  # half of what is allowed, to the left
moved_to = float(moved["next", "observation"][0, 3])
assert np.isclose(moved_to, max(observation["place"][0] - 0.15, -1), atol=1e-6)

# %% [markdown]
# ## Who counts the steps
#
# `Parking` never ends, and training needs episodes. Do not count in the environment and return
# `terminated=True` after 20 steps: that would tell the agent that life ends there, although nothing in its
# observation announces it (notebook 03 works out what this costs). Wrap it in a `TimeLimit`, which says
# `truncated`: the recording stops, the task does not.


# %%
def parking():
    return TimeLimit(Parking(), 20)


ends = make_env(parking, seed=0).rollout(20)["next"]
assert ends["truncated"][0, :, 0].tolist() == [False] * 19 + [True]
assert not ends["terminated"].any()

# %% [markdown]
# Now train. The networks are small and the learning rates high, so that you need not wait. `train` takes the
# function, `evaluate_run` and `load` take the run's directory; `predict` takes an observation as the
# environment gives it, and returns an action as it takes it.

# %%
settings = """model.z_s_dim=64 model.z_a_dim=32 model.z_sa_dim=64 model.hidden_dim=64 model.bin_range=3
    loss.horizon=3 loss.gamma=0.9 loss.pre_activation_coeff=1e-2 optim.batch_size=64 optim.period=20
    optim.encoder_lr=1e-3 optim.value_lr=1e-3 optim.policy_lr=1e-3 run.random_steps=100
    run.total_steps=300 run.eval_every=150 run.eval_episodes=10 run.checkpoint_every=300"""
config = override(preset("debug"), settings.split())
options = {"seed": 0, "progress": False, "device": "cpu"}
result = train(config, parking, name="parking", **options)
agent = load(result.path)


def play(make, choose, episodes=20):
    """Return the returns of some episodes, and the observations of the last."""
    env, returns = make(), []
    env.action_space.seed(0)
    for seed in range(1000, 1000 + episodes):
        observation, _ = env.reset(seed=seed)
        seen, total, over = [observation], 0.0, False
        while not over:
            action = choose(env, observation)
            assert env.action_space.contains(action)
            observation, reward, terminated, truncated, _ = env.step(action)
            seen.append(observation)
            total, over = total + reward, terminated or truncated
        returns.append(total)
    return np.array(returns), seen


def at_random(env, _):
    return env.action_space.sample()


def learned(env, observation):
    return agent.predict(observation)


def by_hand(env, observation):
    way = Parking.BAYS[observation["bay"]] - observation["place"]
    return np.clip(way, env.action_space.low, env.action_space.high).astype(np.float32)


returns = {
    "random": play(parking, at_random),
    "learned": play(parking, learned),
    "best": play(parking, by_hand),
}
for who, (values, _) in returns.items():
    print(f"{who:8} return {values.mean():7.2f} (mean of {len(values)} episodes)")
assert returns["random"][0].mean() < returns["learned"][0].mean() <= returns["best"][0].mean()
assert returns["learned"][0].mean() > returns["random"][0].mean() / 2

_, ax = plt.subplots(figsize=(7, 2.6))
for (who, (_, seen)), colour in zip(returns.items(), (GREY, BLUE, ORANGE), strict=True):
    ax.plot([float(each["place"][0]) for each in seen], "o-", color=colour, ms=3, lw=1.2, label=who)
ax.axhline(Parking.BAYS[seen[0]["bay"]], color="black", lw=0.8, ls="--")
ax.set(
    xlabel="step", ylabel="place", title="One episode from the same start (dashed: the bay)", ylim=(-1.1, 1.1)
)
ax.legend(ncols=3)
plt.show()

# %% [markdown]
# ## Numbered actions
#
# A ledge of five tiles with a view that gets better towards its edge: a step pays the tile's number divided
# by 4. One step too far, and it is over. This end *is* `terminated`: nothing can be earned after it. Actions
# may start at any number; here they are -1, 0 and 1.


# %%
class Ledge(gymnasium.Env):
    """Walk to the edge, and not over it."""

    observation_space = Discrete(5)
    action_space = Discrete(3, start=-1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.tile = int(self.np_random.integers(3))
        return self.tile, {}

    def step(self, action):
        to = self.tile + int(action)
        self.tile = min(max(to, 0), 4)
        return self.tile, 0.0 if to > 4 else self.tile / 4, to > 4, False, {}


def ledge():
    return TimeLimit(Ledge(), 20)


check_env(Ledge(), skip_render_check=True)
lanes = make_env(ledge, seed=0)
assert lanes.action_spec.shape == (1, 3)  # one-hot inside; -1, 0, 1 outside
right = torch.tensor([[0, 0, 1]])
td, flags = lanes.reset(), []
for _ in range(5):
    td = lanes.step(td.set("action", right))["next"]
    flags.append((bool(td["terminated"]), bool(td["truncated"])))
    if td["done"]:
        break
assert flags[-1] == (True, False) and not any(map(any, flags[:-1]))

# %% [markdown]
# Of two ends at once `terminated` counts: who falls in the last step has fallen. The best would be to walk to
# the edge and to stand there, for a return of 19; after 200 updates the agent is on its way.

# %%
result = train(config, ledge, name="ledge", **options)
agent = load(result.path)
outcomes = {"random": play(ledge, at_random), "learned": play(ledge, learned)}
for who, (values, seen) in outcomes.items():
    print(f"{who:8} return {values.mean():6.2f}; the last episode: {seen}")
assert outcomes["learned"][0].mean() > 1.5 * outcomes["random"][0].mean()
assert outcomes["learned"][0].max() <= 20
played = evaluate_run(result.path, env=ledge, episodes=10).result
assert len(played.returns) == 10

# %% [markdown]
# ## Images
#
# An image is a `Box` of uint8 from 0 to 255, of shape (H, W), (H, W, C) or (C, H, W). Give it as it was
# drawn: no floats, no stacking, no scaling. Resizing and the stack of the last three frames, by which the
# agent sees movement, are done for you, and each frame is stored once.
#
# The task: a ball falls in one of five columns, a paddle at the bottom moves under it or does not. Each
# episode has four steps and one reward, 1 or -1.


# %%
class Catch(gymnasium.Env):
    """Be where the ball comes down."""

    observation_space = Box(0, 255, (40, 40), np.uint8)
    action_space = Discrete(3)

    def observe(self):
        grid = np.zeros((5, 5), np.uint8)
        grid[4, self.paddle] = 120
        grid[self.row, self.ball] = 255
        return np.kron(grid, np.ones((8, 8), np.uint8))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row, self.paddle, self.ball = 0, 2, int(self.np_random.integers(5))
        return self.observe(), {}

    def step(self, action):
        self.row += 1
        self.paddle = min(max(self.paddle + int(action) - 1, 0), 4)
        down = self.row == 4
        reward = 0.0 if not down else 1.0 if self.paddle == self.ball else -1.0
        return self.observe(), reward, down, False, {}


check_env(Catch(), skip_render_check=True)
pixels = PixelConfig(frame_size=40, frame_stack=3)
lanes = make_env(Catch, seed=1, pixels=pixels)
td = lanes.reset()
assert td["pixels"].shape == (1, 3, 40, 40) and td["pixels"].dtype == torch.uint8
assert torch.equal(td["pixels"][0, 0], td["pixels"][0, 2])  # the first frame of an episode is repeated
pictures = [td["pixels"][0]]
for _ in range(3):
    td = lanes.step(td.set("action", torch.tensor([[0, 1, 0]])))["next"]
    pictures.append(td["pixels"][0])
assert torch.equal(pictures[3][1], pictures[2][2])  # the newest frame of one is the second newest of the next

_, axes = plt.subplots(1, 4, figsize=(8, 2.2))
for step, (ax, stack) in enumerate(zip(axes, pictures, strict=True)):
    ax.imshow(np.moveaxis(stack.numpy(), 0, -1))
    ax.set(title=f"step {step}", xticks=[], yticks=[])
plt.suptitle("What the agent sees: the last three frames (here as red, green, blue)", fontsize=10)
plt.show()

# %% [markdown]
# To learn to catch takes longer than we want to wait here. Two hundred updates show that everything is
# connected: the error of the predicted reward falls, although it is still larger than the 0.25 of always
# saying 0. A loaded agent takes stacks of frames, as `stack_frames` makes them around the environment.

# %%
images = ["pixels.frame_size=40", "model.conv_channels=8", "optim.batch_size=32", "optim.image_shift=0"]
result = train(override(config, images), Catch, name="catch", **options)
with (result.path / "metrics.csv").open(newline="") as file:
    errors = [float(row["reward_mae"]) for row in csv.DictReader(file) if row["reward_mae"]]
print(f"error of the predicted reward: {errors[0]:.2f} at first, {errors[-1]:.2f} at last")
assert errors[-1] < errors[0]

agent = load(result.path)
env = stack_frames(Catch(), pixels)
observation, _ = env.reset(seed=0)
assert observation.shape == (3, 40, 40) and env.action_space.contains(agent.predict(observation))


# %% [markdown]
# ## When the environment is wrong
#
# Spaces are judged when the environment is made, what it returns at each step. Both kinds of message name the
# place, what was given and what is allowed. First, spaces:


# %%
def changed(**attributes):
    return type("Parking", (Parking,), attributes)


camera = Box(0, 255, (40, 40, 3), np.uint8)
spaces = {
    "several numbers": changed(action_space=MultiDiscrete([3, 3])),
    "no bounds": changed(action_space=Box(-np.inf, np.inf, (1,))),
    "a float image": changed(observation_space=Box(0, 1, (40, 40, 3))),
    "an image among others": changed(observation_space=Dict({"place": Box(-1, 1, (1,)), "camera": camera})),
}
expected = (
    "supported are a Box of floats and Discrete",
    "TransformAction",
    "uint8 from 0 to 255",
    "choose one",
)
for (what, wrong), words in zip(spaces.items(), expected, strict=True):
    message = told(lambda wrong=wrong: make_env(wrong))
    print(f"{what}: {message}\n")
    assert "custom/Parking" in message and words in message

# %% [markdown]
# Then, what it returns. Each of these would otherwise surface much later, as a loss that is NaN, or not at
# all:


# %%
def returns_instead(**changes):
    """A Parking whose step returns something else in one place."""

    def step(self, action):
        names = ("observation", "reward", "terminated", "truncated", "info")
        stepped = dict(zip(names, Parking.step(self, action), strict=True)) | changes
        return tuple(value for value in stepped.values() if value is not Ellipsis)

    return changed(step=step)


def divides(self, action):
    return 1 // 0


nan = np.array([np.nan], np.float32)
steps = {
    "not a number": returns_instead(observation={"place": nan, "bay": 1}),
    "a key too few": returns_instead(observation={"bay": 1}),
    "an unknown bay": returns_instead(observation={"place": np.zeros(1, np.float32), "bay": 3}),
    "no reward": returns_instead(reward=None),
    "infinite reward": returns_instead(reward=float("inf")),
    "four results, as in old gym": returns_instead(truncated=...),
    "an exception": changed(step=divides),
}
expected = (
    "observation['place'][0] is nan",
    "the keys",
    "from 0 to 2",
    "one number",
    "inf",
    "a tuple of 4 values",
    "ZeroDivisionError",
)
for (what, wrong), words in zip(steps.items(), expected, strict=True):
    lanes = make_env(wrong, num_envs=2, seed=0)
    message = re.sub(
        r"\(/.*/", "(", told(lambda lanes=lanes: lanes.rollout(2))
    )  # a cell's file has a long path
    print(f"{what}: {message}\n")
    assert "custom/Parking, lane 0" in message and words in message

# %% [markdown]
# What is *legal* is not questioned: a reward with the wrong sign, an observation that lacks what the task
# needs, a `terminated` that should have been `truncated`. Play a few episodes by hand, with a policy that you
# know to be good, and look at its return before you train; above that was `by_hand`.
#
# ## Several at once
#
# With `run.num_envs=4` the function is called four times, and four environments are stepped together. That is
# why a function is better than an object: an object would have to be copied. Lane 0 gets the seed itself, so
# it is the environment that you would have had alone; the others get seeds of their own.

# %%
alone, four = make_env(parking), make_env(parking, num_envs=4)
start = four.reset(seed=5)["observation"]
assert four.batch_size == (4,) and torch.equal(start[0], alone.reset(seed=5)["observation"][0])
assert len({tuple(row) for row in start.tolist()}) == 4

vector_env = gymnasium.vector.SyncVectorEnv([parking] * 4)
same = make_env(vector_env)  # takes its functions, and calls them again
assert torch.equal(same.reset(seed=5)["observation"], start)

wide = override(config, ["run.num_envs=4", "run.total_steps=140"])
result = train(wide, parking, name="four", **options)
assert result.step == 140  # agent steps: 35 vector steps of four

once = Parking()
message = told(lambda: make_env(lambda: once, num_envs=2))
print(message)
assert "same environment twice" in message

# %% [markdown]
# A slow environment can be stepped in other processes, `train(..., env_workers=2)` or `--env-workers 2`, with
# the same data to the last bit. Its class then has to be in a file that the processes can import, not in a
# notebook.
#
# ## From here
#
# A class in a file that is registered with Gymnasium has a name, `"module:Parking-v0"`, that also works at
# the command line. What wrappers such as `NormalizeObservation` learn while training stays in the training
# environment, and a warning says so; better scale by known bounds. Notebook 01 shows what a run leaves
# behind.
#
# To try: let `Ledge` report its time limit as `terminated`. Is the agent worse, and at which tile does it
# stand? Then let it observe the time as well.
