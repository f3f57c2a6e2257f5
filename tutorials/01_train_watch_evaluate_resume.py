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
# # Train, watch, evaluate, resume
#
# You will learn to
#
# - train an agent with one call, and read what it leaves on disk;
# - load it, and let it act in a plain Gymnasium loop;
# - compare it with random actions, and see it balance a pole;
# - go on with a finished run.
#
# It takes about 5 minutes to read and 40 seconds to run on one CPU core. You should have seen a Gymnasium
# loop before. The agent, ULD, is made for much harder tasks than this one; here its networks are small and
# its learning rates high, so that you need not wait.

# %%
import csv
import dataclasses
from pathlib import Path

import gymnasium
import matplotlib.pyplot as plt
import numpy as np

import uld_torchrl
from uld_torchrl.config import override

# %% [markdown]
# ## Train
#
# The task is `CartPole-v1`: push a cart to the left or to the right so that the pole on it stays up. Each
# step pays 1. The episode ends when the pole leans by more than 12 degrees, when the cart leaves its track,
# or after 500 steps.
#
# `preset("debug")` has the smallest networks. `override` changes settings by name, as `--set` does at the
# command line; a name that does not exist is refused. An *agent step* is one action. The first 200 are
# random; each later one brings one update of the networks.

# %%
config = override(
    uld_torchrl.preset("debug"),
    [
        "model.z_s_dim=64",
        "model.z_a_dim=32",
        "model.z_sa_dim=64",
        "model.hidden_dim=64",
        "loss.horizon=3",
        "loss.gamma=0.98",
        "optim.batch_size=128",
        "optim.period=25",
        "optim.encoder_lr=1e-3",
        "optim.value_lr=1e-3",
        "optim.policy_lr=1e-3",
        "run.total_steps=800",
        "run.random_steps=200",
        "run.eval_every=200",
        "run.eval_episodes=10",
    ],
)
result = uld_torchrl.train(config, "CartPole-v1", seed=2, name="first", progress=False)
print(f"after {result.step} steps: return {result.return_mean:.1f}, in {result.path}")

assert result.step == 800
assert result.path == Path("runs/gym/CartPole-v1/first/seed2")


# %% [markdown]
# (`progress=True`, the default, shows a progress bar.)
#
# ## Watch
#
# Everything that was measured is in CSV files, written row by row while the training goes on. `eval.csv`
# has the returns without exploration, in environments of its own; `metrics.csv` has the training episodes
# and the losses. The columns are explained in `uld_torchrl/trainers/logs.py`.


# %%
def column(name, table="eval.csv"):
    with (result.path / table).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[name]]  # a cell may be empty
    return [int(row["step"]) for row in rows], [float(row[name]) for row in rows]


steps, returns = column("episode_return_mean")
assert steps == [200, 400, 600, 800]
assert returns[-1] == result.return_mean
assert returns[-1] > returns[0]  # the evaluation at 200 steps came before the first update


def show_curve(title):
    figure, ax = plt.subplots(figsize=(7, 3.4), dpi=110, layout="constrained")
    ax.axvspan(0, 200, color="#E69F00", alpha=0.15, lw=0, label="random actions, no updates")
    ax.plot(*column("episode_return", "metrics.csv"), ".", color="#888888", label="training episodes")
    ax.plot(*column("episode_return_mean"), "o-", color="#0072B2", label="evaluation, mean of 10 episodes")
    ax.set(xlabel="agent steps", ylabel="return", title=title, xlim=(0, None), ylim=(0, 520))
    figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    plt.show()


show_curve("CartPole-v1, seed 2")

# %% [markdown]
# Some of the losses: `dynamics_error` is the squared error of the predicted embeddings, `reward_mae` the
# mean absolute error of the predicted reward, `td_error_mean` the distance of the values from their
# targets.

# %%
for name in ("dynamics_error", "reward_mae", "td_error_mean", "pred_value"):
    at, values = column(name, "metrics.csv")
    print(f"{name:15} step {at[0]}: {values[0]:8.4f}   step {at[-1]}: {values[-1]:8.4f}")

at, reward_mae = column("reward_mae", "metrics.csv")
assert at[0] > 200  # no losses before the first update
assert reward_mae[-1] < reward_mae[0]
assert column("updates", "metrics.csv")[1][-1] == 800 - 200

# %% [markdown]
# ## The run's directory
#
# The path is `<run_dir>/<environment>/<name>/seed<k>`. Nothing in it is pickled, so a run that somebody
# gives you can be opened without a risk.

# %%
for path in sorted(result.path.rglob("*")):
    inside = path.relative_to(result.path)
    if path.is_file() and inside.parts[0] != "checkpoints":
        print(f"{inside!s:26} {path.stat().st_size:7d} bytes")

for name in ("config.json", "environment.txt", "metrics.csv", "eval.csv", "timing.csv", "curve.png"):
    assert (result.path / name).is_file()
assert (result.path / "model" / "model.safetensors").is_file()
suffixes = {path.suffix for path in result.path.rglob("*") if path.is_file()}
assert not suffixes & {".pkl", ".pickle", ".pt", ".pth"}

# %% [markdown]
# ## Evaluate in a loop of your own
#
# `load` needs the directory and nothing else; `predict` maps an observation of the task to one of its
# actions. For comparison the same ten episodes are played with random actions.

