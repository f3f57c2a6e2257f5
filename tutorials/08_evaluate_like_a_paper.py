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
# # Evaluate like a paper: seeds, IQM, intervals, ablations
#
# Two agents, three seeds each, one is 8 % ahead. Is it better? Nobody can tell from this sentence. It does
# not say on which scale, at which step, and how far three seeds of *one* agent lie apart.
#
# You will learn
#
# - what a published score refers to: which step, which scale, which mean;
# - why mean, median and interquartile mean name different winners;
# - how often a 95 % interval holds the truth when there are 2, 3, 5 or 10 seeds, worked out and simulated;
# - how often two *equal* agents are told apart, and how often a real difference is not seen;
# - to run a study of tasks, variants and seeds, and to read its report without reading too much into it.
#
# It takes about 20 minutes to read and 20 seconds to run on one CPU core. You should know what a mean and a
# standard deviation are. Published figures come with the package, each with its source; the statistics are
# those of "Deep RL at the edge of the statistical precipice" (arXiv 2108.13264). Every claim is asserted by
# the code next to it.

# %%
import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display
from scipy.stats import binom, t

from uld_torchrl import train
from uld_torchrl.ablations import ABLATIONS
from uld_torchrl.experiments import (
    SOURCES,
    aggregate,
    aggregates,
    normalise,
    performance_profile,
    points,
    probability_of_improvement,
    suite,
)
from uld_torchrl.experiments.comparison import compare
from uld_torchrl.experiments.launchers import Plan, run_local
from uld_torchrl.experiments.pictures import curves_figure
from uld_torchrl.experiments.report import tables, write_report
from uld_torchrl.experiments.study import Study, status

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"  # Okabe and Ito
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100, "axes.titlesize": 10})

# %% [markdown]
# ## At which step
#
# DeepMind Control repeats each action twice. What MR.Q publishes at 500 000 agent steps, others draw at 1 000
# 000, since they count frames; both axes are called "steps". Here is one published curve, drawn both ways.
# Who reads the second as the first sees an agent at 60 % of itself.

# %%
print(SOURCES["mrq_curves"])
curve = points("dmc/dog-run", "mrq")
steps, means = np.array([point.step for point in curve]), np.array([point.mean for point in curve])
repeat = suite("dmc28").frames_per_step
assert (repeat, suite("dmc28").total_steps) == (2, 500_000)

_, ax = plt.subplots(figsize=(7, 2.8))
low, high = [point.low for point in curve], [point.high for point in curve]
for factor, colour, label in ((1, BLUE, "over agent steps"), (repeat, ORANGE, "over frames")):
    ax.fill_between(factor * steps / 1000, low, high, color=colour, alpha=0.2, lw=0)
    ax.plot(factor * steps / 1000, means, "o-", color=colour, ms=3, lw=1.5, label=label)
ax.axvline(500, color=GREY, lw=0.8, ls=":")
ax.set(xlabel='thousand "steps"', ylabel="return", title="MR.Q on dog-run, one curve on two axes")
ax.legend()
plt.show()

