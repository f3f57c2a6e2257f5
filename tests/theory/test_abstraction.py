"""Theorem 3: conditions and conclusions for given labels; merging is in ``test_aggregate``."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import Features, InputError, Policy, Problem, TabularMDP, Weights, certified_q, optimal
from theory.abstraction import check_abstraction
from theory.aggregate import aggregate_model
from theory.bisimulation import coarsest_bisimulation, coarsest_pair_labels
from theory.labels import spread
from theory.value_error import value_error

PAIR = "pair label is a function of state label and action"
REWARD, TRANSITION = "equal rewards", "equal transitions"
POLICY = "policy is a function of the state label"
Q_POLICY, Q_BEST = "Q of the policy is a function of the pair label", "Q* is a function of the pair label"
BEST = "some optimal policy is a function of the state label"

seeds = st.integers(0, 10_000)
few = settings(max_examples=40)


class Lumped:
    """A random MDP of three classes of two or three states each and an end, made from a class-level model.

    The pairs (class 0, action 1) and (class 1, action 0) share a label. States are shuffled.
    """

    def __init__(self, seed: int, *, gamma: float = 0.9) -> None:
        rng = np.random.default_rng(seed)
        sizes = rng.integers(2, 4, size=3)
        self.states = rng.permutation(np.append(np.repeat(np.arange(3), sizes), 3))
        S = len(self.states)
        self.label = np.array([[0, 1], [1, 2], [3, 4], [5, 5]])
        p, r = rng.dirichlet(np.ones(4), 6), rng.normal(size=6)
        self.P, self.r = np.zeros((S, 2, S)), r[self.label[self.states]]
        for s, a, k in itertools.product(range(S), range(2), range(4)):
            members = np.flatnonzero(self.states == k)
            share = rng.dirichlet(np.ones(len(members)))
            self.P[s, a, members] = p[self.label[self.states[s], a], k] * share
        self.gamma, self.rng = gamma, rng
        self.pairs = self.label[self.states]
        self.policy = Policy(rng.dirichlet(np.ones(2), 4)[self.states])

    @property
    def mdp(self) -> TabularMDP:
        return TabularMDP.from_dense(self.P, self.r, self.gamma, terminal=self.states == 3)


def holds(report) -> dict[str, bool | None]:
    return {condition.name: condition.holds for condition in report.conditions}


@given(seeds)
@few
def test_lumped_mdps_pass_and_values_are_functions_of_the_label(seed):
    case = Lumped(seed)
    report = check_abstraction(case.mdp, case.states, case.pairs, case.policy)
    assert report.verdict == "pass", report.to_markdown()
    assert all(
        report.condition(name).holds for name in (PAIR, REWARD, TRANSITION, POLICY, Q_POLICY, Q_BEST, BEST)
    )
    live = case.states != 3
    codes = case.pairs[live].reshape(-1)
    for q in (certified_q(case.mdp, case.policy).value, optimal(case.mdp).q):
        assert spread(q[live].reshape(-1), codes) < 1e-11
    assert report.data["merged_identity_residual"] <= report.data["merged_identity_tolerance"] < 1e-9


@given(seeds)
@few
def test_a_policy_that_sees_more_than_the_label_fails(seed):
    case = Lumped(seed)
    policy = Policy(case.rng.dirichlet(np.ones(2), len(case.states)))
    report = check_abstraction(case.mdp, case.states, case.pairs, policy)
    assert report.verdict == "fail"
    assert not report.condition(POLICY).holds
    assert report.condition(REWARD).holds and report.condition(TRANSITION).holds
    assert report.condition(Q_BEST).holds and report.condition(BEST).holds
    assert not report.condition(Q_POLICY).holds


@given(seeds)
@few
def test_unequal_rewards_fail(seed):
    case = Lumped(seed)
    case.r = case.r.copy()
    state = int(np.flatnonzero(case.states == 0)[0])
    case.r[state, 0] += 1e-6
    report = check_abstraction(case.mdp, case.states, case.pairs, case.policy)
    assert report.verdict == "fail"
    assert not report.condition(REWARD).holds and report.condition(TRANSITION).holds
    assert not report.condition(Q_POLICY).holds
    size = int((case.states == 0).sum())
    assert report.residual == pytest.approx(1e-6 * (size - 1) / size, rel=1e-6)


@given(seeds)
@few
def test_unequal_transitions_fail(seed):
    case = Lumped(seed)
    first, second = np.flatnonzero(case.states == 0)[0], np.flatnonzero(case.states == 2)[0]
    case.P[first, 0] = 0.9 * case.P[first, 0] + 0.1 * np.eye(len(case.P))[second]
    report = check_abstraction(case.mdp, case.states, case.pairs, case.policy)
    assert report.verdict == "fail"
    assert report.condition(REWARD).holds and not report.condition(TRANSITION).holds
    assert f"state {first}, action 0" in report.condition(TRANSITION).why or (case.states == 0).sum() == 2


@given(seeds)
@few
def test_a_pair_label_that_sees_the_state_fails(seed):
    case = Lumped(seed)
    pairs = case.pairs.copy()
    pairs[np.flatnonzero(case.states == 2)[0], 0] = 9
    report = check_abstraction(case.mdp, case.states, pairs, case.policy)
    assert report.verdict == "fail"
    assert [name for name, held in holds(report).items() if not held] == [PAIR]


@given(seeds)
@few
def test_terminal_states_are_a_class_of_their_own_whatever_their_label(seed):
    case = Lumped(seed)
    wrong = np.where(case.states == 3, 0, case.states)
    assert check_abstraction(case.mdp, wrong, case.pairs, case.policy).verdict == "pass"


def two_ways() -> TabularMDP:
    """Return C05: action 0 leads to where the actions pay (1, 0); action 1 to where both pay, or none.

    States: 0 the choice, 1 pays (1, 0), 2 pays (1, 1), 3 pays (0, 0), 4 the end.
    """
    P = np.zeros((5, 2, 5))
    P[0, 0, 1] = 1.0
    P[0, 1, [2, 3]] = 0.5
    P[1:, :, 4] = 1.0
    r = [[0, 0], [1, 0], [1, 1], [0, 0], [0, 0]]
    return TabularMDP.from_dense(P, r, 0.9, terminal=np.arange(5) == 4)


def test_equal_mean_embeddings_are_not_enough_for_control():
    """C05: both residuals vanish for the uniform policy, yet Q* differs by .45 inside a class."""
    mdp, pairs = two_ways(), np.array([[0, 0], [1, 2], [1, 1], [2, 2], [3, 3]])
    uniform = Policy.uniform(mdp)
    problem = Problem(mdp, uniform, Features.aggregate(pairs), Weights.uniform(mdp))
    split = value_error(problem)
    assert abs(split.error).max() < 1e-14
    model = aggregate_model(problem, pairs)
    assert abs(model.eps_r).max() == abs(model.eps_p).max() == 0.0
    report = check_abstraction(mdp, range(5), pairs, uniform)
    assert report.verdict == "fail"
    assert not report.condition(TRANSITION).holds and report.condition(REWARD).holds
    assert report.condition(Q_POLICY).holds, "the conditions are sufficient, not necessary"
    assert report.condition(Q_BEST).value == pytest.approx(0.45)
    assert not report.condition(Q_BEST).holds


def tied() -> TabularMDP:
    """Return two identical states in which both actions pay 1 and lead to one of the two at random."""
    return TabularMDP.from_dense(np.full((2, 2, 2), 0.5), np.ones((2, 2)), 0.9)


def test_an_optimal_policy_need_not_be_a_function_of_the_label():
    """C03: ties. The given policy is optimal and tells equal states apart; another optimal one does not."""
    policy = Policy.from_actions([0, 1])
    report = check_abstraction(tied(), [0, 0], [[0, 1], [0, 1]], policy)
    assert not report.condition(POLICY).holds
    assert report.data["loss_of_policy"] == pytest.approx(0.0, abs=1e-12)
    assert report.condition(BEST).holds and report.condition(Q_BEST).holds
    assert report.data["states_with_ties"] == 2
    assert check_abstraction(tied(), [0, 0], [[0, 1], [0, 1]]).verdict == "pass"


def test_no_optimal_policy_may_be_a_function_of_the_label():
    """Two states with one label, each rewarding another action: whatever is done in both costs 1."""
    mdp = TabularMDP.from_dense(np.full((2, 2, 2), 0.5), [[1, 0], [0, 1]], 0.5)
    report = check_abstraction(mdp, [0, 0], [[0, 1], [0, 1]])
    assert not report.condition(BEST).holds
    assert report.condition(BEST).value == pytest.approx(1.0)


def test_truncated_returns_of_an_optimal_policy_do_not_obey_the_optimality_recursion():
    """C04: 0 against .9 at n = 1; iterated values obey it by definition and stay functions of the label.

    State 0 leads to 1, whose action 0 pays 1 and ends, and action 1 leads to 2, which pays 10.
    """
    P = np.zeros((4, 2, 4))
    P[0, :, 1] = P[1, 0, 3] = P[1, 1, 2] = P[2, :, 3] = P[3, :, 3] = 1.0
    r = np.array([[0.0, 0.0], [1.0, 0.0], [10.0, 10.0], [0.0, 0.0]])
    best = optimal(TabularMDP.from_dense(P, r, 0.9, terminal=np.arange(4) == 3))
    assert best.policy.probs[1].tolist() == [0.0, 1.0]
    truncated = r + 0.9 * P @ (best.policy.probs * r).sum(axis=1)
    claimed = r + 0.9 * P @ r.max(axis=1)
    assert (truncated[0, 0], claimed[0, 0]) == (0.0, 0.9)


@given(seeds)
@few
def test_value_iterates_are_functions_of_the_label(seed):
    """The induction of the proof, repaired: every iterate, not only the limit."""
    case = Lumped(seed)
    mdp, live = case.mdp, case.states != 3
    q = np.zeros_like(case.r)
    for _ in range(12):
        q = mdp.r + case.gamma * mdp.P @ q.max(axis=1)
        assert spread(q[live].reshape(-1), case.pairs[live].reshape(-1)) < 1e-12


@given(seeds, st.floats(1e-4, 0.2))
@few
def test_nearly_lumped_mdps_pass_with_a_tolerance_and_obey_the_bounds(seed, size):
    """C06: error of the merged model below the bound on its residual, below the separated bound."""
    case = Lumped(seed)
    case.r = case.r + size * case.rng.uniform(-1, 1, case.r.shape)
    case.P = (1 - size) * case.P + size * case.rng.dirichlet(np.ones(len(case.P)), (len(case.P), 2))
    assert check_abstraction(case.mdp, case.states, case.pairs, case.policy).verdict == "fail"
    report = check_abstraction(case.mdp, case.states, case.pairs, case.policy, tol=2 * size)
    assert report.verdict == "pass"
    error, bound, loose = (
        report.data[key] for key in ("merged_error", "merged_bound", "merged_hoelder_bound")
    )
    assert 0.0 < error <= bound * (1 + 1e-9) <= loose * (1 + 1e-8)
    assert report.condition(Q_POLICY).value <= 2 * error * (1 + 1e-9)


def test_no_approximate_statement_is_made_about_control_without_discount():
    case = Lumped(0, gamma=1.0)
    assert check_abstraction(case.mdp, case.states, case.pairs, case.policy).verdict == "pass"
    report = check_abstraction(case.mdp, case.states, case.pairs, case.policy, tol=0.1)
    assert report.verdict == "inconclusive"
    assert report.condition(Q_POLICY).holds and report.condition(Q_BEST).holds is None


def test_labels_may_be_words():
    report = check_abstraction(tied(), ["x", "x"], [["go", "go"], ["go", "go"]])
    assert report.verdict == "pass" and report.data["live_pair_classes"] == 1


@pytest.mark.parametrize(
    ("states", "pairs", "tol", "message"),
    [
        ([0], [[0, 1], [0, 1]], 0.0, "state_labels"),
        ([0, 0], [0, 1], 0.0, "pair_labels"),
        ([0, 0], [[0, 1], [0, 1]], -1.0, "tol must be at least 0"),
        ([0, 0], [[0, 1], [0, 1]], "a", "tol must be a number"),
        ([0, 0], [[0, 1], [0, 1]], float("nan"), "tol must be"),
        ([0, [1]], [[0, 1], [0, 1]], 0.0, "state_labels must be an array, every row of the same length"),
        ([0, 0], [[0, 1], [0]], 0.0, "pair_labels must be an array, every row of the same length"),
        ([None, 0], [[0, 1], [0, 1]], 0.0, "state_labels must be of one kind"),
        ([float("nan"), 0], [[0, 1], [0, 1]], 0.0, "state_labels must not be NaN"),
    ],
)
def test_wrong_arguments_are_named(states, pairs, tol, message):
    with pytest.raises(InputError, match=message):
        check_abstraction(tied(), states, pairs, tol=tol)


def test_a_policy_for_other_states_is_refused():
    with pytest.raises(InputError):
        check_abstraction(tied(), [0, 0], [[0, 1], [0, 1]], Policy([[0.5, 0.5]]))


@given(seeds)
@few
def test_the_coarsest_bisimulation_passes_the_check_and_finds_the_lumps(seed):
    case = Lumped(seed)
    labels = coarsest_bisimulation(case.mdp)
    assert len(np.unique(labels)) == 4
    assert len(np.unique(np.column_stack([labels, case.states]), axis=0)) == 4
    pairs = coarsest_pair_labels(case.mdp, labels)
    assert len(np.unique(pairs)) == 6
    assert check_abstraction(case.mdp, labels, pairs, case.policy).verdict == "pass"


def test_one_bad_class_among_good_ones_is_enough():
    """States 2 and 3 need different actions; states 0 and 1 do not mind."""
    mdp = TabularMDP.from_dense(np.full((4, 2, 4), 0.25), [[0, 0], [0, 0], [1, 0], [0, 1]], 0.5)
    report = check_abstraction(mdp, [0, 0, 1, 1], [[0, 0], [0, 0], [1, 2], [1, 2]])
    assert report.condition(BEST).value == pytest.approx(1.0)
    assert not report.condition(BEST).holds


def test_the_loss_of_a_policy_and_the_room_that_a_tolerance_gives():
    """One state paying 1 or 0 for ever at gamma = 1/2: H = 2, values span 2 with the end."""
    mdp = TabularMDP.from_dense(np.ones((1, 2, 1)), [[1.0, 0.0]], 0.5)
    worst = check_abstraction(mdp, [0], [[0, 1]], Policy.from_actions([1], 2))
    assert worst.data["loss_of_policy"] == pytest.approx(2.0)
    best = check_abstraction(mdp, [0], [[0, 1]], Policy.from_actions([0], 2), tol=0.1)
    room = 2 * 2 * (0.1 + 0.5 * 0.1 * 2 / 2)
    assert best.condition(Q_POLICY).threshold == pytest.approx(room)
    assert best.condition(Q_BEST).threshold == best.condition(BEST).threshold == pytest.approx(room)


def all_end(rewards) -> TabularMDP:
    """Return one action a state; every state but the last pays once and ends in the last."""
    S = len(rewards)
    P = np.tile(np.eye(S)[-1], (S, 1)).reshape(S, 1, S)
    return TabularMDP.from_dense(P, np.reshape(rewards, (S, 1)), 0.9, terminal=np.arange(S) == S - 1)


def test_a_large_reward_elsewhere_does_not_make_others_equal():
    report = check_abstraction(all_end([1e15, 1, 2, 0]), [0, 1, 1, 2], [[0], [1], [1], [2]])
    condition = report.condition(REWARD)
    assert condition.holds is False and condition.value == 0.5 and condition.threshold < 1e-13
    assert (report.verdict, report.residual, report.tolerance) == ("fail", 0.5, condition.threshold)
    assert "state 1, action 0" in condition.why or "state 2, action 0" in condition.why


@pytest.mark.parametrize(("factor", "equal"), [(1 + 4e-16, True), (1 + 4e-15, True), (1 + 1e-13, False)])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e15])
def test_rewards_are_equal_up_to_the_rounding_of_their_own_size(size, factor, equal):
    report = check_abstraction(all_end([size, factor * size, 7.0, 0]), [0, 0, 1, 2], [[0], [0], [1], [2]])
    assert report.condition(REWARD).holds is equal


def test_of_two_classes_the_one_beyond_its_own_rounding_is_named():
    """The rewards of class 0 are 1 apart, which is rounding at 1e16; those of class 1 by 1e-3 only."""
    mdp = all_end([1e16, 1e16 + 2.0, 1.0, 1.001, 0])
    report = check_abstraction(mdp, [0, 0, 1, 1, 2], [[0], [0], [1], [1], [2]])
    assert report.residual == pytest.approx(0.0005) and "state 2" in report.condition(REWARD).why


def test_the_end_counts_in_the_distance_of_two_distributions():
    """One state ends with probability one, the other half of the time: each is 1/4 + 1/4 from the mean."""
    P = [[[0, 0, 1]], [[0.5, 0, 0.5]], [[0, 0, 1]]]
    mdp = TabularMDP.from_dense(P, [[1], [1], [0]], 0.9, terminal=[False, False, True])
    assert check_abstraction(mdp, [0, 0, 1], [[0], [0], [1]]).condition(TRANSITION).value == 0.5


@pytest.mark.parametrize(("step", "equal"), [(1e-14, True), (1e-12, False)])
def test_probabilities_are_equal_up_to_the_rounding_of_one(step, equal):
    P = np.array([[[0.5, 0.5, 0]], [[0.5 - step, 0.5, step]], [[0, 0, 1]]])
    mdp = TabularMDP.from_dense(P, np.ones((3, 1)), 0.9)
    assert check_abstraction(mdp, [0, 0, 1], [[0], [0], [1]]).condition(TRANSITION).holds is equal
    policy = Policy([[0.5, 0.5], [0.5 - step, 0.5 + step]])
    assert check_abstraction(tied(), [0, 0], [[0, 1], [0, 1]], policy).condition(POLICY).holds is equal


def zero_sum_cycles(rewards) -> TabularMDP:
    """Return two cycles of two states at gamma = 1, action 1 ends: no bound on optimal values is proved."""
    P = np.zeros((5, 2, 5))
    P[0, 0, 1] = P[1, 0, 0] = P[2, 0, 3] = P[3, 0, 2] = P[4, 0, 4] = 1.0
    P[:, 1, 4] = 1.0
    return TabularMDP.from_dense(P, [*rewards, [0, 0]], 1.0, terminal=np.arange(5) == 4)


CYCLES = ([0, 1, 0, 1, 2], [[0, 1], [2, 3], [0, 1], [2, 3], [4, 4]])


def test_nothing_is_claimed_of_optimal_values_without_a_proved_bound():
    report = check_abstraction(zero_sum_cycles([[1, 5], [-1, 4], [1, 5], [-1, 4]]), *CYCLES)
    assert report.verdict == "inconclusive"
    assert [name for name, held in holds(report).items() if held is None] == [Q_BEST, BEST]
    assert report.condition(Q_BEST).threshold == np.inf
    assert report.data["states_with_ties"] is None


def test_a_condition_that_fails_is_a_failure_with_or_without_a_bound():
    report = check_abstraction(zero_sum_cycles([[1, 5], [-1, 4], [1, 7], [-1, 6]]), *CYCLES)
    assert report.verdict == "fail"
    assert not report.condition(REWARD).holds and report.condition(Q_BEST).holds is None


def test_classes_are_counted_among_live_states_and_pairs():
    case = Lumped(3)
    data = check_abstraction(case.mdp, case.states, case.pairs).data
    assert (data["live_state_classes"], data["live_pair_classes"], len(data["class_actions"])) == (3, 5, 3)


def test_a_faint_chance_to_end_without_discount_is_a_chance_to_end():
    P = [[[1.0 - 1e-13, 1e-13]], [[0, 1]]]
    mdp = TabularMDP.from_dense(P, [[1], [0]], 1.0, terminal=[False, True])
    report = check_abstraction(mdp, [0, 1], [[0], [1]], Policy.uniform(mdp))
    assert report.verdict == "pass" and report.data["merged_error"] < 1e13
