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
# # The theorems on tabular MDPs: equality, bounds, counterexamples
#
# MR.Q and ULD are model-free, yet they learn an embedding $z(s,a)$ by predicting rewards and next embeddings.
# Three theorems say why that should help: the fixed point of linear TD *is* the value of the linear model;
# the value's error is bounded by the model's errors; an embedding that predicts perfectly is enough for the
# optimal policy. All three are true, under more conditions than they are usually told with: two states are
# enough for TD to converge while the rollout of the very same model grows by half at every step.
#
# You will learn
#
# - theorem 1 by hand, in fractions, and what its three verdicts (pass, fail, inconclusive) mean;
# - that TD and the rollout each need a condition of their own, with a problem for every combination;
# - one number that tells whether *every* embedding is safe, and the feature that breaks the others;
# - theorem 2 as an equality, and how much each step towards the published bound gives away;
# - when an abstraction is enough (theorem 3), and what a tie does to "the" optimal policy.
#
# It takes about 20 minutes to read and 20 seconds to run. You should know TD learning, least squares and
# eigenvalues; not the papers. Rows are state-action pairs: $P$ is their chain under the policy, $r$ the
# expected reward, $Z$ one embedding a row, $D$ the diagonal of the data weights $\mu$, $Z'=PZ$ the expected
# next embedding. Every figure is asserted by the code next to it.

# %%
from dataclasses import replace
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np

import theory
from theory import Features, Policy, Problem, TabularMDP, Weights, catalogue

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"  # Okabe and Ito
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100, "axes.titlesize": 10})


def load(name):
    return catalogue.load(name).problem


def uniform(mdp, features=None):
    """The problem of uniform policy and uniform data; one-hot features unless given."""
    given = (Policy.uniform(mdp), features or Features.one_hot(mdp), Weights.uniform(mdp))
    return Problem(mdp, *given, reachable_from="start")


def fractions(rows):
    return np.array([[Fraction(entry) for entry in row.split()] for row in rows])


def inverse(M):
    """The inverse of a 2 by 2 matrix, by Cramer's rule."""
    (a, b), (c, d) = M
    return np.array([[d, -b], [-c, a]]) / (a * d - b * c)


# %% [markdown]
# ## Theorem 1: two ways to one fixed point
#
# Two states, two actions. *Stay* keeps the state, *go* changes it with probability 3/4. Staying in state 1
# pays 1. The policy tosses a coin; the data show the four pairs 1, 2, 3 and 4 times in ten. Two features
# cannot represent four values, and that is the point: the theorem is about what is found instead.

# %%
moves = fractions(["1 0", "1/4 3/4", "0 1", "3/4 1/4"])  # rows: (0, stay), (0, go), (1, stay), (1, go)
P = np.repeat(moves, 2, axis=1) / 2  # the coin
r = fractions(["0", "0", "1", "0"])[:, 0]
Z = fractions(["1 0", "0 1", "1 1", "0 2"])
mu = fractions(["1/10", "2/10", "3/10", "4/10"])[:, 0]
gamma, identity = Fraction(9, 10), fractions(["1 0", "0 1"])

C, X, b = Z.T * mu @ Z, Z.T * mu @ P @ Z, Z.T * mu @ r
w_td = inverse(C - gamma * X) @ b  # TD stands still: Z'D(r + gamma PZw - Zw) = 0, Z' being Z transposed
w_r, W_d = inverse(C) @ b, inverse(C) @ X  # least squares: r = Z w_r and PZ = Z W_d, as well as Z can
w_model = inverse(identity - gamma * W_d) @ w_r  # the model's value: w = w_r + gamma W_d w
print("TD   ", *w_td, "\nmodel", *w_model)
assert all(w_td == w_model)  # fractions: equal, not merely close

# %% [markdown]
# The proof is one line: $C w_r=b$ and $C W_d=X$ are the normal equations, so $C$ times
# $w=w_r+\gamma W_d w$ is TD's equation $(C-\gamma X)w=b$. The line needs exactly one solution to speak of.
# The library takes two routes that share no factorisation, and asks whether they differ by more than rounding
# explains. That tolerance comes from the condition numbers of the problem at hand.

