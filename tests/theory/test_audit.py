"""The audit's values: a network's error, its three parts, its n-step part, and what its choices are worth."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from exports import carried, exact_export, planted_export
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import (
    Policy,
    Problem,
    TabularMDP,
    Weights,
    aggregate_model,
    audit_embeddings,
    catalogue,
    certified_q,
    cliff_walking,
    frozen_lake,
    garnet,
    optimal,
)
from theory.audit import assemble, probe, read_export, relaxing
from theory.audit.acting import audit_acting
from theory.audit.setting import setting_of
from theory.audit.value import PARTS, audit_value
from theory.chains import bare_chain
from theory.relaxation import Relaxation

seeds = st.integers(0, 10_000)
few = settings(max_examples=25)
CHAIN = TabularMDP.from_dense(  # 0 -> 1 -> the end; the second action of both stays
    [[[0, 1, 0], [1, 0, 0]], [[0, 0, 1], [0, 1, 0]], [[0, 0, 1], [0, 0, 1]]],
    [[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]],
    0.5,
    terminal=[False, False, True],
    start=[1.0, 0.0, 0.0],
)
FORWARD = Policy([[1.0, 0.0]] * 3)


def random_case(seed: int, *, dense: bool = True) -> tuple[TabularMDP, Policy, np.random.Generator]:
    rng = np.random.default_rng(seed)
    mdp = garnet(6, 3, 3, float(rng.uniform(0.5, 0.97)), seed=seed, num_terminal=seed % 3, dense=dense)
    return mdp, Policy(rng.dirichlet(np.ones(3), 6)), rng


@pytest.mark.parametrize(
    "mdp",
    [frozen_lake("4x4", 0.95), cliff_walking(0.9), garnet(6, 3, 2, 0.9, seed=3)],
    ids=["lake", "cliff", "garnet"],
)
def test_an_agent_that_is_right_about_everything_has_no_error_anywhere(mdp: TabularMDP) -> None:
    best = optimal(mdp)
    report = audit_embeddings(exact_export(mdp, best.policy, n_step=1, counts=np.ones(mdp.r.shape)), mdp)
    assert report and report.verdict == "pass" and not report.unjudged
    size = float(abs(best.q).max())
    for found in (report.value.error, *report.value.parts.values(), *report.returns.sizes.values()):
        assert max(found.largest, found.weighted, abs(found.start)) <= 1e-12 * size
    assert report.value.main_part is None and report.condition("the network's values are exact").holds
    assert report.value.true_start == pytest.approx(report.acting.best, rel=1e-12)
    for worth in (report.acting.greedy, report.acting.exported):
        assert worth.value == pytest.approx(report.acting.best, rel=1e-12)
    assert report.probe.error <= 1e-10 * size and report.probe.report.verdict == "pass"
    assert report.relaxation.error.largest <= 1e-10 * size
    assert report.noise.mean_bias < 1e-28


@given(seeds, st.sampled_from(PARTS))
@few
def test_an_error_in_one_part_shows_there_in_its_exact_amount_and_nowhere_else(seed: int, part: str) -> None:
    mdp, policy, rng = random_case(seed)
    off = rng.normal(size=mdp.r.shape)
    report = audit_embeddings(planted_export(mdp, policy, **{part: off}), mdp)
    expected = carried(mdp, policy, off * (mdp.gamma if part == "dynamics" else 1.0))
    rows = report.setting.problem.rows
    for name in PARTS:
        found = getattr(report.value.split, name)
        wanted = expected.reshape(-1)[rows] if name == part else np.zeros(len(rows))
        np.testing.assert_allclose(found, wanted, atol=1e-11)
    np.testing.assert_allclose(report.value.split.error, expected.reshape(-1)[rows], atol=1e-11)
    assert report.value.main_part == part and report.verdict == "pass"
    assert f"most of it from {part}" in report.to_markdown().splitlines()[0]


@given(seeds)
@few
def test_the_parts_of_any_network_whatever_sum_to_its_error(seed: int) -> None:
    mdp, policy, rng = random_case(seed, dense=seed % 2 == 0)
    export = exact_export(mdp, policy)
    for name in ("q", "r_hat", "v_at_pred"):
        export[name] = rng.normal(size=mdp.r.shape) * 10.0 ** rng.integers(-3, 4)
    setting = setting_of(read_export(export, mdp), mdp)
    found, split = audit_value(setting), audit_value(setting).split
    error = export["q"] - certified_q(mdp, policy).value
    np.testing.assert_allclose(split.error, setting.rows(error), rtol=1e-9, atol=1e-9)
    assert split.holds and split.tolerance < 1e-6
    np.testing.assert_allclose(
        split.reward + split.dynamics + split.planning, split.error, atol=split.tolerance
    )
    starts = [part.start for part in found.parts.values()]
    assert sum(starts) == pytest.approx(found.error.start, abs=split.tolerance)
    assert found.claimed_start - found.true_start == pytest.approx(found.error.start, abs=1e-9)


def test_sizes_by_hand() -> None:
    """Q of going forward is (2, 1) and (2, 1): the reward is off by 3 at the second state alone."""
    export = planted_export(CHAIN, FORWARD, reward=[[0, 0], [3, 0], [0, 0]], counts=[[1, 1], [2, 0], [0, 0]])
    error = audit_embeddings(export, CHAIN).value
    # Rows: (0, go), (0, stay), (1, go), (1, stay); the error is 3 at (1, go), halved with each step before.
    np.testing.assert_allclose(error.split.q_true, [2.0, 1.0, 2.0, 1.0])
    np.testing.assert_allclose(error.split.error, [1.5, 0.75, 3.0, 1.5])
    assert (error.error.largest, error.error.start, error.worst) == (3.0, 1.5, "state 1, action 0")
    assert error.error.weighted == pytest.approx(np.sqrt((1.5**2 + 0.75**2 + 2 * 3.0**2) / 4))
    assert (error.true_start, error.claimed_start) == (2.0, 3.5)


def test_terminal_states_count_as_zero_whatever_the_export_says() -> None:
    mdp = frozen_lake("4x4", 0.95)
    export = planted_export(mdp, Policy.uniform(mdp), dynamics=0.1, counts=np.ones(mdp.r.shape), n_step=2)
    wrong = {name: np.array(value) for name, value in export.items()}
    for name in ("zsa", "q", "pi", "r_hat", "v_at_pred", "counts"):
        wrong[name][mdp.terminal] = 1e3
    first, second = (audit_embeddings(arrays, mdp) for arrays in (export, wrong))
    assert first.to_json() == second.to_json()
    wrong["zs"][mdp.terminal] = 7.0
    third = audit_embeddings(wrong, mdp)
    assert third.noise.mean_noise > 2 * first.noise.mean_noise  # the encoder's loss does see them
    rest = [json.loads(report.to_json())["data"] for report in (first, third)]
    for data in rest:
        for name in [
            name
            for name in data
            if "one-step" in name or name in ("noise floor", "bias of the predicted next embedding")
        ]:
            del data[name]
    assert rest[0] == rest[1]


def test_the_value_of_the_next_state_leaves_out_what_ends() -> None:
    """A network that bootstraps from the terminal state has that in its dynamics part, and nowhere else."""
    export = exact_export(CHAIN, FORWARD)
    export["v_at_pred"][1, 0] += 8.0
    export["q"] = carried(CHAIN, FORWARD, CHAIN.r + 0.5 * np.array([[0, 0], [8, 0], [0, 0]]))
    export["v_at_pred"][0, 0], export["v_at_pred"][:2, 1] = export["q"][1, 0], export["q"][:2, 0]
    parts = audit_embeddings(export, CHAIN).value.parts
    assert parts["dynamics"].largest == pytest.approx(4.0)
    assert parts["reward"].largest == parts["planning"].largest == 0.0


def test_masked_pairs_are_not_judged_and_have_no_weight() -> None:
    export = planted_export(CHAIN, FORWARD, planning=[[5, 0], [0, 0], [0, 0]])
    report = audit_embeddings(export, CHAIN)
    assert report.value.error.largest == pytest.approx(5.0)
    mask = np.array([[False, True], [True, True], [True, True]])
    masked = audit_embeddings({**export, "mask": mask}, CHAIN)
    assert masked.value.error.largest == pytest.approx(2.5)  # staying once, then going
    assert masked.value.worst == "state 0, action 1"
    np.testing.assert_allclose(masked.setting.problem.mu, [0.0, 1 / 3, 1 / 3, 1 / 3])
    assert masked.data["rows judged"] == 3 and masked.verdict == "pass"
    assert "value error is at most 2.5 on the 3 pairs judged, most of it" in masked.sentence
    assert "value error is at most 5, most of it" in report.sentence


def test_states_that_the_start_does_not_lead_to_are_left_out() -> None:
    mdp = cliff_walking(0.9)
    export = exact_export(mdp, optimal(mdp).policy)
    unreached = np.setdiff1d(mdp.live_states(), mdp.live_states("start"))
    assert len(unreached) == 10
    export["q"][unreached] += 100.0
    report = audit_embeddings(export, mdp)
    assert report.setting.problem.n == 37 * 4 and report.value.error.largest < 1e-9
    assert report.labelling.states == 37


def test_weights_are_visits_or_given_or_uniform() -> None:
    export, counts = exact_export(CHAIN, FORWARD), np.array([[1, 1], [6, 0], [9, 9]])
    for name in ("counts", "mu"):
        found = audit_embeddings({**export, name: counts}, CHAIN).setting
        np.testing.assert_allclose(found.problem.mu, [1 / 8, 1 / 8, 6 / 8, 0.0])
    np.testing.assert_allclose(audit_embeddings(export, CHAIN).setting.problem.mu, [0.25] * 4)


def test_the_agents_discount_is_used_and_the_difference_said() -> None:
    other = replace(CHAIN, gamma=0.25)
    report = audit_embeddings(exact_export(CHAIN, FORWARD), other)
    assert report.setting.mdp.gamma == 0.5 and report.value.error.largest < 1e-12
    condition = report.condition("the discount is that of the MDP")
    assert condition.holds is False and condition.value == 0.25
    assert "the agent's 0.5 is used for everything here; the MDP has 0.25" in condition.why
    without = exact_export(CHAIN, FORWARD)
    del without["gamma"]
    judged = audit_embeddings(without, other)
    assert judged.setting.mdp.gamma == 0.25 and judged.condition("the discount is that of the MDP").holds
    assert judged.value.error.largest > 0.4


@given(seeds)
@few
def test_values_from_the_start_are_those_of_all_policies_tried(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mdp = garnet(4, 2, 2, 0.9, seed=seed, num_terminal=1)
    shifted = TabularMDP.from_dense(mdp.P, mdp.r + 1.0, 0.9, terminal=mdp.terminal)
    tried = {
        actions: float(shifted.start @ carried(shifted, policy, shifted.r)[np.arange(4), actions])
        for actions in itertools.product(range(2), repeat=4)
        for policy in [Policy.from_actions(actions, 2)]
    }
    export = exact_export(shifted, Policy.from_actions([0, 1, 0, 1], 2))
    export["q"] = rng.normal(size=(4, 2))
    found = audit_acting(setting_of(read_export(export, shifted), shifted))
    chosen = tuple(int(action) for action in export["q"].argmax(axis=1))
    assert found.best == pytest.approx(max(tried.values()), rel=1e-10)
    assert found.greedy.value == pytest.approx(tried[chosen], rel=1e-9)
    assert found.exported.value == pytest.approx(tried[0, 1, 0, 1], rel=1e-9)
    assert found.greedy.loss == pytest.approx(found.best - tried[chosen], abs=1e-9)
    assert found.greedy.ratio == pytest.approx(tried[chosen] / found.best, rel=1e-9)
    differ = sum(a != b for a, b in zip(chosen[:3], (0, 1, 0), strict=True))
    assert found.disagreements == differ


def test_an_error_that_all_actions_of_a_state_share_costs_nothing() -> None:
    mdp = frozen_lake("4x4", 0.95)
    export = exact_export(mdp, optimal(mdp).policy)
    export["q"] = export["q"] + np.random.default_rng(0).normal(size=(16, 1))
    report = audit_embeddings(export, mdp)
    assert report.value.error.largest > 1.0 and report.acting.greedy.ratio == pytest.approx(1.0)
    assert (
        report.acting.loss.error > 1.0 and report.condition("greedy policy is optimal from the start").holds
    )


def test_a_share_of_a_negative_best_is_not_given() -> None:
    mdp = cliff_walking(0.9)
    acting = audit_embeddings(exact_export(mdp, Policy.uniform(mdp)), mdp).acting
    assert acting.best < 0.0 and acting.exported.ratio is None and acting.exported.loss > 0.0
    assert acting.numbers["exported policy: share of V*"] == "V* is not positive"


@pytest.mark.parametrize(("left_out", "said"), [("counts", "counts"), ("n_step", "n_step")])
def test_without_visits_or_steps_the_n_step_part_is_not_judged(left_out: str, said: str) -> None:
    export = exact_export(CHAIN, FORWARD, counts=np.ones((3, 2)), n_step=3)
    del export[left_out]
    report = audit_embeddings(export, CHAIN)
    assert report.returns is None and report.unjudged["returns"] == f"The export has no {said}."
    assert f"- returns is not judged: The export has no {said}." in report.to_markdown()
    assert report.verdict == "pass"


def test_a_world_without_rewards_is_audited() -> None:
    mdp = replace(CHAIN, r=np.zeros((3, 2)))
    report = audit_embeddings(exact_export(mdp, FORWARD, n_step=2, counts=np.ones((3, 2))), mdp)
    assert report.verdict == "pass" and not report.unjudged and report.value.error.largest == 0.0
    assert report.acting.best == 0.0 and report.acting.greedy.ratio is None


@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.9999999])
def test_a_value_that_is_all_wrong_is_exact_at_no_discount(gamma: float) -> None:
    """A world that pays nothing; rounding is carried on by the horizon, but only of values that are there."""
    mdp = TabularMDP.from_dense([[[1.0]]], [[0.0]], gamma)
    export = exact_export(mdp, Policy.uniform(mdp))
    assert audit_embeddings(export, mdp).condition("the network's values are exact").holds
    off = np.full((1, 1), 1e-5)
    report = audit_embeddings({**export, "q": off, "v_at_pred": off}, mdp)
    assert report.condition("the network's values are exact").holds is False


@given(seeds)
@few
def test_an_exact_network_of_float32_is_exact(seed: int) -> None:
    mdp, policy, _ = random_case(seed)
    export = exact_export(mdp, policy)
    single = {name: np.float32(value) if np.ndim(value) else value for name, value in export.items()}
    report = audit_embeddings(single, mdp)
    exact = report.condition("the network's values are exact")
    assert exact.holds and report.value.main_part is None
    assert exact.threshold <= 2.0 / (1.0 - mdp.gamma) * 2.0**-23 * 2.0 * abs(export["q"]).max()
    wrong = audit_embeddings({**single, "q": single["q"] + np.float32(2 * exact.threshold)}, mdp)
    assert wrong.condition("the network's values are exact").holds is False


def test_infinite_values_are_said_and_the_rest_is_judged() -> None:
    """Without discount, staying for ever: the exported policy has no value, the greedy one has."""
    mdp = replace(CHAIN, gamma=1.0)
    export = exact_export(mdp, FORWARD, n_step=2, counts=np.ones((3, 2)))
    export["pi"] = np.array([[0.0, 1.0]] * 3)
    report = audit_embeddings(export, mdp)
    assert report.verdict == "inconclusive" and not report and report.residual is None
    assert set(report.unjudged) == {"value", "returns", "relaxation", "labelling"}
    assert all("never ends" in why or "infinite" in why for why in report.unjudged.values())
    assert report.acting.greedy.value == pytest.approx(3.0) and report.acting.exported is None
    assert "never ends" in report.acting.missing["exported"]
    assert report.linearity.true is None and report.linearity.network is not None
    assert report.probe.findings.split is None and report.probe.error is None
    assert "the network's values cannot be judged" in report.to_markdown().splitlines()[0]
    json.loads(report.to_json())
    # And the other way round.
    export = exact_export(mdp, FORWARD)
    export["q"] = np.array([[0.0, 1.0]] * 3)
    report = audit_embeddings(export, mdp)
    assert report.verdict == "pass" and report.acting.greedy is None and report.acting.exported.ratio == 1.0
    condition = report.condition("greedy policy is optimal from the start")
    assert (
        condition.holds is None and condition.why == "the greedy policy never ends from 2 states at gamma = 1"
    )


def test_an_equality_that_fails_fails_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transitions that are not those of the true values: a mistake of this package's, not of the network."""
    mdp, policy, _ = random_case(5)
    export = exact_export(mdp, policy)
    setting = setting_of(read_export(export, mdp), mdp)
    wrong = copy.copy(setting.problem)
    object.__setattr__(wrong, "chain", bare_chain(0.9 * np.asarray(wrong.P_pi)))
    found = audit_value(replace(setting, problem=wrong))
    assert not found.split.holds
    monkeypatch.setattr(assemble, "audit_value", lambda setting: found)
    report = audit_embeddings(export, mdp)
    assert report.verdict == "fail" and not report
    assert ": fail, an equality does not hold; " in report.to_markdown().splitlines()[0]