# %%
agent = uld_torchrl.load(result.path)
env = gymnasium.make("CartPole-v1")
env.action_space.seed(0)


def play(choose, seed):
    """Play one episode; return its observations. Each step pays 1, so the return is their number - 1."""
    observation, _ = env.reset(seed=seed)
    seen, over = [observation], False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(choose(observation))
        assert reward == 1
        seen.append(observation)
        over = terminated or truncated
    return np.array(seen)


def random_action(_):
    return env.action_space.sample()


episodes = {
    "random": [play(random_action, seed) for seed in range(100, 110)],
    "learned": [play(agent.predict, seed) for seed in range(100, 110)],
}
returns = {who: np.array([len(seen) - 1 for seen in played]) for who, played in episodes.items()}
for who, values in returns.items():
    print(f"{who:8} mean {values.mean():5.1f}   of {values}")

assert env.action_space.contains(agent.predict(env.reset(seed=0)[0]))
assert returns["learned"].mean() > 2 * returns["random"].mean()


# %% [markdown]
# ## See it
#
# The observation holds the cart's position and the pole's angle, so a few lines draw both and no renderer
# is needed. (With one, `uld_torchrl.evaluate_run(result.path, video=True)` or `uld eval RUN --video` writes
# a film.) Here is the agent's longest episode, and below it random actions from the same start, up to the
# end of each.


# %%
def draw(ax, observation, colour):
    x, _, angle, _ = observation
    ax.plot([x - 0.35, x + 0.35], [0, 0], color="black", lw=6, solid_capstyle="butt")
    ax.plot([x, x + np.sin(angle)], [0.05, np.cos(angle)], color=colour, lw=3)
    ax.set(xlim=(x - 0.9, x + 0.9), ylim=(-0.15, 1.15), xticks=[], yticks=[], aspect="equal")


colours = {"learned": "#0072B2", "random": "#D55E00"}
longest = returns["learned"].argmax()
_, axes = plt.subplots(2, 8, figsize=(9, 2), dpi=110, layout="constrained")
for row, (who, colour) in zip(axes, colours.items(), strict=True):
    row[0].set_ylabel(who)
    seen = episodes[who][longest]
    last = len(seen) - 1
    steps = [step for step in (0, 5, 10, 20, 50, 100, 200) if step < last]
    for ax, step in zip(row, [*steps, last], strict=False):
        draw(ax, seen[step], colour)
        ax.set_title(f"end: {step}" if step == last else f"step {step}", fontsize=9)
    for ax in row[len(steps) + 1 :]:
        ax.set_axis_off()
plt.show()

learned, random = (episodes[who][longest] for who in colours)
assert np.array_equal(learned[0], random[0])
assert len(learned) > len(random)

# %% [markdown]
# And the pole's angle in all twenty episodes. Grey is where the pole may be.

# %%
_, ax = plt.subplots(figsize=(7, 2.8), dpi=110, layout="constrained")
for who, colour in colours.items():
    for seen in episodes[who]:
        ax.plot(np.degrees(seen[:, 2]), color=colour, lw=1.2, alpha=0.8)
    ax.plot([], color=colour, label=who)
ax.axhspan(-12, 12, color="#999999", alpha=0.15, lw=0)
ax.set(xlabel="step", ylabel="angle, degrees", ylim=(-19, 19), xlim=(0, None))
ax.legend(frameon=False, ncols=2, loc="upper right")
ax.spines[["top", "right"]].set_visible(False)
plt.show()

for seen in (*episodes["random"], *episodes["learned"]):
    assert (abs(np.degrees(seen[:-1, 2])) <= 12.001).all()  # no episode went on outside

# %% [markdown]
# ## Resume
#
# The same call again starts nothing anew: this run is finished, so its result comes back at once, and its
# measurements have not changed.

# %%
before = (result.path / "eval.csv").read_text()
again = uld_torchrl.train(config, "CartPole-v1", seed=2, name="first", progress=False)
assert again == result
assert (result.path / "eval.csv").read_text() == before

# %% [markdown]
# With a larger `total_steps` it goes on, from the replay buffer, networks, optimisers and random states of
# the last checkpoint. The same holds for a run that was interrupted.

# %%
longer = dataclasses.replace(config, run=dataclasses.replace(config.run, total_steps=1000))
final = uld_torchrl.train(longer, "CartPole-v1", seed=2, name="first", progress=False)
assert final.path == result.path
assert final.step == 1000
assert (final.path / "eval.csv").read_text().startswith(before)  # the rows so far are kept
assert column("updates", "metrics.csv")[1][-1] == 1000 - 200  # and no update was done twice
show_curve("CartPole-v1, seed 2, resumed at 800")

# %% [markdown]
# Any other change would make it another run, and is refused; `fresh=True` or another `name` starts a new
# one. (Try other seeds, too: so short a training is partly luck.)

# %%
other = override(longer, ["optim.period=50"])
try:
    uld_torchrl.train(other, "CartPole-v1", seed=2, name="first", progress=False)
except uld_torchrl.InputError as error:
    message = str(error)
print(message)
assert "optim.period: 25 -> 50" in message

# %% [markdown]
# ## From here
#
# The same at the command line, with settings that are made to learn: `uld train dmc/cartpole-swingup`, then
# `uld eval RUN --video`. An environment of your own goes where `"CartPole-v1"` stands: a `gymnasium.Env`,
# or a function that makes one.
