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
# # From tabular to deep: the loss, the theorem, a trained agent
#
# Theorem 1 says that the fixed point of TD is the value of the linear model that was fitted to the same
# features. It is about matrices. An agent has networks, two heads, a policy that moves, replay. This notebook
# goes from one to the other in small steps, on a problem whose values can be solved for: first the agent's
# own loss where the theorem's conditions hold, then where one fails, then a real agent, which is held against
# the truth.
#
# You will learn
#
# - that the code which trains agents finds TD's fixed point, and the model whose rollout is that value;
# - what a target network rescues, and what it ruins;
# - how to audit an agent: what holds of it exactly, how tight the bounds are, what does not hold;
# - that an error planted in one prediction shows in its own part and nowhere else;
# - what all of this does not show.
#
# It takes about 15 minutes to read and 30 seconds to run on one CPU core. You should know TD learning and
# least squares; notebook 06 has the theorems, notebook 02 the encoder loss. What is claimed is asserted by
# the code next to it.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display

import theory
import uld_torchrl
from theory import Features, Policy, Problem, Weights, catalogue
from uld_torchrl import PeriodicHardUpdate
from uld_torchrl.config import override
from uld_torchrl.diagnostics import (
    AuditEvery,
    export_embeddings,
    model_weights,
    tabular_loss,
    transition_batch,
    value_weights,
)
from uld_torchrl.envs import named_mdp

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"  # Okabe and Ito
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100, "axes.titlesize": 10})

# %% [markdown]
# ## The truth about a chain
#
# Ten states in a row, begun at the left. Action 1 goes right, action 0 left; one step in ten goes the other
# way. Stepping off the right end pays 1 and ends the episode; nothing else pays. The discount is 0.99. So
# going right is best, and what it is worth follows from the equations: here by value iteration, and by the
# library, which solves for the values and bounds its own error.

# %%
mdp = named_mdp("chain")
gamma, live = mdp.gamma, ~mdp.terminal
V = np.zeros(mdp.num_states)
for _ in range(400):
    Q = mdp.r + gamma * mdp.P @ V
    V = Q.max(axis=1) * live
best = theory.optimal(mdp)
assert np.allclose(V, best.v, rtol=0, atol=best.error_bound + 1e-12) and best.error_bound < 1e-12
assert (Q.argmax(axis=1)[live] == 1).all() and round(V[0], 4) == 0.8925
print("V*:", *V.round(3))

# %% [markdown]
# ## The agent's loss finds TD's fixed point
#
# Take the policy that goes right three times in four, data in which all 20 pairs of state and action are
# equally frequent, and four random features a pair. `tabular_loss(problem)` is the agent's own loss on them,
# an object of the very class that trains: only $f$ and $g$ look the features up, $m$ and the value are
# linear, and the switches stand as the theorem has it (one step, squared errors, frozen encoders, $z_{s'a'}$
# as the dynamics target). `transition_batch(problem)` is every transition, weighted by its probability. So
# the loss of that batch is an expectation, and its gradient in the value's weights should be twice $Aw-b$, at
# any $w$.

# %%
mixed = Policy([[0.25, 0.75]] * 11)
problem = Problem(mdp, mixed, Features.random(mdp, 4, seed=0), Weights.uniform(mdp))
system, w_star = theory.td_system(problem), theory.td_fixed_point(problem).w


def value_descent(problem, step_size, steps, *, start, period=1):
    """Descend the agent's value loss by gradient steps; return w and half the gradient at every step."""
    loss, batch = tabular_loss(problem), transition_batch(problem)
    (parameter,) = loss.qvalue_network_params.parameters()
    targets, w = PeriodicHardUpdate(loss, period=period), value_weights(loss)[0]
    w += torch.as_tensor(start)
    path = []
    for _ in range(steps + 1):
        targets.step()  # every `period` steps the target network becomes a copy
        (gradient,) = torch.autograd.grad(loss.value_loss(batch)[0], parameter)
        half = gradient.flatten() / 2
        path.append((w.numpy().copy(), half.numpy()))
        w -= step_size * half
    return map(np.array, zip(*path, strict=True))


