"""The audit's models: the relaxation to state embeddings, theorem 3 on clusters, the noise floor."""

from __future__ import annotations

import numpy as np
import pytest
from exports import carried, exact_export, random_export, same_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import Policy, TabularMDP, audit_embeddings, garnet, relax_to_state
from theory.audit.labelling import TOLERANCES

seeds = st.integers(0, 10_000)
few = settings(max_examples=15)


# The relaxation


@given(seeds, st.integers(2, 8), st.integers(1, 5))
@few
def test_the_relaxation_is_that_of_the_embeddings(seed: int, d: int, k: int) -> None:
    mdp, export = random_export(seed, d, k)
    found = audit_embeddings(export, mdp).relaxation
    alone = relax_to_state(same_problem(mdp, export), export["zs"])
    np.testing.assert_allclose(found.relaxation.value.error, alone.value.error, atol=1e-7)
    np.testing.assert_allclose(found.relaxation.state_part, alone.state_part, atol=1e-7)
    np.testing.assert_allclose(found.relaxation.policy_part, alone.policy_part, atol=1e-7)
    mu, ahead = same_problem(mdp, export).mu, same_problem(mdp, export).mu @ mdp.rows[:18][:, :6]
    assert found.eps_s == pytest.approx(np.sqrt(mu @ (alone.eps_s**2).mean(axis=1)), rel=1e-7, abs=1e-9)
    assert found.eps_M == pytest.approx(np.sqrt(ahead @ (alone.eps_M**2).mean(axis=1)), rel=1e-7, abs=1e-9)


def test_a_state_embedding_of_full_rank_has_no_price_and_the_report_says_why() -> None:
    mdp, export = random_export(13, 5, 12)
    report = audit_embeddings(export, mdp)
    room = report.condition("relaxation: state embeddings leave room for a price")
    assert room.holds is False and "rank 6 of zs for 6 states" in room.why
    assert report.condition("relaxation: relaxation is free").holds
    assert report.relaxation.policy_part.largest < 1e-9 < report.relaxation.state_part.largest
    mdp, export = random_export(13, 5, 2)
    report = audit_embeddings(export, mdp)
    assert report.condition("relaxation: state embeddings leave room for a price").holds
    assert report.condition("relaxation: relaxation is free").holds is False
    assert report.relaxation.policy_part.largest > 1e-3


# Theorem 3


def doubled(seed: int, reward: float = 0.0) -> tuple[TabularMDP, dict[str, np.ndarray]]:
    """Every state twice, embedded alike; the reward of the first copy of state 0 is off by so much."""
    small = garnet(4, 2, 2, 0.9, seed=seed, num_terminal=1)
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.2, 0.8, size=(4, 2, 4))
    P = np.stack([small.P * share, small.P * (1 - share)], axis=-1).reshape(4, 2, 8)
    mdp = TabularMDP.from_dense(
        np.repeat(P, 2, axis=0), np.repeat(small.r, 2, axis=0) + reward * (np.arange(8) == 0)[:, None], 0.9,
        terminal=np.repeat(small.terminal, 2),
    )  # fmt: skip
    policy = Policy(np.repeat(rng.dirichlet(np.ones(2), 4), 2, axis=0))
    export = exact_export(mdp, policy)
    export["zs"] = np.repeat(rng.normal(size=(4, 5)), 2, axis=0)
    export["zsa"] = np.repeat(rng.normal(size=(4, 2, 6)), 2, axis=0)
    export["zs_next_pred"] = np.zeros((8, 2, 5))
    return mdp, export


def test_states_that_look_alike_and_are_alike_are_merged_without_loss() -> None:
    mdp, export = doubled(1)
    report = audit_embeddings(export, mdp)
    found = report.labelling.merging
    assert found.tolerance == TOLERANCES[0] and (found.state_classes, found.pair_classes) == (3, 6)
    assert (report.labelling.states, report.labelling.pairs) == (6, 12)
    assert found.report.verdict == "pass" and found.report.data["merged_error"] < 1e-12
    assert (
        report.condition("theorem 3: equal rewards").holds
        and report.condition("theorem 3: equal transitions").holds
    )


def test_states_that_look_alike_and_pay_differently_are_named_with_the_bound() -> None:
    mdp, export = doubled(1, reward=0.5)
    report = audit_embeddings(export, mdp)
    rewards = report.condition("theorem 3: equal rewards")
    assert rewards.holds is False and rewards.value == pytest.approx(0.25)  # half of it from the mean of two
    assert "at tolerance 1e-06" in rewards.why and rewards.why.endswith("see catalogue random_walk_5_groups")
    assert report.condition("theorem 3: equal transitions").holds
    data = report.labelling.merging.report.data
    assert (
        0.0
        < data["merged_error"]
        <= data["merged_bound"] * (1 + 1e-9)
        <= data["merged_hoelder_bound"] * (1 + 2e-9)
    )
    one_step = 0.25 * (np.arange(8) < 2) * np.where(np.arange(8) == 0, -1.0, 1.0)
    expected = carried(mdp, Policy(export["pi"]), np.repeat(one_step[:, None], 2, axis=1))
    assert data["merged_error"] == pytest.approx(abs(expected).max())


