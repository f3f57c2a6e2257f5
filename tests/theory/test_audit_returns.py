"""The audit's split of the critic's error: what uncorrected n-step returns ask for, and the rest."""

from __future__ import annotations

import numpy as np
from exports import exact_export
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import Policy, TabularMDP, audit_embeddings, garnet
from theory.audit import read_export
from theory.audit.returns import audit_returns, behaviour_of
from theory.audit.setting import setting_of
from theory.audit.value import audit_value

seeds = st.integers(0, 10_000)
few = settings(max_examples=25)


def random_case(seed: int) -> tuple[TabularMDP, Policy, np.random.Generator]:
    rng = np.random.default_rng(seed)
    mdp = garnet(6, 3, 3, float(rng.uniform(0.5, 0.97)), seed=seed, num_terminal=seed % 3)
    return mdp, Policy(rng.dirichlet(np.ones(3), 6)), rng


def n_step_target(mdp: TabularMDP, policy: Policy, behaviour: Policy, n: int) -> np.ndarray:
    """The fixed point of the n-step operator over all pairs, by powers of dense matrices."""
    S, A = mdp.r.shape
    alive = np.repeat(~mdp.terminal, A).astype(float)
    rows = np.asarray(mdp.rows)
    P_pi, P_b = (
        alive[:, None] * np.einsum("ns,sa->nsa", rows, each.probs).reshape(S * A, S * A) * alive
        for each in (policy, behaviour)
    )
    reward = sum(np.linalg.matrix_power(mdp.gamma * P_b, t) @ (alive * mdp.r.reshape(-1)) for t in range(n))
    chain = mdp.gamma**n * np.linalg.matrix_power(P_b, n - 1) @ P_pi
    return np.linalg.solve(np.eye(S * A) - chain, reward).reshape(S, A)


@given(seeds, st.integers(1, 5))
@few
def test_the_critics_error_is_its_n_step_part_and_the_rest(seed: int, n: int) -> None:
    mdp, policy, rng = random_case(seed)
    counts = rng.integers(0, 4, size=mdp.r.shape)
    counts[0], counts[1] = 0, [1, 0, 3]
    export = exact_export(mdp, policy, counts=counts, n_step=n)
    export["q"] = rng.normal(size=mdp.r.shape)
    setting = setting_of(read_export(export, mdp), mdp)
    found, error = audit_returns(setting), audit_value(setting).split.error
    b = np.where(
        counts.sum(1, keepdims=True) > 0, counts / np.maximum(counts.sum(1, keepdims=True), 1), 1 / 3
    )
    target = setting.rows(n_step_target(mdp, policy, Policy(b), n))
    np.testing.assert_allclose(found.target_part, target - setting.q_true, atol=1e-10)
    np.testing.assert_allclose(found.rest, setting.rows(export["q"]) - target, atol=1e-10)
    np.testing.assert_allclose(found.target_part + found.rest, error, atol=1e-10)
    (follows,) = found.conditions
    assert follows.name == f"{n}-step returns follow the policy"
    assert follows.holds == (n == 1 or abs(target - setting.q_true).max() < 1e-9)


def test_a_critic_that_learned_its_n_step_target_has_no_rest() -> None:
    mdp, policy, _ = random_case(3)
    counts = np.ones(mdp.r.shape)
    export = exact_export(mdp, policy, counts=counts, n_step=3)
    export["q"] = n_step_target(mdp, policy, behaviour_of(counts), 3)
    found = audit_embeddings(export, mdp).returns
    assert found.sizes["rest"].largest < 1e-12 < 1e-3 < found.sizes["n-step part"].largest
