"""``probe`` on known networks: numbers by hand, and steps that must not count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from probed import grid, known_loss, make_agent, random_windows, windows
from tensordict import TensorDict
from torch import nn

from uld_torchrl.diagnostics.probes import probe
from uld_torchrl.diagnostics.statistics import ranks, ridge_r2, standardised

EPS = np.finfo(np.float64).eps


# Linearity


def test_a_value_linear_in_z_sa_but_not_in_the_pair_is_told_apart():
    # Q = s^2 is linear in z_sa = (s^2, a), and uncorrelated with s and a, so without one pair worse than 0.
    s, a = grid()
    row = probe(known_loss(embed=lambda s: s.square(), value=[5.0, 0.0]), windows(s, a, s))
    # Standardised z_sa has two orthogonal columns of one norm: the weakest penalty leaves 1e-8 of y, and
    # left-out errors are at most 1 / (1 - h) of it with h < 1/2.
    assert 1 - (2e-8) ** 2 - 100 * EPS <= row["value_r2_z_sa"] <= 1
    assert -0.01 < row["value_r2_raw"] < 0
    assert row["distinct_pairs"] == row["windows"] == 12


def test_the_n_step_target_is_explained_on_its_own():
    # Target of n = 2 with target values 0: r_0 + gamma r_1, here a + gamma * s^2 / 4; the value itself is s.
    s, a = (np.repeat(x, 3, 1) for x in grid())
    reward = np.stack([a[:, 0], s[:, 0] ** 2 / 4, np.full(12, 1e6)], 1)
    loss = known_loss(value=[1.0, 0.0], horizon=3, n_steps=2, gamma=0.5)
    row = probe(loss, windows(s, a, s, reward))
    pair = np.hstack([standardised(s[:, :1]), standardised(a[:, :1])])
    expected = ridge_r2(pair, a[:, 0] + 0.5 * s[:, 0] ** 2 / 4)
    assert row["target_r2_raw"] == pytest.approx(expected, abs=1e3 * EPS)
    assert 0.1 < expected < 0.9
    assert row["value_r2_raw"] > 1 - 1e-12


def test_the_value_is_the_mean_of_the_heads():
    agent, batch = make_agent(), random_windows(B=30)
    loss = agent.loss
    with torch.no_grad():
        z_s = loss._encode(batch[:, 0], loss.state_encoder_params)
        z_sa = loss._join(z_s, batch[:, 0]["action"], loss.state_action_encoder_params)
        q = loss._values(z_sa, loss.qvalue_network_params).double().numpy()
    features = standardised(z_sa.double().numpy())
    row = probe(agent, batch)
    assert row["value_r2_z_sa"] == pytest.approx(ridge_r2(features, q.mean(0)), abs=1e-6)
    assert abs(ridge_r2(features, q.mean(0)) - ridge_r2(features, q.min(0))) > 1e-3
    centred = z_sa.double().numpy() - z_sa.double().numpy().mean(0)
    assert (row["effective_rank"], row["stable_rank"], row["srank"]) == pytest.approx(
        ranks(centred), rel=1e-9
    )


def test_observation_and_action_weigh_the_same_however_many_numbers_they_are():
    # One number and its 49 copies are the same observation.
    s, a = grid()
    value = [1.0, 3.0]
    few = probe(known_loss(value=value, embed=lambda s: s[..., :1].sin()), windows(s, a, s))
    many = np.repeat(s[..., None], 49, -1)
    row = probe(known_loss(value=value, embed=lambda s: s[..., :1].sin()), windows(many, a, many))
    assert row["value_r2_raw"] == pytest.approx(few["value_r2_raw"], abs=1e-9)
    assert few["value_r2_raw"] < 0.99


@pytest.mark.parametrize("rounding", [0.0, 1e-7])
def test_a_pair_drawn_twice_does_not_predict_itself(rounding):
    # One column for each pair predicts nothing of a pair that was left out, as long as both copies leave;
    # copies that the networks' rounding tells apart would predict each other.
    s, a = (np.vstack([x, x]) for x in grid())
    random = torch.Generator().manual_seed(0)
    value = torch.randn(12, generator=random, dtype=torch.float64)
    noise = rounding * torch.randn(24, 12, generator=random, dtype=torch.float64)

    def one_hot(z_s, action):
        number = (z_s + 3) * 2 + (action > 0)  # 0, 1, ..., without 6 and 7
        found = nn.functional.one_hot((number - 2 * (number > 6)).long().squeeze(-1), 12).double()
        return found + noise

    loss = known_loss(join=one_hot, dims=(1, 12), value=value)
    row = probe(loss, windows(s, a, s, value[:, None].repeat(2, 1)))
    assert (row["windows"], row["distinct_pairs"]) == (24, 12)
    for name in ("value_r2_z_sa", "target_r2_z_sa"):
        # Directions of the size of the rounding, over the root of the weakest strength.
        assert row[name] == pytest.approx(0, abs=rounding / 1e-4 + 1e4 * EPS / 1e-8)
    assert row["effective_rank"] == pytest.approx(11, abs=1e-3 if rounding else 1e-9)


def test_both_zeros_are_one_observation():
    s = np.array([[0.0], [-0.0], [1.0]])
    assert probe(known_loss(), windows(s, 0 * s, s))["distinct_pairs"] == 2


def test_pixels_are_explained_whole():
    # The value is one pixel of an image; all pixels are features, also with fewer windows than pixels.
    pixels = torch.randint(
        256, (20, 1, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    loss = known_loss(embed=lambda x: x[..., 0, 0, :1].double(), value=[1.0, 0.0])
    batch = windows(np.zeros((20, 1)), np.linspace(-1, 1, 20)[:, None], np.zeros((20, 1)))
    batch["observation"] = batch["next", "observation"] = pixels
    row = probe(loss, batch)
    raw = np.hstack(
        [standardised(pixels.double().reshape(20, -1).numpy()), standardised(np.linspace(-1, 1, 20)[:, None])]
    )
    value = pixels[:, 0, 0, 0, 0].double().numpy()
    assert row["value_r2_raw"] == pytest.approx(ridge_r2(raw, value), abs=1e-6)
    assert row["value_r2_raw"] < 0.9 < 1 - 1e-12 < row["value_r2_z_sa"]


def test_a_value_that_does_not_vary_has_no_r2():
    s, a = grid()
    row = probe(known_loss(), windows(s, a, s))
    names = ("value_r2_z_sa", "value_r2_raw", "target_r2_z_sa", "target_r2_raw")
    assert [row[name] for name in names] == [None] * 4


# Dynamics


def chain(H, step):
    """Windows in which s_{t+1} = s_t + step, from s_0 = 0 ... 4; all actions 0."""
    s = np.arange(5.0)[:, None] + step * np.arange(H + 1)
    return windows(s[:, :-1], np.zeros((5, H)), s[:, 1:])


def test_a_perfect_model_has_no_error_over_the_whole_horizon():
    row = probe(known_loss(after=([1.0, 0.0], 2.0), horizon=4), chain(4, 2.0))
    assert [row[f"dynamics_error_t{k}"] for k in range(1, 5)] == [0.0] * 4


def test_the_mean_of_the_targets_has_error_1():
    row = probe(known_loss(after=(0.0, 2.0)), chain(1, 0.0))
    assert row["dynamics_error_t1"] == 1.0


@pytest.mark.parametrize("unroll", [True, False])
def test_an_error_of_each_step_adds_up_where_the_model_runs_on_its_own_predictions(unroll):
    # The model is 1 off a step: k off after k steps, with variance 2 of the targets 0 ... 4 + const.
    row = probe(known_loss(after=([1.0, 0.0], 3.0), horizon=3, unroll=unroll), chain(3, 2.0))
    off = [1, 2, 3] if unroll else [1, 1, 1]
    for k, distance in enumerate(off, 1):
        assert row[f"dynamics_error_t{k}"] == pytest.approx(distance**2 / 2, abs=9 * EPS)


def test_the_target_is_that_of_the_target_encoder_and_the_prediction_that_of_the_online_one():
    agent, batch = make_agent(), random_windows()
    before = probe(agent, batch)
    with torch.no_grad():
        agent.loss.target_state_encoder_params.apply_(lambda x: x.mul_(1.5))
    moved = probe(agent, batch)
    assert moved["dynamics_error_t1"] != before["dynamics_error_t1"]
    assert moved["value_r2_z_sa"] == before["value_r2_z_sa"]
    z_next = agent.loss._dynamics_target(batch["next"])[:, 0].double().numpy()
    with torch.no_grad():
        z_0 = agent.loss._encode(batch[:, 0], agent.loss.state_encoder_params)
        z_sa = agent.loss._join(z_0, batch[:, 0]["action"], agent.loss.state_action_encoder_params)
        m = TensorDict({"state_action_embedding": z_sa}, batch_size=[12])
        predicted = agent.loss._run("predictor", agent.loss.predictor_params, m)["next", "state_embedding"]
    error = ((predicted.double().numpy() - z_next) ** 2).sum() / ((z_next - z_next.mean(0)) ** 2).sum()
    assert moved["dynamics_error_t1"] == pytest.approx(error, rel=1e-5)


def test_a_model_of_the_next_pair_is_compared_with_pairs():
    # z_s'a' = (s', a') with a' = 0 from the policy, and s' = s + 2.
    settings = {"dynamics_target": "state_action", "unroll": False, "horizon": 2}
    exact = known_loss(after=([[1.0, 0.0], [0.0, 0.0]], [2.0, 0.0]), **settings)
    assert probe(exact, chain(2, 2.0))["dynamics_error_t2"] == 0
    off = known_loss(after=([[1.0, 0.0], [0.0, 0.0]], [2.0, 3.0]), **settings)
    assert probe(off, chain(2, 2.0))["dynamics_error_t2"] == pytest.approx(9 / 2, abs=9 * EPS)


def test_embeddings_that_do_not_vary_have_no_error():
    s = np.ones((4, 1))
    assert probe(known_loss(), windows(s, s, s))["dynamics_error_t1"] is None


# What does not count


@pytest.mark.parametrize("actions", [None, 3])
def test_what_follows_a_termination_changes_nothing(actions):
    agent = make_agent(None if actions is None else Discrete(actions))
    batch = random_windows(actions=actions)
    batch["next", "terminated"][::2, 0] = True
    batch["next", "terminated"][1, 1] = True
    other = batch.clone()
    strange = random_windows(actions=actions, seed=7)
    strange["next", "reward"] += 1e3
    for window, first in [*((w, 1) for w in range(0, 12, 2)), (1, 2)]:
        other[window, first:] = strange[window, first:]
        other["next", "terminated"][window, first:] = True
    assert not torch.equal(other["next", "reward"], batch["next", "reward"])
    row, changed = probe(agent, batch), probe(agent, other)
    assert changed == pytest.approx(row, rel=1e-6)
    # Twelve first steps, six second ones, five third ones, of which seven terminate.
    assert row["terminated_rate"] == pytest.approx(7 / 23)


def test_steps_of_which_the_validity_mask_says_no_do_not_count():
    batch = random_windows()
    mask = torch.ones(12, 3, dtype=torch.bool)
    mask[4:, 2] = False
    row = probe(make_agent(), batch.clone().set("validity_mask", mask))
    batch["next", "observation"][4:, 2] += 50
    batch["next", "reward"][4:, 2] += 50
    assert probe(make_agent(), batch.clone().set("validity_mask", mask)) == row
    assert probe(make_agent(), batch)["dynamics_error_t3"] != row["dynamics_error_t3"]


# Calibration


def test_a_planted_slope_and_offset_of_the_reward_come_back():
    # Predicted s, real 2 s + 3 over s = 0 ... 4 at both steps: the mean difference is that of s + 3.
    s = np.arange(5.0)[:, None].repeat(2, 1)
    batch = windows(s, np.zeros((5, 2)), s, 2 * s + 3)
    row = probe(known_loss(after=([1.0, 0.0], 0.0), reward=([1.0, 0.0], 0.0), horizon=2), batch)
    assert row["reward_slope"] == pytest.approx(2, abs=50 * EPS)
    assert row["reward_intercept"] == pytest.approx(3, abs=50 * EPS)
    assert row["reward_calibration_error"] == pytest.approx(5, abs=50 * EPS)


def test_two_hot_rewards_are_read_from_the_bins():
    # Bins -1, 0, 1 with weights 1/4, 1/4, 1/2 mean .25; the real rewards .5 and 1 mean .75.
    settings = {"reward_loss": "two_hot", "num_bins": 3, "bin_range": math.log(2)}
    loss = known_loss(reward=(0.0, [0.0, 0.0, math.log(2)]), **settings)
    s, a = grid()
    row = probe(loss, windows(s, a, s, [[0.5], [1.0]] * 6))
    assert (row["reward_slope"], row["reward_intercept"]) == (None, None)
    assert row["reward_calibration_error"] == pytest.approx(0.5, abs=9 * EPS)


def test_predicted_terminations_are_clipped_and_compared_where_there_are_some():
    s, a = grid()
    ends = [[True]] * 3 + [[False]] * 9
    row = probe(known_loss(ends=(0.0, 0.5)), windows(s, a, s, terminated=ends))
    assert (row["terminated_rate"], row["terminated_predicted"]) == (0.25, 0.5)
    assert row["terminated_calibration_error"] == pytest.approx(0.25, abs=9 * EPS)
    above = probe(known_loss(ends=(0.0, 7.0)), windows(s, a, s, terminated=ends))
    assert above["terminated_predicted"] == 1.0
    below = probe(known_loss(ends=(0.0, -7.0)), windows(s, a, s, terminated=ends))
    assert (below["terminated_predicted"], below["terminated_calibration_error"]) == (0.0, 0.25)
    none = probe(known_loss(ends=(0.0, 0.5)), windows(s, a, s))
    names = ("terminated_rate", "terminated_predicted", "terminated_calibration_error")
    assert [none[name] for name in names] == [0.0, None, None]