def test_coarser_tolerances_merge_more_and_chains_are_joined() -> None:
    mdp = garnet(4, 1, 2, 0.9, seed=2)
    export = exact_export(mdp, Policy.uniform(mdp))
    # Apart by 1.1, 0.9 and 1000 of a scale that is 433 or so: two steps of less than 1 % of it.
    export["zs"] = np.array([[0.0], [1.1], [2.0], [1000.0]])
    export["zsa"] = export["zs"][:, None, :]
    export["zs_next_pred"] = np.zeros((4, 1, 1))
    found = audit_embeddings(export, mdp).labelling
    assert [c.tolerance for c in found.clusterings] == list(TOLERANCES)
    assert [c.state_classes for c in found.clusterings] == [4, 4, 2, 2]
    assert found.merging is found.clusterings[2]
    assert found.merging.state_labels.tolist()[:3] == [found.merging.state_labels[0]] * 3
    scale = np.sqrt(((export["zs"] - export["zs"].mean()) ** 2).mean())
    assert 1e-3 * scale < 0.9 < 1.1 < 1e-2 * scale


def test_the_order_of_states_does_not_matter() -> None:
    """The ends first: then live states and their rows have other numbers than places."""
    mdp, export = doubled(1, reward=0.5)
    back = np.arange(8)[::-1]
    turned = TabularMDP.from_dense(
        mdp.P[back][:, :, back], mdp.r[back], 0.9, terminal=mdp.terminal[back], start=mdp.start[back]
    )
    arrays = {name: value if name == "gamma" else value[back] for name, value in export.items()}
    first, second = audit_embeddings(export, mdp).labelling, audit_embeddings(arrays, turned).labelling
    assert first.merging.report.data["merged_error"] == pytest.approx(
        second.merging.report.data["merged_error"]
    )
    together = first.merging.state_labels[:, None] == first.merging.state_labels
    same = second.merging.state_labels[:, None] == second.merging.state_labels
    np.testing.assert_array_equal(same, together[back][:, back])
    assert together.sum() == 3 * 4 + 2  # three pairs of live states; the two ends are with nothing


def test_states_that_look_alike_are_merged_though_their_pairs_differ() -> None:
    mdp, export = doubled(1)
    export["zsa"] = np.random.default_rng(0).normal(size=(8, 2, 6))
    found = audit_embeddings(export, mdp).labelling.merging
    assert found is not None and (found.state_classes, found.pair_classes) == (3, 12)
    condition = audit_embeddings(export, mdp).condition(
        "theorem 3: pair label is a function of state label and action"
    )
    assert condition.holds is False and "of what is merged at tolerance 1e-06" in condition.why


def test_a_policy_that_parts_what_looks_alike_is_said() -> None:
    mdp, export = doubled(1)
    name = "theorem 3: policy is a function of the state label"
    assert audit_embeddings(export, mdp).condition(name).holds
    export["pi"][0] = export["pi"][0][::-1]
    condition = audit_embeddings(export, mdp).condition(name)
    off = export["pi"][0, 0] - export["pi"][1, 0]
    assert condition.holds is False and condition.value == pytest.approx(abs(off) / 2)


def test_where_nothing_looks_alike_theorem_3_is_not_judged() -> None:
    mdp, export = random_export(14, 4)
    report = audit_embeddings(export, mdp)
    assert report.labelling.merging is None
    condition = report.condition("theorem 3: equal rewards")
    assert condition.holds is None and "nothing is merged" in condition.why


# Noise


@given(seeds)
@few
def test_the_noise_floor_is_the_variance_of_the_next_embedding(seed: int) -> None:
    mdp, export = random_export(seed, 3, 4, terminal=seed % 3)
    report = audit_embeddings(export, mdp)
    found, rows = report.noise, report.setting.problem.rows
    for row in range(0, len(rows), 5):
        s, a = divmod(int(rows[row]), 3)
        p, mean = mdp.P[s, a], mdp.P[s, a] @ export["zs"]
        variance = sum(p[t] * np.sum((export["zs"][t] - mean) ** 2) for t in range(7)) / 4
        loss = sum(p[t] * np.sum((export["zs"][t] - export["zs_next_pred"][s, a]) ** 2) for t in range(7)) / 4
        assert found.noise[row] == pytest.approx(variance, abs=1e-12)
        assert found.noise[row] + found.bias[row] == pytest.approx(loss, abs=1e-12)
    mu = report.setting.problem.mu
    assert found.loss == pytest.approx(mu @ (found.noise + found.bias))
    assert found.share == pytest.approx(found.mean_noise / found.loss)
    ahead = mu @ np.asarray(mdp.rows)[rows]
    constant = export["zs"] - ahead @ export["zs"]
    assert found.spread == pytest.approx(ahead @ (constant**2).mean(axis=1))


def test_a_deterministic_world_has_no_noise_floor() -> None:
    mdp = TabularMDP.from_dense([[[0, 1], [1, 0]], [[0, 1], [1, 0]]], [[0, 1], [1, 0]], 0.9)
    export = exact_export(mdp, Policy.uniform(mdp), zs=np.array([[1.0, 3.0], [1e3, 0.1]]))
    export["zs_next_pred"] = mdp.P @ export["zs"] + np.array([0.0, 2.0])
    found = audit_embeddings(export, mdp).noise
    assert not found.noise.any() and found.mean_bias == pytest.approx(2.0) and found.share == 0.0
    name = "the one-step dynamics loss is mostly noise"
    assert audit_embeddings(export, mdp).condition(name).holds is False
    export["zs_next_pred"] = (mdp.P @ export["zs"]).astype(np.float32)
    assert audit_embeddings(export, mdp).condition(name).holds  # at the floor, up to float32


def test_a_large_mean_does_not_swamp_the_noise() -> None:
    mdp, export = random_export(15, 3, 2)
    near = audit_embeddings(export, mdp).noise
    far = audit_embeddings(
        {**export, "zs": export["zs"] + 1e6, "zs_next_pred": export["zs_next_pred"] + 1e6}, mdp
    )
    np.testing.assert_allclose(far.noise.noise, near.noise, rtol=1e-7, atol=1e-9)