# %%
mdp = TabularMDP.from_dense(moves.astype(float).reshape(2, 2, 2), [[0, 0], [1, 0]], 0.9)
features, weights = Features(Z.astype(float)), Weights([[0.1, 0.2], [0.3, 0.4]])
problem = Problem(mdp, Policy.uniform(mdp), features, weights)
report = theory.check_fixed_point_equivalence(problem)
print(f"{report.verdict}: residual {report.residual:.1e}, tolerance {report.tolerance:.1e}")
for condition in report.conditions:
    print(f"  {condition.name:26} {condition.value:10.3g}   {condition.holds}")
assert report.verdict == "pass" and all(condition.holds for condition in report.conditions)
assert np.allclose(report.data["w_td"], w_td.astype(float), rtol=0, atol=1e-12)

# %% [markdown]
# A check that cannot fail is worth nothing. So perturb $W_d$ by one part in a million; or forget the weights
# and fit all rows alike, as formulas without $D$ do. Both must **fail**. Where rounding hides the answer (two
# features that differ by $10^{-9}$), or there is no single solution, the verdict is **inconclusive**.

# %%
model = theory.fit_linear_model(problem)
perturbed = replace(model, W_d=model.W_d * (1 + 1e-6))
unweighted = theory.fit_linear_model(uniform(mdp, features))
for name, wrong in (("perturbed", perturbed), ("weights forgotten", unweighted)):
    failed = theory.check_fixed_point_equivalence(problem, model=wrong)
    print(f"{name:18} {failed.verdict}: residual {failed.residual:.1e}, tolerance {failed.tolerance:.1e}")
    assert failed.verdict == "fail"

lacks = {"nearly_dependent": "decidable in float64", "tsitsiklis_van_roy_singular": "exactly one solution"}
for name, need in lacks.items():
    undecided = theory.check_fixed_point_equivalence(load(name))
    print(f"{name:28} {undecided.verdict}: not {need}")
    assert undecided.verdict == "inconclusive" and not undecided.condition(need).holds

# %% [markdown]
# ## Said too strongly: "TD finds it, and so does the rollout"
#
# That there is a fixed point says nothing about arriving. TD, $w\leftarrow w+\alpha(b-Aw)$ with
# $A=C-\gamma X$, converges for small steps if and only if all eigenvalues of $A$ have positive real parts.
# The rollout $\sum_t(\gamma W_d)^tw_r$ converges for every reward if and only if all eigenvalues of
# $\gamma W_d$ lie inside the unit circle. Since $A=C(I-\gamma W_d)$, the two look alike. But with a single
# feature, TD asks for $\gamma W_d<1$, the rollout for $|\gamma W_d|<1$. So let the feature be 1 and $-3$ in
# the two states of a cycle, $\gamma=0.9$, and nine tenths of the data from the first.
#
# The other way round takes more features: on Baird's star, where TD famously diverges, the rollout
# converges. With a reward of 1 everywhere it arrives at the exact value, 100. Here are all four
# combinations. The rollout is fitted Q-iteration from 0; TD starts there too, with step size 0.1.


# %%
C, X = 0.9 * 1 * 1 + 0.1 * -3 * -3, 0.9 * 1 * -3 + 0.1 * -3 * 1
assert np.isclose(0.9 * X / C, -1.5)  # the rollout grows by half at every step, with alternating signs
assert np.isclose(C - 0.9 * X, 4.5)  # TD converges, for step sizes below 2 / 4.5
assert np.isclose(theory.stability(load("sign_flip")).step_size_limit, 2 / 4.5)


def errors(problem, steps):
    """Distance of TD and of the rollout from the fixed point at each step, over the first."""
    td = theory.td_trajectory(problem, step_size=0.1, steps=steps).error
    model, w = theory.fit_linear_model(problem), [np.zeros(problem.d)]
    for _ in range(steps):
        w.append(model.w_r + problem.gamma * model.W_d @ w[-1])
    rollout = np.linalg.norm(w - theory.model_based_solution(problem).w, axis=1)
    return td / td[0], rollout / rollout[0]