@pytest.mark.parametrize("name", [name for name in assemble.EQUALITIES if not name.startswith("value")])
def test_each_equality_decides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mdp, policy, _ = random_case(6)
    export = exact_export(mdp, policy)
    report = audit_embeddings(export, mdp)
    assert report.condition(name).holds and report.verdict == "pass"
    failing = tuple(replace(c, holds=False) if c.name == name else c for c in report.conditions)
    assert assemble._verdict(report.value, failing) == "fail"


def test_a_failing_theorem_1_or_relaxed_value_fails_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    mdp, policy, _ = random_case(6)
    export = exact_export(mdp, policy)
    theorem, relax = probe.check_fixed_point_equivalence, relaxing.relax_to_state
    with monkeypatch.context() as patch:
        patch.setattr(
            probe, "check_fixed_point_equivalence", lambda problem: replace(theorem(problem), verdict="fail")
        )
        report = audit_embeddings(export, mdp)
        assert report.verdict == "fail" and report.condition(probe.IDENTITY).holds is False
    with monkeypatch.context() as patch:
        patch.setattr(
            probe,
            "check_fixed_point_equivalence",
            lambda problem: replace(theorem(problem), verdict="inconclusive"),
        )
        report = audit_embeddings(export, mdp)
        assert report.verdict == "pass" and report.condition(probe.IDENTITY).holds is None

    def wrong(problem: Problem, features: np.ndarray) -> Relaxation:
        found = relax(problem, features)
        return replace(found, value=replace(found.value, identity_residual=1.0))

    monkeypatch.setattr(relaxing, "relax_to_state", wrong)
    report = audit_embeddings(export, mdp)
    assert report.verdict == "fail" and report.condition(relaxing.ERROR_IDENTITY).value == 1.0