stable = theory.stability(problem)
far = np.array([3.0, -2.0, 1.0, 2.0])
w_td, half_gradient = value_descent(problem, stable.best_step_size, 80, start=far)
assert np.allclose(half_gradient, w_td @ system.A.T - system.b, rtol=0, atol=1e-12)
print("value loss:", *w_td[-1].round(9), "\ntheory:    ", *w_star.round(9))
assert np.allclose(w_td[-1], w_star, rtol=0, atol=1e-12)

other = Problem(mdp, mixed, problem.features, Weights.discounted(mdp, mixed))  # data from the policy itself
assert np.linalg.norm(theory.td_fixed_point(other).w - w_star) > 0.01  # another fixed point: this can fail

# %% [markdown]
# Now the encoder loss, which knows nothing of values: it fits the reward and the next embedding. Descend it,
# take $w_r$ and $W_d$ out of the network $m$, and roll that model out, $\sum_t\gamma^tW_d^tw_r$.

# %%
curvature = np.linalg.eigvalsh(system.C)


def model_descent(problem, steps):
    """Descend the agent's encoder loss; return w_r and W_d at every step."""
    loss = tabular_loss(problem, reward_coeff=1.0, dynamics_coeff=problem.d)  # a plain sum of squares
    batch, _ = transition_batch(problem), PeriodicHardUpdate(loss)
    parameter = loss.predictor_params["module", "linear", "weight"]
    path = []
    for _ in range(steps + 1):
        w_r, W_d = model_weights(loss)
        path.append((w_r.numpy().copy(), W_d.numpy().copy()))
        (gradient,) = torch.autograd.grad(loss.encoder_loss(batch)[0], parameter)
        parameter.data -= gradient / (curvature[0] + curvature[-1])
    return path


def rollout(w_r, W_d, terms):
    """The values w of a model that is rolled out over 0, 1, ... steps."""
    w = [np.zeros_like(w_r)]
    for _ in range(terms):
        w.append(w_r + gamma * W_d @ w[-1])
    return np.array(w)


path = model_descent(problem, 80)
w_r, W_d = path[-1]
model = theory.fit_linear_model(problem)
assert np.allclose(w_r, model.w_r, rtol=0, atol=1e-12) and np.allclose(W_d, model.W_d, rtol=0, atol=1e-12)

rolled = rollout(w_r, W_d, 80)
print("TD:     ", *w_td[-1].round(9), "\nrollout:", *rolled[-1].round(9))
assert np.allclose(rolled[-1], w_td[-1], rtol=0, atol=1e-12)  # theorem 1, on the code that trains

# %% [markdown]
# ## Where a condition fails, and what a target network does
#
# A fixed point is one thing, arriving another. On Baird's star TD diverges at every step size, and so does
# the agent's loss. But the agent does not descend like that: it keeps a target network. Copied every fifth
# step, it turns divergence into convergence. It is no cure for all: on *sign flip*, where plain TD converges,
# the same five steps make it diverge. In both, a target network moves TD towards the rollout of the model,
# which converges on the star and diverges on sign flip (notebook 06). The dots are what `theory` works out
# from the matrices, without a loss.


# %%
def distances(problem, start, steps, period):
    """Distance of the weights from the fixed points: by the agent's loss; by theory, whenever copied."""
    w, _ = value_descent(problem, 0.3, steps, start=start, period=period)
    expected = theory.target_network_trajectory(
        problem, step_size=0.3, inner_steps=period, outer_steps=steps // period, w0=start
    )
    fixed = theory.td_fixed_point(problem)  # on the star a line: 8 features, 7 states
    away = w - fixed.w
    return np.linalg.norm(away - away @ fixed.null_space @ fixed.null_space.T, axis=1), expected.error


_, axes = plt.subplots(1, 3, figsize=(11, 3.4))
by_model = [np.linalg.solve(np.eye(4) - gamma * W, w) for w, W in path]
ways = {
    "value loss": (w_td, BLUE, "-"),
    "encoder loss": (by_model, ORANGE, "--"),
    "rollout": (rolled, GREEN, ":"),
}
for label, (w, colour, style) in ways.items():
    axes[0].semilogy(np.linalg.norm(w - w_star, axis=1), style, color=colour, lw=2, label=label)
