"""The loss on a problem's features, and the batch of all its transitions, against loops written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from bridged import garnet_problem, parameter, set_values, value_gradient
from tensordict import TensorDict

from theory import Features, Policy, Problem, Weights, catalogue, cliff_walking
from uld_torchrl import PeriodicHardUpdate
from uld_torchrl.diagnostics import model_weights, tabular_loss, transition_batch, value_weights
from uld_torchrl.envs import named_mdp, state_observations
from uld_torchrl.errors import InputError


def listed(batch: TensorDict, actions: int) -> dict[tuple[int, ...], float]:
    """Weights by (s, a, s', a'), of a one-step batch."""
    seen, after = batch["observation"][:, 0], batch["next", "observation"][:, 0]
    assert torch.equal(seen[:, -actions:], batch["action"][:, 0])
    index = [part.argmax(-1) for both in (seen, after) for part in (both[:, :-actions], both[:, -actions:])]
    keys = torch.stack(index, -1).tolist()
    found = {
        tuple(key): weight for key, (weight,) in zip(keys, batch["priority_weight"].tolist(), strict=True)
    }
    assert len(found) == len(batch)
    return found


@pytest.mark.parametrize("weights", ["random", "part"])
def test_one_step_windows_are_all_transitions_with_their_probabilities(weights: str) -> None:
    problem = garnet_problem(0, weights=weights, ends=2)
    mdp, policy = problem.mdp, problem.policy
    assert mdp and policy and problem.weights
    S, A, expected = mdp.num_states, mdp.num_actions, {}
    for s, a, after, then in np.ndindex(S, A, S, A):
        follows = float(then == 0) if mdp.terminal[after] else policy.probs[after, then]
        chance = problem.weights.mu[s, a] * mdp.P[s, a, after] * follows
        if chance > 0.0:
            expected[s, a, after, then] = chance
    batch = transition_batch(problem)
    found = listed(batch, A)
    assert found.keys() == expected.keys()
    # Three factors, and weights that are divided by their sum: a few roundings.
    assert all(math.isclose(found[key], expected[key], rel_tol=1e-15) for key in expected)
    s, a, after, _ = np.array(list(found)).T
    np.testing.assert_array_equal(batch["next", "reward"].flatten(), mdp.r[s, a])
    np.testing.assert_array_equal(batch["next", "terminated"].flatten(), mdp.terminal[after])


@pytest.mark.parametrize("name", ["boyan_chain", "baird_star", "sign_flip"])
def test_a_bare_chain_has_the_states_of_the_environment_made_of_it(name: str) -> None:
    problem, mdp = catalogue.load(name).problem, named_mdp(f"catalogue-{name}")
    batch = transition_batch(problem)
    assert batch["observation"].shape[-1] == mdp.num_states + 1
    found = listed(batch, 1)
    for (s, a, after, _), weight in found.items():
        assert weight == pytest.approx(problem.mu[s] * mdp.P[s, a, after], rel=1e-14)
    loss = tabular_loss(problem, next_action="sampled")
    PeriodicHardUpdate(loss)
    seen = torch.from_numpy(state_observations(mdp)).double()
    z = loss._encode(TensorDict({"observation": seen}, batch_size=[len(seen)]), loss.state_encoder_params)
    z_sa = loss._join(z, torch.ones(len(seen), 1), loss.state_action_encoder_params)
    np.testing.assert_array_equal(z_sa.detach()[: problem.n], problem.Z)
    assert not z_sa[problem.n :].any()


def test_only_reachable_states_have_features_and_windows() -> None:
    mdp = cliff_walking(0.9)
    policy = Policy.uniform(mdp)
    problem = Problem(
        mdp, policy, Features.random(mdp, 3, seed=0), Weights.uniform(mdp), reachable_from="start"
    )
    batch = transition_batch(problem)
    seen = set(batch["observation"][:, 0, : mdp.num_states].argmax(-1).tolist())
    assert seen == set(mdp.live_states(reachable_from="start").tolist()) != set(mdp.live_states().tolist())
    assert abs(batch["priority_weight"].sum().item() - 1.0) < 1e-13


def test_features_are_exact_and_weights_begin_at_zero_and_can_be_written() -> None:
    problem = garnet_problem(1)
    loss = tabular_loss(problem, num_values=2)
    PeriodicHardUpdate(loss)
    table = loss.state_action_encoder_params["module", "features"].detach().numpy()
    np.testing.assert_array_equal(table.reshape(-1, problem.d)[problem.rows], problem.Z)
    assert table.dtype == np.float64 and not table[-1].any()
    w_r, W_d = model_weights(loss)
    for weights in (value_weights(loss), value_weights(loss, target=True), w_r, W_d):
        assert not weights.any()
    value_weights(loss)[1] = 3.0
    value_weights(loss, target=True)[0] = 4.0
    assert parameter(loss)[1].eq(3).all() and not parameter(loss)[0].any()
    assert loss.target_qvalue_network_params["module", "weight"][0].eq(4).all()
    W_d[0, 1] = 5.0
    w_r[2] = 6.0
    z = torch.eye(3, dtype=torch.float64)
    td = TensorDict({"state_action_embedding": z}, batch_size=[3])
    out = loss._run("predictor", loss.predictor_params, td)
    assert out["next", "state_action_embedding"][0].tolist() == [0.0, 5.0, 0.0]
    assert out["reward_logits"].flatten().tolist() == [0.0, 0.0, 6.0]


def test_sampled_actions_follow_the_policy() -> None:
    # n draws from p on k points: P(|p_n - p|_1 >= e) <= (2^k - 2) exp(-n e^2 / 2) (Weissman et al. 2003).
    problem, draws, false_alarm = garnet_problem(2, actions=3), 4000, 1e-9
    assert problem.mdp and problem.policy
    S = problem.mdp.num_states - 1  # the last one is terminal
    loss = tabular_loss(problem, next_action="sampled")
    PeriodicHardUpdate(loss)
    torch.manual_seed(0)
    seen = torch.eye(S, S + 1, dtype=torch.float64).repeat_interleave(draws, 0)
    z = loss._encode(TensorDict({"observation": seen}, batch_size=[len(seen)]), loss.state_encoder_params)
    shares = loss._target_action(z).double().view(S, draws, 3).mean(1).numpy()
    far = np.abs(shares - problem.policy.probs[:S]).sum(axis=1)
    assert far.max() <= math.sqrt(2 / draws * math.log(S * (2**3 - 2) / false_alarm))
    assert np.abs(shares - 1 / 3).sum(axis=1).max() > 0.2


def test_an_action_that_the_policy_never_takes_is_never_drawn() -> None:
    base = garnet_problem(3)
    assert base.mdp and base.features and base.weights
    S = base.mdp.num_states
    problem = Problem(base.mdp, Policy(np.tile([0.0, 1.0], (S, 1))), base.features, base.weights)
    loss = tabular_loss(problem, next_action="sampled")
    PeriodicHardUpdate(loss)
    z = torch.eye(S - 1, S, dtype=torch.float64).repeat(200, 1)  # the last state is terminal
    assert loss._target_action(z)[:, 0].sum() == 0
    batch = transition_batch(problem)
    batch["observation"], batch["next", "observation"] = (
        batch["observation"][..., :S],
        batch["next", "observation"][..., :S],
    )
    given = tabular_loss(problem)
    w = np.arange(1.0, problem.d + 1)
    set_values(loss, w)
    set_values(given, w)
    # A deterministic policy: drawn or given, the gradient is the same to the last bit.
    np.testing.assert_array_equal(
        value_gradient(loss, batch), value_gradient(given, transition_batch(problem))
    )
    assert torch.isfinite(loss(batch)["loss_actor"])


def test_bad_input_is_refused_in_words() -> None:
    problem = garnet_problem(0)
    for steps in (0, 1.5):
        with pytest.raises(InputError, match=f"n_steps must be a whole number from 1, got {steps}"):
            transition_batch(problem, n_steps=steps)
    with pytest.raises(InputError, match=r"behaviour must be a Policy of shape \(5, 2\), got \(1, 2\)"):
        transition_batch(problem, n_steps=2, behaviour=Policy([[0.5, 0.5]]))
    with pytest.raises(InputError, match=r"behaviour must be a Policy of shape \(5, 2\), got ndarray"):
        transition_batch(problem, n_steps=2, behaviour=np.ones((5, 2)))
    with pytest.raises(InputError, match=r"windows, more than 1000000: take fewer steps"):
        transition_batch(problem, n_steps=12)
    with pytest.raises(InputError, match="next_action must be one of"):
        tabular_loss(problem, next_action="drawn")
    with pytest.raises(InputError, match="reward_loss must be one of"):
        tabular_loss(problem, reward_loss="l1")