at = dict(zip(steps.tolist(), means, strict=True))
misread = at[500_000 // repeat] / at[500_000]
print(f"the value at 500 thousand frames is {misread:.0%} of that at 500 thousand agent steps")
assert 0.55 < misread < 0.65

# %% [markdown]
# In this package a step is an agent step, everywhere; `uld report` prints the frames beside it.
#
# ## On which scale, by which mean
#
# Returns of different tasks cannot be averaged as they are. The field has agreed on what counts as 0 and as
# 1: 0 and 1000 for DeepMind Control, a random and a human player for Atari. Even then the *kind* of mean
# matters. The interquartile mean (IQM) leaves out the lowest and the highest quarter, rounded down. By hand:


# %%
def iqm_by_hand(values):
    out = len(values) // 4
    kept = sorted(values)[out : len(values) - out]
    return sum(kept) / len(kept)


assert iqm_by_hand([-100, 1, 2, 3, 4, 5, 6, 100]) == (2 + 3 + 4 + 5) / 4


def scores(method, name, leave_out=()):
    """Published normalised scores of a method at the last step of a suite, task -> (1,)."""
    envs = [env for env in suite(name).envs if env not in leave_out]
    last = {env: [p.mean for p in points(env, method) if p.step == suite(name).total_steps] for env in envs}
    return {env: normalise(env, mean) for env, mean in last.items()}


atari = scores("mrq", "atari57", leave_out=("atari/Defender", "atari/Surround"))  # as published: 55 games
ranked = np.sort(np.concatenate(list(atari.values())))
summary = {name: aggregate(atari, name).value for name in ("mean", "median", "iqm_tasks")}
assert np.isclose(summary["mean"], ranked.mean()) and np.isclose(summary["median"], np.median(ranked))
assert np.isclose(summary["iqm_tasks"], iqm_by_hand(ranked))
share = ranked[-3:].sum() / ranked.sum()
print(*(f"{name} {value:.3f}" for name, value in summary.items()), sep=", ")
print(f"the 3 best of {len(ranked)} games carry {share:.0%} of the mean")
assert len(ranked) == 55 and 0.4 < share < 0.5 and summary["mean"] > 2.5 * summary["iqm_tasks"]

_, ax = plt.subplots(figsize=(7, 2.8))
inside = np.arange(55) // 13 % 4 != 0  # 13 games go on either side
inside[-13:] = False
ax.bar(np.arange(55), ranked, color=np.where(inside, BLUE, GREY), width=0.8)
for (name, value), colour, style in zip(
    summary.items(), (ORANGE, GREEN, PINK), ("-", "--", ":"), strict=True
):
    ax.axhline(value, color=colour, lw=1.5, ls=style, label=f"{name.removesuffix('_tasks')} {value:.2f}")
ax.set_yscale("symlog", linthresh=1)
ax.set(xlabel="game, by score (grey: left out of the IQM)", ylabel="human-normalised score", xlim=(-1, 55))
ax.set(title="MR.Q at 2.5 million agent steps", ylim=(-1.5, 200))
ax.legend(loc="upper center", ncols=3)
plt.show()
assert inside.sum() == 55 - 2 * 13 and np.isclose(ranked[inside].mean(), summary["iqm_tasks"])

# %% [markdown]
# A mean over Atari games is largely a statement about three games. On DeepMind Control, where no score
# exceeds 1, the kinds of mean lie closer, and still do not agree on who is third. A *performance profile*
# shows why: the share of tasks above each score. Where two profiles cross, no single number can be right.

# %%
METHODS = dict(
    zip(("mrq", "tdmpc2", "td7", "dreamerv3", "ppo"), (BLUE, ORANGE, GREEN, PINK, GREY), strict=True)
)
dmc = {method: scores(method, "dmc28") for method in METHODS}
found = {
    method: [aggregate(runs, name).value for name in ("mean", "median", "iqm_tasks")]
    for method, runs in dmc.items()
}
print(f"{'':10}{'mean':>8}{'median':>8}{'IQM':>8}   28 tasks, 500 000 agent steps")
for method, values in found.items():
    print(f"{method:10}" + "".join(f"{value:8.3f}" for value in values))
by_mean, by_median, by_iqm = (sorted(found, key=lambda method: -found[method][kind]) for kind in range(3))
assert by_mean == by_iqm == ["mrq", "tdmpc2", "td7", "dreamerv3", "ppo"]
assert by_median == ["mrq", "tdmpc2", "dreamerv3", "td7", "ppo"]

levels = np.linspace(0, 1, 401)
profiles = {method: performance_profile(runs, levels) for method, runs in dmc.items()}
_, ax = plt.subplots(figsize=(7, 3))
for method, colour in METHODS.items():
    ax.plot(levels, profiles[method], color=colour, lw=1.5, label=method, drawstyle="steps-post")
ax.set(xlabel="normalised score", ylabel="share of tasks above", xlim=(0, 1), ylim=(0, 1.02))
ax.legend(loc="lower left")
plt.show()
assert np.isclose(profiles["td7"][200], np.mean([runs[0] > levels[200] for runs in dmc["td7"].values()]))
ahead = np.sign(profiles["td7"] - profiles["dreamerv3"])
assert {-1, 1} <= set(ahead.tolist())  # the two profiles cross

# %% [markdown]
# Two more traps. **There are two IQMs.** Papers give it over all *runs*, pooled; from a table of task means
# one can only make that of the *task means*. They are different numbers under one name, so here they have two
# names, `iqm_runs` and `iqm_tasks`. And **without runs there is no interval**: of one number a task, nothing
# can be said of the spread, and the library does not.

# %%
published = aggregates("dmc28", 500_000)
mean, _, of_tasks = found["mrq"]
assert round(mean, 4) == published["mean"].mean  # what the curves say is what was published
print(f"MR.Q on dmc28: IQM over task means {of_tasks:.4f}, over runs {published['iqm'].mean} as published")
assert not published["iqm"].low <= of_tasks <= published["iqm"].high  # not even within its interval
assert np.isnan(aggregate(dmc["mrq"], "mean").low)

# %% [markdown]
# ## What 95 % means with three seeds
#
# The interval of a mean over seeds comes from the *bootstrap*: draw as many runs as there were from the runs
# themselves, with replacement, take the mean, do it 2000 times, and report the middle 95 %. Over several
# tasks each task's runs are drawn by themselves. This says how much *new seeds* on *these tasks* would move
# the mean.
#
# Does it hold the truth 95 times of 100? With few seeds it cannot. Of two runs, a quarter of all resamples
# are the lower one twice, and a quarter the upper one twice: the interval is the two runs themselves. It
# holds the truth (of symmetric scores) if they fall on different sides, with probability 1/2. Of three runs,
# 1/27 of the resamples, more than 2.5 %, are the lowest one three times: again from the lowest to the
# highest, and all three fall on one side with probability 1/4. So "95 %" is 50 % with two seeds, 75 % with
# three.

# %%
for runs in ([1.0, 5.0], [1.0, 2.0, 5.0]):
    resampled = [np.mean(drawn) for drawn in itertools.product(runs, repeat=len(runs))]
    assert np.mean(np.isclose(resampled, min(runs))) == len(runs) ** -len(runs) > 0.025
    assert np.mean(np.isclose(resampled, max(runs))) == len(runs) ** -len(runs)
    found = aggregate({"task": runs}, "mean")
    print(f"runs {runs}: mean {found.value:.2f}, interval [{found.low:.2f}, {found.high:.2f}]")
    assert (found.low, found.high) == (min(runs), max(runs))

# %% [markdown]
# With more runs a mean of $n$ normal scores on each of $T$ tasks has about the interval $\pm
# 1.96\sqrt{(n-1)/n}$ standard errors, with $T(n-1)$ degrees of freedom: it is too narrow by $\sqrt{(n-1)/n}$,
# since the bootstrap takes the spread of the sample for the truth, and by the uncertainty of that spread.
# More tasks cure the second, and nothing but seeds cures the first. The dots are simulated: 250 studies each
# of an agent whose true scores are known. The bars are where 99.9 % of such dots fall.

# %%
STUDIES, SEEDS = 250, (2, 3, 5, 10)
rng = np.random.default_rng(0)


def covered(tasks, seeds):
    """How many of the studies have an interval that holds the true mean, 0."""
    count = 0
    for study in range(STUDIES):
        drawn = {str(task): rng.normal(size=seeds) for task in range(tasks)}
        found = aggregate(drawn, "mean", resamples=800, seed=study)
        count += found.low <= 0 <= found.high
    return count


def predicted(tasks, seeds):
    if tasks == 1 and seeds < 4:
        return {2: 1 / 2, 3: 3 / 4}[seeds]
    width = 1.96 * np.sqrt((seeds - 1) / seeds)
    return 1 - 2 * t.sf(width, tasks * (seeds - 1))


_, ax = plt.subplots(figsize=(7, 3))
ax.axhline(0.95, color="black", lw=0.8, ls="--")
rates = {}
for tasks, colour in ((1, ORANGE), (10, BLUE)):
    expected = np.array([predicted(tasks, seeds) for seeds in SEEDS])
    counts = np.array([covered(tasks, seeds) for seeds in SEEDS])
    ends = binom.ppf([[0.0005], [0.9995]], STUDIES, expected)
    assert (ends[0] <= counts).all() and (counts <= ends[1]).all()
    rates[tasks] = counts / STUDIES
    ax.errorbar(SEEDS, expected, abs(ends / STUDIES - expected), color=colour, lw=1.2, capsize=3)
    ax.plot(SEEDS, rates[tasks], "o", color=colour, label=f"{tasks} task" + "s" * (tasks > 1))
    print(
        f"{tasks:2} tasks:", *(f"{n} seeds {rate:.0%}" for n, rate in zip(SEEDS, rates[tasks], strict=True))
    )
ax.text(7, 0.955, "what it says", ha="center", va="bottom", fontsize=9)
ax.set(xlabel="seeds", ylabel="holds the truth", xticks=SEEDS, ylim=(0.35, 1.02))
ax.set_title('How often a "95 %" interval is right: predicted (lines) and simulated (dots)')
ax.legend(loc="lower right")
plt.show()
assert rates[1][0] < 0.6 and rates[1][1] < 0.85 and rates[10][3] > 0.88

# %% [markdown]
# ## Who is better
#
# *Probability of improvement* asks directly: how likely does a run of one beat a run of the other, averaged
# over tasks? One half is a tie. A difference is called *decided* if the interval leaves out one half.
#
# How often are two *equal* agents decided? With two seeds on one task, count: the six orders of two and two
# runs are equally likely, and in two of them one agent wins everything. Then every resample is a win, and the
# interval is [1, 1]: a third of all such studies find a difference where there is none.


# %%
def decided(ours, theirs, resamples=400):
    found = probability_of_improvement(ours, theirs, resamples=resamples)
    return found.low > 0.5 or found.high < 0.5


told_apart = []
for places in itertools.combinations(range(4), 2):  # which two of the four places are ours; the last is best
    ours, theirs = np.array(places), np.setdiff1d(range(4), places)
    won = np.mean(ours[:, None] > theirs)  # of the four pairs
    assert probability_of_improvement({"task": ours}, {"task": theirs}).value == won
    told_apart.append(decided({"task": ours}, {"task": theirs}))
    print(f"ours {ours}, theirs {theirs}: {won:.0%} of pairs won{', decided' * told_apart[-1]}")
assert sum(told_apart) / len(told_apart) == 1 / 3


# %% [markdown]
# Now five tasks, and two questions: how often are equal agents decided (a false alarm), and how often is an
# agent found out that is better by half a standard deviation on each task? A run of it wins with probability
# 64 %.


# %%
def decided_rate(seeds, better_by, tasks=5, studies=300):
    def draw(shift):
        return {str(task): rng.normal(shift, size=seeds) for task in range(tasks)}

    return np.mean([decided(draw(better_by), draw(0.0), 200) for _ in range(studies)])


equal = [decided_rate(seeds, 0.0) for seeds in SEEDS]
better = [decided_rate(seeds, 0.5) for seeds in SEEDS]
_, ax = plt.subplots(figsize=(7, 2.8))
ax.plot(SEEDS, better, "o-", color=BLUE, label="half a standard deviation better")
ax.plot(SEEDS, equal, "s-", color=ORANGE, label="equal")
ax.axhline(0.05, color="black", lw=0.8, ls="--")
ax.set(xlabel="seeds", ylabel="share decided", xticks=SEEDS, ylim=(0, 1.02), title="Five tasks")
ax.legend(loc="upper left")
plt.show()
print(*(f"{n} seeds: {a:.0%} and {b:.0%}" for n, a, b in zip(SEEDS, equal, better, strict=True)), sep=", ")
assert better[1] < 0.5  # with three seeds it is missed more often than not
assert better[3] > better[1] + 0.1  # more seeds see more
assert better[3] < 0.8  # and ten still miss it often
assert equal[1] > 0.05 and max(equal) < 0.25

# %% [markdown]
# With three seeds a real difference is missed more often than not, and with ten it is still missed one time
# in three: **"no difference detected" does not mean that there is none.** And with few seeds "decided" errs
# more often than the 5 % that one would think.
#
# ## A study
#
# A study is tasks x variants x seeds. `uld study run` takes it from the command line; here are the objects
# behind it. The variant is an *ablation*, the agent without one of its parts: `linear-value` cost MR.Q more
# than any other single change in its published study, 1.17 of a TD3-normalised score on Gym. Two tasks, two
# seeds, the smallest networks and 70 steps: this is to show the tools, and will show nothing else.

# %%
print(ABLATIONS["linear-value"].change)
study = Study(
    name="toy",
    envs=("CartPole-v1", "tabular/riverswim"),
    variants={"debug": (), "linear-value": ABLATIONS["linear-value"].settings},
    seeds=(0, 1),
    preset="debug",
    settings=("run.total_steps=70", "run.random_steps=40", "run.eval_every=35", "run.eval_episodes=5"),
)
runs = Path("runs")
study.save(runs)
jobs = study.jobs()
assert len(jobs) == 2 * 2 * 2
print(status(jobs, runs))

# %% [markdown]
# A *job* is one run: it knows its settings, its directory and its command. `run_local` starts each command as
# a process of its own, several at a time, starts it again if it fails, and skips what is done. A process
# needs seconds before its first step, so all but one job are trained in this process; a run is the same
# wherever it was trained. The launcher finds them done, and does what is left.

# %%
*most, last = jobs
for job in most:
    train(job.config, job.env, seed=job.seed, name=job.variant, run_dir=runs, device="cpu", progress=False)
assert [job.state(runs) for job in jobs] == ["done"] * 7 + ["new"]

print("uld", *last.command(runs)[3:7], "...")
outcomes = run_local(jobs, Plan(run_dir=runs, workers=1), report=lambda outcome: None)
assert len(outcomes) == 8 and all(outcome.done for outcome in outcomes)
print(status(jobs, runs))
assert status(jobs, runs).startswith("debug: 4 of 4 runs done")

# %% [markdown]
# ## Its report
#
# `compare` reads the run directories, refuses runs that were evaluated differently, and takes the last step
# that all of them have. `uld report runs` writes the same tables as HTML, Markdown and CSV, with pictures.

# %%
comparison = compare([runs])
page = write_report(comparison, Path("report"), resamples=500)
assert {"report.html", "report.md", "scores.csv", "curves.png"} <= {
    path.name for path in page.parent.iterdir()
}
shown = {table.name: table for table in tables(comparison, resamples=500)}
for name in ("scores", "improvement"):
    display(Markdown(shown[name].to_markdown()))
figure = curves_figure(comparison, resamples=500)
figure.set_dpi(80)
display(figure)

for env in comparison.envs:
    assert comparison.step(env) == 70
    for variant in comparison.variants:
        assert comparison.returns(env, variant).shape == (2,)
assert "aggregates" not in shown and not comparison.on_one_scale

# %% [markdown]
# What the report does *not* do is as telling. There is no aggregate: these two tasks have no common scale,
# and the report says so instead of averaging. It notes that there are fewer than five seeds. Whatever the
# column "decided" says, two equal agents with two seeds on two tasks get a "yes" once in eighteen studies;
# the effect known to be large may or may not show, and either way nothing has been learned about
# `linear-value`.

# %%
text = (page.parent / "report.md").read_text()
assert "No aggregate is given" in text and "Fewer than five seeds" in text
one_task = 1 / 6  # ours win everything, of the six orders
assert np.isclose(2 * one_task**2, 1 / 18)
(row,) = shown["improvement"].rows
ours, theirs = (
    {env: comparison.returns(env, variant) for env in comparison.envs}
    for variant in ("linear-value", "debug")
)
again = probability_of_improvement(ours, theirs, resamples=500)
assert row[1].startswith(f"{again.value:.3f}") and (row[2] == "yes") == decided(ours, theirs, 500)

# %% [markdown]
# ## How to read, and how to write
#
# - **Say the step.** Agent steps or frames, and the step at which all runs are compared. Not the best
#   evaluation of each run: a maximum grows with the noise and with how often one looks.
# - **Say which mean**, and of what: runs or task means. Show the profile, or every task.
# - **Give all seeds**, and choose their number before looking. Three seeds give intervals that are wrong one
#   time in four on one task; take ten where decisions hang on it.
# - **Intervals speak of new seeds on these tasks.** They say nothing about other tasks, other
#   hyperparameters, or another implementation.
# - **"Decided" is weak with few seeds, "not decided" is weaker.** To claim that two agents are equal, give
#   the interval of the difference and let the reader see how large a difference it still allows.
# - **Overlapping intervals are no test.** Ask for the interval of what you claim: the improvement.
# - **Published figures are of other code.** They stand beside runs of your own as a landmark; a comparison
#   needs both agents run under one protocol.
#
# To try: `aggregate(..., "iqm_runs")` in `covered`, with one run in ten failing. Which mean is the truth
# then, and how often is it covered? Where things are: `uld_torchrl/experiments`, and
# [docs/experiments.md](../docs/experiments.md) for the commands.