quadrants = {
    "tsitsiklis_van_roy_convergent": ("stable", "converges", "w to 2w, $\\gamma=0.5$"),
    "sign_flip": ("stable", "diverges", "sign flip"),
    "baird_star_reward_one": ("unstable", "converges", "Baird's star"),
    "tsitsiklis_van_roy_reward_one": ("unstable", "diverges", "w to 2w, $\\gamma=0.9$"),
}
fig, axes = plt.subplots(2, 2, figsize=(9, 5.6))
for ax, (name, (td, rollout, title)) in zip(axes.flat, quadrants.items(), strict=True):
    found = theory.stability(load(name))
    assert (found.td, found.rollout) == (td, rollout)
    assert theory.check_fixed_point_equivalence(load(name)).verdict == "pass"  # the equality holds in all
    by_td, by_rollout = errors(load(name), 1000 if "baird" in name else 60)
    assert (by_td[-1] < 0.01) == (td == "stable") and (by_rollout[-1] < 0.01) == (rollout == "converges")
    ax.semilogy(by_td, color=BLUE, lw=2, label="TD")
    ax.semilogy(by_rollout, color=ORANGE, lw=2, ls="--", label="rollout")
    ax.axhline(1, color=GREY, lw=0.8, ls=":")
    ax.set(xlabel="steps", ylabel="error / first error", title=f"{title}: TD {td}, rollout {rollout}")
axes[0, 0].legend()
plt.show()
star = theory.value_error(load("baird_star_reward_one"))
assert np.allclose([star.q_true, star.q_true + star.error], 100)

# %% [markdown]
# ## Said too strongly: "the" fixed point
#
# Between $\gamma=0.5$ and $\gamma=0.9$ the example w to 2w passes a discount at which $A=0$: at 5/6 no weight
# is a fixed point if the reward is 1, and every weight is one if it is 0. The library answers with a kind,
# never with a number that rounding made up.
#
# Near such a point the fixed point exists, is unique, and is useless. In Kolter's example the feature
# $(1, 1.051)$ all but equals the values $(1, 1.05)$. Only the data weight of the first state changes.

# %%
singular = ("tsitsiklis_van_roy_singular", "tsitsiklis_van_roy_singular_zero_reward")
assert [theory.td_fixed_point(load(name)).kind for name in singular] == ["none", "affine"]

kolter = load("kolter_p50")
grid = np.sort([*np.linspace(0.02, 0.98, 97), *(0.7113974 + 0.05 * np.linspace(-1, 1, 61) ** 3)])
chains = [Problem.from_chain(kolter.P_pi, kolter.r, kolter.Z, [p, 1 - p], kolter.gamma) for p in grid]
found, best = np.transpose([(ladder.error_D, ladder.best_D) for ladder in map(theory.bounds, chains)])
assert best.max() < 1e-3 and found.max() > 100 and round(grid[found.argmax()], 4) == 0.7114

_, ax = plt.subplots(figsize=(7, 3))
ax.semilogy(grid, found, color=BLUE, lw=2, label="fixed point")
ax.semilogy(grid, best, color=GREEN, lw=2, ls="--", label="best weight there is")
ax.set(xlabel="data weight of the first state", ylabel="value error (data norm)", title="Singular at 0.7114")
ax.legend(loc="upper left")
plt.show()

# %% [markdown]
# ## One number for all embeddings
#
# An encoder changes its features all the time; shrinking one to a twentieth, which leaves the span as it is,
# can make TD unstable. Is there a condition on MDP, policy and data alone under which *no* embedding
# diverges? Let $N=\gamma D^{1/2}PD^{-1/2}$, and $\tau$ the largest eigenvalue of $\tfrac12(N+N^\top)$. If
# all weights are positive, these are equivalent: $\tau<1$; TD is stable for every full-rank $Z$; the rollout
# converges for every full-rank $Z$. Moreover $\rho(\gamma W_d)\le\tau$. The theorem is this project's own
# (proof in `help(theory.stability)`). Here are FrozenLake and CliffWalking with 100 random embeddings each.