def test_the_report_reads_like_the_others() -> None:
    mdp = frozen_lake("4x4", 0.95)
    rng = np.random.default_rng(0)
    export = planted_export(mdp, optimal(mdp).policy, reward=0.1, counts=np.ones((16, 4)), n_step=3, step=500)
    export["zsa"] = rng.normal(size=(16, 4, 6))
    export["q_heads"] = np.stack([export["q"] - 0.25, export["q"] + 0.5])
    report = audit_embeddings(export, mdp, name="a run")
    lines = report.to_markdown().splitlines()
    assert lines[0].startswith(
        "Audit of a run: pass, every equality checked holds, as it must for any network; the network's value "
        "error is at most "
    )
    assert lines[0].endswith(
        f"of {report.acting.best:.4g} ({report.acting.greedy.ratio:.1%}) from the start."
    )
    assert lines[2] == "| condition | value | threshold | margin | holds | why |"
    assert report.step == 500 and report.data["step"] == 500
    assert report.data["largest disagreement of the value heads"] == pytest.approx(0.75)
    stored = json.loads(report.to_json())
    assert stored["verdict"] == "pass" and len(stored["data"]["rows"]) == 44 == len(stored["data"]["error"])
    np.testing.assert_allclose(stored["data"]["reward"], report.value.split.reward)
    assert "rows" not in report.data and '"error"' not in report.to_markdown()