axes[0].set(xlabel="steps", ylabel="distance from the fixed point", title="Chain: three ways to one value")

cases = {"baird_star": (np.ones(8), 400, "Baird's star"), "sign_flip": (np.ones(1), 60, "Sign flip")}
ends = {}
for ax, (name, (start, steps, title)) in zip(axes[1:], cases.items(), strict=True):
    for period, colour, label in ((1, BLUE, "no target network"), (5, PINK, "copied every 5 steps")):
        found, expected = distances(catalogue.load(name).problem, start, steps, period)
        assert np.allclose(found[::period], expected, rtol=1e-6, atol=1e-12)
        ends[name, period] = found[-1] / found[0]
        ax.semilogy(found, color=colour, lw=1.5, label=label)
        few = slice(None, None, 20 // period if name == "baird_star" else 5 // period)
        ax.semilogy(np.arange(0, steps + 1, period)[few], expected[few], "o", color=colour, ms=3)
    ax.set(xlabel="steps", title=title)
for ax in axes:
    ax.legend(fontsize=9)
plt.show()
for (name, period), factor in ends.items():
    print(f"{name:10} copied every {period}: distance times {factor:.3g}")
assert ends["baird_star", 1] > 1e6 and ends["baird_star", 5] < 0.2
assert ends["sign_flip", 1] < 1e-6 and ends["sign_flip", 5] > 10

# %% [markdown]
# ## A network learns the chain
#
# Now nothing is looked up any more. $f$, $g$, $m$, the policy and two value heads are networks; the loss has
# its published form, with 3-step returns, an unroll over 5 steps, two-hot rewards, Huber, priorities. None of
# theorem 1's conditions is met. The agent sees the state as a one-hot vector and acts for 900 steps, the
# first 300 at random; then each step brings one update. Networks are small and learning rates high, so that
# you need not wait. `AuditEvery` writes down what the networks say of all pairs.

# %%
settings = """model.z_s_dim=64 model.z_a_dim=32 model.z_sa_dim=64 model.hidden_dim=64 model.bin_range=3
    optim.batch_size=64 optim.period=20 optim.value_lr=1e-3 optim.policy_lr=1e-3 optim.encoder_lr=3e-4
    loss.exploration_noise=1 loss.pre_activation_coeff=1e-3 loss.reward_scaling=false
    run.random_steps=300 run.total_steps=900 run.eval_every=900"""
config = override(uld_torchrl.preset("small"), settings.split())
run = uld_torchrl.train(
    config, "tabular/chain", seed=0, name="audited", callbacks=[AuditEvery(100)], progress=False
)
saved = {step: dict(np.load(run.path / f"audits/step-{step}.npz")) for step in range(100, 1000, 100)}
audits = {step: theory.audit_embeddings(arrays, mdp) for step, arrays in saved.items()}
export, report = saved[900], audits[900]

again = export_embeddings(uld_torchrl.load(run.path), mdp, counts=export["counts"])
assert all(np.array_equal(again[name], export[name]) for name in again)  # the agent on disk says the same
assert (export["counts"].sum(), export["gamma"], export["n_step"]) == (900, gamma, 3)
print(*(f"{name} {array.shape}" for name, array in export.items() if array.shape), sep=", ")

figure = theory.plots.plot_audit_history(list(audits.items()))
figure.set_dpi(70)
display(figure)

# %% [markdown]
# Up to step 300 the networks are as they were drawn, then errors fall. Did it learn? Since step 500 its
# policy is worth what $V^*$ is, or nearly; what its network claims is something else. Do not read too much
# into a panel. The policy greedy in the values was perfect *before* learning too, since the values as they
# were drawn happen to favour the right. And the linear probe is exact for a plain reason: it fits 20 pairs
# with 64 numbers each.

# %%
acting, value = report.acting, report.value
print(f"best {acting.best:.3f}, policy {value.true_start:.3f}, claimed {value.claimed_start:.3f}")
shares = [audits[step].acting.exported.ratio for step in range(500, 1000, 100)]
print("share of the best value since step 500:", *np.round(shares, 3))
assert np.isclose(acting.best, best.v[0]) and min(shares) > 0.98 and acting.greedy.ratio > 0.98
untrained = audits[300].acting
assert untrained.exported.ratio < 0.5 and untrained.greedy.ratio > 0.999
assert value.error.weighted < audits[300].value.error.weighted / 2
assert abs(value.claimed_start - value.true_start) > 100 * value.precision

# %% [markdown]
# ## What holds exactly
#
# For *any* networks, however badly trained, the value error splits into three parts,
#
# $$q-Q^\pi=G\big[(\hat r-r)+\gamma(\hat v-P\hat V)+(q-\hat r-\gamma\hat v)\big],$$
#
# the *reward* part, the *dynamics* part ($\hat v$ is the value at the predicted next embedding) and the
# *planning* part, by which the value does not follow from the model. Work it out with a dense inverse:

# %%
P = mdp.P * live[:, None, None] * live  # what leads to the end is cut out


def carried(one_step, pi):
    """G times numbers of the pairs, (S, A)."""
    chain = np.einsum("sat,tb->satb", P, pi).reshape(22, 22)
    return np.linalg.solve(np.eye(22) - gamma * chain, (one_step * live[:, None]).flat).reshape(11, 2)


def parts_of(said):
    """The error of the values, and its three parts in all pairs, (S, A) each."""
    q, r_hat, v_hat, pi = (said[name] for name in ("q", "r_hat", "v_at_pred", "pi"))
    expected = P @ (pi * q).sum(axis=1)
    parts = {"reward": r_hat - mdp.r, "dynamics": gamma * (v_hat - expected)}
    parts["planning"] = q - r_hat - gamma * v_hat
    return q - carried(mdp.r, pi), {name: carried(part, pi) for name, part in parts.items()}


for step, arrays in saved.items():
    error, parts = parts_of(arrays)
    assert np.allclose(error[live], sum(parts.values())[live], rtol=0, atol=1e-10)
    split = audits[step].value.split
    for name, part in {"error": error, **parts}.items():
        assert np.allclose(part[live].flat, getattr(split, name), rtol=0, atol=1e-10)
    assert audits[step].verdict == "pass"  # and so do the other equalities, as those of theorems 1 and 2

other_policy = carried(sum(parts.values()), mixed.probs)[live]
assert not np.allclose(error[live], other_policy, rtol=0, atol=1e-3)  # with another policy's they do not

names = [f"{state} {way}" for state in range(10) for way in ("left", "right")]
figure = theory.plots.plot_decomposition(value.split, names)
figure.set_dpi(80)
display(figure)

# %% [markdown]
# ## How linear the value is
#
# That values are nearly linear in $z_{sa}$ is the claim behind learning such embeddings. A fit proves little
# by itself: $z_{sa}$ has 64 numbers, and with as many directions as pairs anything is linear in them. So the
# audit looks at the first $k$ principal components, $k$ being the effective rank, and says what random
# features explain of anything on average, $k/19$. Two more controls: noise in place of the value, and the
# embedding of the same agent before it learned.

# %%
linear, k = report.linearity, report.linearity.at
noise = np.random.default_rng(0).normal(size=(11, 2))
controls = ({"zsa": saved[300]["zsa"]}, {"q": noise})
before, of_noise = (theory.audit_embeddings({**export, **given}, mdp).linearity for given in controls)
curves = {"after learning": linear.true, "before": before.true, "noise for a value": of_noise.network}
for name, curve in curves.items():
    shown = " ".join(f"{curve.r2[i]:.3f}" for i in (1, 3, 5, k))
    print(f"R^2 of 1, 3, 5, {k} components: {shown}; of all {curve.full:.3f}   {name}")
assert linear.trivial and np.isclose(of_noise.network.full, 1)  # all of z_sa: says nothing
assert np.isclose(linear.random[k], k / 19) and k < 15
assert linear.true.r2[k] > 0.97 > 0.9 > of_noise.network.r2[k] and linear.beyond_chance(linear.true, k) > 0.9
assert before.true.r2[k] > 0.9  # far above chance too, without having learned anything
assert linear.true.r2[1:6].mean() > before.true.r2[1:6].mean() + 0.1

_, ax = plt.subplots(figsize=(7, 3.2))
for (name, curve), colour, style in zip(
    curves.items(), (BLUE, ORANGE, PINK), ("o-", "s--", "^:"), strict=True
):
    ax.plot(curve.r2, style, color=colour, ms=4, lw=1.5, label=name)
ax.plot(linear.random, color=GREY, lw=1.2, label="random features, on average")
ax.axvline(k, color="black", lw=0.8, ls=":")
ax.set(xlabel="components of $z_{sa}$", ylabel=r"$R^2$ of $Q^\pi$", xticks=range(20), ylim=(-0.03, 1.03))
ax.legend(fontsize=9, loc="lower right")
plt.show()

# %% [markdown]
# So the value is nearly linear in the embedding, far beyond chance, and that alone says nothing about
# learning: ten components of the network as it was drawn explain it as well. If $R^2$ jumps in the history
# above, it is because the policy changed, and its value with it. What learning changed in the embedding is
# how few components it takes.
#
# ## How tight the bounds are
#
# Theorems 1 and 2 speak of linear models, so give them one: the $k$ components and a constant as features,
# the agent's policy, its replay buffer as data weights. TD and rollout agree, as they must. The published
# bound holds, and says little.

# %%
Z = export["zsa"].reshape(22, 64).astype(float)
centred = Z - Z[:20].mean(axis=0)  # the last two rows are the end
directions = np.linalg.svd(centred[:20])[2][:k]
features = Features(np.column_stack([np.ones(22), centred @ directions.T]).reshape(11, 2, k + 1))
probe = Problem(mdp, Policy(export["pi"]), features, Weights.empirical(export["counts"] * live[:, None]))
assert theory.check_fixed_point_equivalence(probe).verdict == "pass"

ladder, stability = theory.bounds(probe), theory.stability(probe)
print(f"TD {stability.td}, rollout {stability.rollout}, tau {stability.tau:.3f}")
for name in ("error_sup", "S1", "S2", "S25", "S3", "published"):
    print(f"{name:10} {getattr(ladder, name):10.3f}")
rungs = [ladder.error_sup, ladder.S1, ladder.S2, ladder.S25, ladder.S3, ladder.published]
assert np.diff(rungs).min() >= -ladder.rounding
assert ladder.published > 20 * ladder.error_sup

# %% [markdown]
# ## What the critic was asked for
#
# The agent's values are off, and not for want of training alone. Its targets are 3-step returns of the data,
# whose first actions were explored, not chosen by its policy. Values that meet such targets everywhere are
# the fixed point $Q_3$ of $T_b\,T_b\,T_\pi$, with $b$ the frequencies of actions in the replay buffer. So the
# error is $(Q_3-Q^\pi)+(q-Q_3)$, and no training removes the first part.

# %%
behaviour = export["counts"] / np.maximum(export["counts"].sum(axis=1, keepdims=True), 1)
Q_3 = np.zeros((11, 2))
for _ in range(400):
    for probs in (export["pi"], behaviour, behaviour):
        Q_3 = (mdp.r + gamma * P @ (probs * Q_3).sum(axis=1)) * live[:, None]
returns = report.returns
Q_true = carried(mdp.r, export["pi"])
assert np.allclose((Q_3 - Q_true)[live].flat, returns.target_part, rtol=0, atol=1e-9)
assert np.allclose((export["q"] - Q_3)[live].flat, returns.rest, rtol=0, atol=1e-9)
for name, size in returns.sizes.items():
    print(f"{name:12} {size.weighted:.3f} (data norm), {size.start:+.3f} from the start")
print(f"value error  {value.error.weighted:.3f}, of values of {value.true_norm:.3f}")
assert returns.sizes["n-step part"].weighted > 0.02

apart = np.diff((export["q"] - Q_true)[live])  # the errors of right and left
assert np.median(abs(apart)) < value.error.weighted / 2

# %% [markdown]
# It costs the agent little: in most states the error is about the same for left and right, and only their
# order decides.
#
# ## Planted errors
#
# Would the audit find a fault? Take an agent that is right about everything, with one-hot embeddings, and add
# 0.1 at one pair: to the predicted reward, to the value at the predicted next embedding, or to the value that
# should follow from the two. What else depends on it follows suit. Each fault must show in its own part, in
# its exact amount, and nowhere else.

# %%
bump = np.zeros((11, 2))
bump[4, 1] = 0.1


def planted(reward=0.0, dynamics=0.0, planning=0.0):
    """What an agent would hand over that is right but for this."""
    pi = export["pi"]
    q = carried(mdp.r + reward + gamma * dynamics + planning, pi)
    said = {"zs": np.eye(11), "zsa": np.eye(22).reshape(11, 2, 22), "zs_next_pred": mdp.P, "pi": pi, "q": q}
    return {**said, "r_hat": mdp.r + reward, "v_at_pred": P @ (pi * q).sum(axis=1) + dynamics}


cases = {"nothing": {}, **{part: {part: bump} for part in ("reward", "dynamics", "planning")}}
found = {name: theory.audit_embeddings(planted(**case), mdp).value for name, case in cases.items()}
for name, each in found.items():
    for part in ("reward", "dynamics", "planning"):
        size = {"dynamics": gamma}.get(part, 1) * (part == name)
        expected = carried(size * bump, export["pi"])[live].flat
        assert np.allclose(getattr(each.split, part), expected, rtol=0, atol=1e-12)
    assert (each.error.largest > 0.09) == (name != "nothing")

largest = [[found[name].parts[part].largest for part in cases if part != "nothing"] for name in cases]
_, ax = plt.subplots(figsize=(5, 3))
ax.imshow(largest, cmap="Blues", vmin=0, vmax=0.2, aspect="auto")
for (row, column), size in np.ndenumerate(largest):
    ax.text(column, row, f"{size:.3f}", ha="center", va="center")
ax.set(xlabel="part of the value error (largest)", ylabel="planted in", yticks=range(4), xticks=range(3))
ax.set_yticklabels(cases)
ax.set_xticklabels(list(cases)[1:])
plt.show()

# %% [markdown]
# The same in the trained agent. Its predicted reward is raised at one pair and nothing else is touched, its
# values included: so the reward part takes the fault, the planning part takes it back, and the rest stays.

# %%
faulty = theory.audit_embeddings({**export, "r_hat": export["r_hat"] + bump}, mdp).value.split
shift = carried(bump, export["pi"])[live].flat
assert np.allclose(faulty.reward, value.split.reward + shift, rtol=0, atol=1e-12)
assert np.allclose(faulty.planning, value.split.planning - shift, rtol=0, atol=1e-12)
assert np.array_equal(faulty.dynamics, value.split.dynamics)
assert np.array_equal(faulty.error, value.split.error)

# %% [markdown]
# ## What this does not show
#
# - **Theorem 1 of the trained agent.** It holds of the linear model that *we* fitted to its embeddings. The
#   agent's own value is not linear in them, and its own model does not give it: that is the planning part.
# - **That linearity causes anything.** $R^2$ was high before learning, on one chain and for one policy, whose
#   values are smooth. It is no evidence about tasks that cannot be solved for.
# - **That bounds explain success.** The published bound is far above the error, and the policy is good
#   although the values are not.
# - **That training converges.** One seed and 600 updates are shown. With other seeds the policy may be wrong
#   in a state or two at the last step.
# - **The published settings.** Predicted rewards are means over bins, which here reach 19. The published bins
#   reach 22025, and a probability of a millionth there shows in the reward part.
#
# ## Where this is in the code
#
# The loss on a problem's features is `uld_torchrl/diagnostics/tabular.py`, the export `export.py` beside it,
# the audit `theory/audit/`, explained in [the handbook](../docs/theory/audit.md). For runs of your own:
# `uld train tabular/chain --audit-every 1000`, then `uld audit` on the run's directory.
#
# To try: audit the policy `"softmax"` in place of the greedy one. Which part of its error grows?