# %%
lake, cliff = theory.frozen_lake(gamma=0.99), theory.cliff_walking(gamma=0.99)
taus = {}
for name, mdp in (("FrozenLake", lake), ("CliffWalking", cliff)):
    taus[name] = theory.stability(uniform(mdp)).tau
    found = [theory.stability(uniform(mdp, Features.random(mdp, 1 + k % 8, seed=k))) for k in range(100)]
    assert all((each.td, each.rollout) == ("stable", "converges") for each in found)
    largest = max(each.spectral_radius for each in found)
    print(f"{name:13} tau = {taus[name]:.4f}; random embeddings reach {largest:.2f}")
    assert largest < taus[name]

N = 0.99 * uniform(lake).dense_P  # with uniform weights D cancels
assert np.isclose(taus["FrozenLake"], np.linalg.eigvalsh((N + N.T) / 2)[-1])
assert taus["FrozenLake"] < 1 < taus["CliffWalking"]

given, shrunk = load("basis_dependence_a"), load("basis_dependence_b")
assert np.allclose(given.Z * [1, 1 / 20], shrunk.Z)
assert (theory.stability(given).td, theory.stability(shrunk).td) == ("stable", "unstable")

# %% [markdown]
# All 200 behave. On FrozenLake that is a theorem, on CliffWalking it is luck: the eigenvector of $\tau$ (over
# $\sqrt\mu$) is a feature that breaks TD and rollout at once. It is large at the start, to which every fall
# leads, and which has no more data than any other state. Data collected by the policy itself are a cure.

# %%
problem, tau = uniform(cliff), taus["CliffWalking"]
worst = theory.stability(problem).worst_feature
alone = theory.stability(Problem.from_chain(problem.P_pi, problem.r, worst, problem.mu, problem.gamma))
assert (alone.td, alone.rollout) == ("unstable", "diverges")
assert np.isclose(alone.eigenvalues[0], 1 - tau) and np.isclose(alone.spectral_radius, tau)

policy = Policy.uniform(cliff)
own = theory.visitation(cliff, policy, "discounted")
assert theory.stability(Problem(cliff, policy, problem.features, own, reachable_from="start")).certificate