def test_failing_conditions_lead_to_entries_of_the_catalogue_that_fail_them() -> None:
    mdp, policy, _ = random_case(8)
    export = exact_export(
        mdp, policy, zsa=np.ones((6, 3, 1)), zs=np.ones((6, 1)), zs_next_pred=np.ones((6, 3, 1))
    )
    report = audit_embeddings(export, mdp)
    for name, entry in assemble.COUNTEREXAMPLES.items():
        condition = report.condition(name)
        assert not condition.holds and condition.why.endswith(f"; see catalogue {entry}")
    groups = catalogue.load("random_walk_5_groups").problem
    labels = groups.Z.argmax(axis=1)
    merged = aggregate_model(groups, labels)
    assert abs(merged.eps_r).max() > 0.1 and abs(merged.eps_p).max() > 0.1 and abs(merged.error).max() > 0.1


def test_weights_do_not_change_what_is_true() -> None:
    mdp, policy, rng = random_case(9)
    export = planted_export(mdp, policy, planning=rng.normal(size=mdp.r.shape))
    first, second = (
        audit_embeddings({**export, "mu": mu}, mdp)
        for mu in (np.ones(mdp.r.shape), rng.uniform(0.1, 1, mdp.r.shape))
    )
    assert first.value.error.largest == second.value.error.largest != first.value.error.weighted
    assert first.value.error.weighted != second.value.error.weighted
    assert isinstance(first.setting.problem, Problem) and isinstance(first.setting.weights, Weights)