_, ax = plt.subplots(figsize=(8, 2.8))
cells = np.full(48, np.nan)
np.fmax.at(cells, problem.rows // 4, worst)
image = ax.imshow(cells.reshape(4, 12), cmap="cividis")
for x, text in ((0, "start"), (5.5, "cliff"), (11, "goal")):
    ax.text(x, 3, text, ha="center", va="center", fontsize=9)
ax.set(xticks=[], yticks=[], title="CliffWalking's worst feature (largest of 4 actions)")
plt.colorbar(image, ax=ax, shrink=0.8, label="feature")
plt.show()

# %% [markdown]
# ## Theorem 2: an equality first
#
# For *any* model and *any* weight, with $G=(I-\gamma P)^{-1}$, $\epsilon_r=Zw_r-r$ and $\epsilon_d=ZW_d-Z'$,
#
# $$Zw-Q^\pi=G\,\epsilon_r+\gamma\,G\,\epsilon_d w+G\,Z(w-w_r-\gamma W_dw):$$
#
# what the reward model adds, what the dynamics model adds, and a planning part, which is 0 at the fixed
# point. An equality leaves no room: take $Z'$ from another policy, and it breaks at once. FrozenLake again,
# $\gamma=0.95$, the optimal policy with a fifth of its actions drawn at random, 8 random features.

# %%
lake = theory.frozen_lake(gamma=0.95)
policy, random = Policy.epsilon_greedy(theory.optimal(lake).q, 0.2), Features.random(lake, 8, seed=0)
problem = Problem(lake, policy, random, Weights.uniform(lake))
split = theory.value_error(problem)
assert split.holds and split.tolerance < 1e-11 and abs(split.planning).max() < 1e-12
assert np.allclose(split.error, split.reward + split.dynamics, rtol=0, atol=1e-12)
assert theory.value_error(problem, w=np.arange(8.0)).holds  # any weight; the planning part takes the rest
assert not theory.value_error(problem, Z_next=uniform(lake, random).Z_next).holds  # another policy's
at_start = [policy.probs[0] @ part[:4] for part in (split.reward, split.dynamics)]
assert np.allclose(at_start, [0.17, -0.26], rtol=0, atol=0.005)

_, axes = plt.subplots(1, 4, figsize=(11, 3))
titles = ("true value", "error", "= reward part", "+ dynamics part")
parts = (split.q_true, split.error, split.reward, split.dynamics)
for ax, title, values in zip(axes, titles, parts, strict=True):
    by_state = np.bincount(problem.rows // 4, values * policy.probs.flat[problem.rows], 16)
    drawn = ax.imshow(by_state.reshape(4, 4), cmap="PuOr", vmin=-1, vmax=1)
    for s, value in enumerate(by_state):
        text = "goal" if s == 15 else "hole" if lake.terminal[s] else f"{value:.2f}"
        ax.text(s % 4, s // 4, text, ha="center", va="center", fontsize=8)
    ax.set(xticks=[], yticks=[], title=title)
plt.colorbar(drawn, ax=axes, shrink=0.8, label="return")
plt.show()

# %% [markdown]
# At the start 0.17 and $-0.26$ cancel for the most part. Each rung of the ladder to the published bound gives
# up something: cancellation over time, between reward and dynamics, between features; then units count.
#
# $$|VE|\le \underbrace{G|e|}_{B_1}\le \underbrace{G(|\epsilon_r|+\gamma|\epsilon_dw|)}_{B_2}\le
# \underbrace{G(|\epsilon_r|+\gamma|\epsilon_d||w|)}_{B_{2.5}}\le
# \underbrace{G(|\epsilon_r|+\gamma\|w\|_\infty\|\epsilon_d\|_1)}_{B_3}\le\text{published}$$
#
# with $e=\epsilon_r+\gamma\epsilon_dw$; the last step drops $\gamma$ and takes the worst pair. Multiply one
# feature by $c$: the values and their error stay what they were, and so does $B_{2.5}$; the bound moves.

# %%
ladder, true = theory.bounds(problem), abs(split.error)
rungs = {"$B_1$": ladder.B1, "$B_2$": ladder.B2, "$B_{2.5}$": ladder.B25, "$B_3$": ladder.B3}
steps = [true, *rungs.values(), np.full(problem.n, ladder.published)]
assert np.diff(steps, axis=0).min() >= -ladder.rounding
print("median of true error / bound:", *(f"{np.median(true / bound):.2f}" for bound in steps[1:]))

scales = np.logspace(-2, 2, 41)
units = [random.rescale([c, *[1] * 7]) for c in scales]
scaled = [theory.bounds(Problem(lake, policy, each, problem.weights)) for each in units]
published = [each.published for each in scaled]
assert np.allclose([(each.error_sup, each.S25) for each in scaled], (ladder.error_sup, ladder.S25))
assert max(published) > 20 * min(published)

_, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
for (name, bound), colour, marker in zip(rungs.items(), (BLUE, GREEN, ORANGE, PINK), "os^D", strict=True):
    left.loglog(true, bound, marker, color=colour, ms=4, label=name)
left.axhline(ladder.published, color="black", ls="--", lw=2, label="published")
left.axline((0.1, 0.1), (1, 1), color=GREY, lw=1)
left.set(xlabel="true error of a pair (return)", ylabel="bound (return)", ylim=(2e-3, 20))
left.set_title("Nothing below the diagonal")
left.legend(ncols=3, fontsize=9, loc="lower right")
right.loglog(scales, published, color="black", ls="--", lw=2, label="published")
right.axhline(ladder.B25.max(), color=ORANGE, lw=2, label="largest $B_{2.5}$")
right.axhline(ladder.error_sup, color=GREY, lw=2, label="largest true error")
right.set(xlabel="factor $c$ of one feature", ylabel="bound (return)", ylim=(0.2, 400))
right.set_title("Other units, other bound")
right.legend(fontsize=9, loc="upper center")
plt.show()

# %% [markdown]
# ## Theorem 3: when a label is enough
#
# Four places in a ring, the goal opposite the start; a step succeeds with probability 2/3. There is also
# weather, three kinds of it, on which nothing depends. Theorem 3: if pairs with one label pay the same and
# lead to the same distribution over state labels, then $Q^\pi$ is a function of the label for every policy
# that looks at labels only; so is $Q^*$; and *some* optimal policy looks at labels only.
#
# The coarsest such labels are found by splitting classes until nothing splits: states that pay or go
# differently must part. Comparing floats bit by bit would part too many: the weathers to come have chances
# that add up to 1, but 0.1 + 0.2 + 0.7 and 0.7 + 0.2 + 0.1 are two numbers.

# %%
WEATHER = np.array([[0.1, 0.2, 0.7], [0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]])


def ring(odds):
    """State 3 * place + weather; actions left and right; entering the goal, place 2, pays 1."""
    go, stay = (np.multiply(chance, WEATHER.T).T for chance in (odds, 1 - np.array(odds)))
    ways = np.roll(np.eye(4), -1, axis=1), np.roll(np.eye(4), 1, axis=1)
    P = np.stack([np.kron(way, go) + np.kron(np.eye(4), stay) for way in ways], axis=1)
    goal = np.arange(12) // 3 == 2
    return TabularMDP.from_dense(P, P[:, :, goal].sum(axis=2), 0.9, terminal=goal)


mdp = ring([2 / 3, 2 / 3, 2 / 3])
states = theory.coarsest_bisimulation(mdp)
pairs = theory.coarsest_pair_labels(mdp, states)
assert states.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]  # the weather is gone
assert 0.1 + 0.2 + 0.7 == 1 != 0.7 + 0.2 + 0.1

# %% [markdown]
# Now what breaks the conclusions. Go left in fog only, and the values depend on the weather. Let rain slow
# the walker, and $Q^*$ does. And a policy may look at the weather and be optimal: from the start both ways
# are equally long, so it may go left in the sun and right in the rain. That "the" optimal policy is a
# function of the label is false; that *some* optimal policy is one is the theorem.

# %%
tie = Policy.from_actions([0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
foggy = Policy.from_actions([1, 1, 0] * 4)
coin, broken = Policy.uniform(mdp), {}
cases = {"coin": (mdp, coin), "tie": (mdp, tie), "foggy": (mdp, foggy)}
cases["coin, slow in rain"] = (ring([2 / 3, 1 / 3, 2 / 3]), coin)
for name, (world, policy) in cases.items():
    report = theory.check_abstraction(world, states, pairs, policy)
    broken[name] = [condition.name for condition in report.conditions if not condition.holds]
    print(f"{name}: {report.verdict}", *broken[name], sep="\n    not: ")
assert broken["coin"] == [] and broken["tie"] == ["policy is a function of the state label"]
assert np.allclose(theory.certified_v(mdp, tie).value, theory.optimal(mdp).v)  # optimal all the same
assert broken["foggy"] == [*broken["tie"], "Q of the policy is a function of the pair label"]
assert "Q* is a function of the pair label" in broken["coin, slow in rain"]

# %% [markdown]
# ## The catalogue
#
# These problems, and more, are in a catalogue with their sources and what must come out: exact fractions,
# printed digits, verdicts. `python -m theory catalogue` computes all of it again, and so does this cell.

# %%
reports = catalogue.run_all()
for report in reports[::4]:  # every fourth
    data, outcome = report.data, "ok" if report else "MISSED"
    print(f"{outcome:7}{data['id']:6}{data['found']['verdict']:13} {data['name']}")
assert all(reports) and len(reports) >= 35
wrong = replace(catalogue.load("sign_flip"), expected={"rollout": "converges"})
assert not catalogue.check_entry(wrong)  # it can fail

# %% [markdown]
# ## Where this is in the code
#
# Theorem 1 is in `theory/theorem1.py`, the iterations and the proof about $\tau$ in `theory/stability.py`;
# theorem 2 in `theory/value_error.py` and `theory/bounds.py`; theorem 3 in `theory/abstraction.py`.
# `theory.problem_report(problem)` asks the first two of a problem of yours; `python -m theory report --help`.
#
# To try: places 1 and 3 of the ring mirror each other. Why do they not share a label?
