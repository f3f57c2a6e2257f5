r"""Multiplying all rewards by k leaves the learning of value and policy as it is: what exactly holds.

The value target is :math:`y = (G + D\, c' \min Q') / c`, with c the mean absolute reward in the buffer at
the start of this period and c' the c of the period before; in the first period c' is 1.

1. From the second period on, k multiplies G, c and c' alike and cancels: y, TD errors, priorities, value
   gradients and policy updates do not know k, if the networks and priorities are the same at its start.
2. In the first period c' is 1 for every k: y has D min Q' / (k c) in it, and k does not cancel. It does if
   the target values are zero then, as with value heads whose last layer starts at zero: targets are
   copied before the first update and rest for the whole period.
3. The encoder learns rewards as two-hot vectors on fixed bins, which do know k: with ``reward_coeff`` 0 the
   encoder is the same for every k; otherwise it is not, and neither is what is learned on top of it.
4. c is at least 1e-8: mean absolute rewards below that are not scaled up.

For powers of two every product and quotient is exact, so all of it holds bit for bit, in float32. For
another k each of r k, c k, G, y is rounded, in float64 by u = 2^-53: y is off by some 8 u of itself, and a
parameter, which moves by less than 1e-2, by 8 u as well if cancellation in its gradient costs a factor of
100. 32 u is allowed (measured: 4 u).
"""

from __future__ import annotations

import copy
import functools
import itertools
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.data import Bounded, OneHot, TensorSpec, Unbounded

from uld_torchrl import make_loss, make_networks
from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig, OptimConfig
from uld_torchrl.data import WindowReplayBuffer, make_replay_buffer
from uld_torchrl.trainers import ULDOptimizationStepper

PERIOD, PERIODS = 3, 3
SPECS = {"box": Bounded(-1, 1, (2,)), "one-hot": OneHot(3)}
SCALES = ("reward_scale", "target_reward_scale")
TOLERANCE = 32 * 2.0**-53

both_actions = pytest.mark.parametrize("kind", SPECS)
both_schedules = pytest.mark.parametrize("schedule", ["periodic", "every_step"])


class Learner:
    """A stepper whose buffer holds the same steps for every k but for rewards k times as large."""

    def __init__(
        self,
        k: float,
        schedule: str,
        spec: TensorSpec,
        *,
        dtype: torch.dtype = torch.float32,
        zero_heads: bool = True,
        reward_coeff: float = 0.0,
    ) -> None:
        torch.manual_seed(0)
        config = AgentConfig(
            model=ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=8, hidden_dim=8, num_bins=9),
            loss=LossConfig(horizon=3, n_steps=2, reward_coeff=reward_coeff),
            optim=OptimConfig(batch_size=6, period=PERIOD, schedule=schedule),
        )
        self.loss = make_loss(make_networks(Unbounded(4), spec, config.model), spec, config).to(dtype)
        if zero_heads:
            self.loss.qvalue_network_params["module", "out", "weight"].data.zero_()
        self.buffer = make_replay_buffer(capacity=100, horizon=3, batch_size=6)
        self.buffer.extend(self._steps(k, spec, dtype))
        self.stepper = ULDOptimizationStepper(self.loss, self.buffer, config.optim)

    @staticmethod
    def _steps(k: float, spec: TensorSpec, dtype: torch.dtype) -> TensorDict:
        ended = torch.zeros(1, 40, 1, dtype=torch.bool)
        ended[0, [12, 30]] = True
        rewards = torch.randn(1, 40, 1, dtype=dtype) + 0.5
        return TensorDict(
            {
                "observation": torch.randn(1, 40, 4, dtype=dtype),
                "action": spec.rand((1, 40)).to(dtype),
                "next": {
                    "observation": torch.randn(1, 40, 4, dtype=dtype),
                    "reward": k * rewards,
                    "terminated": ended,
                    "truncated": torch.zeros_like(ended),
                    "done": ended.clone(),
                },
            },
            batch_size=[1, 40],
        )

    def update(self, seed: int) -> dict[str, Any]:
        """Do one update from these random numbers; return what must not depend on k."""
        torch.manual_seed(seed)
        batch = self.buffer.sample()
        metrics = self.stepper.step(None, batch)
        values = self.stepper.value_optimizer.param_groups[0]["params"]
        networks = {name: value for name, value in self.loss.state_dict().items() if name not in SCALES}
        return {
            "anchors": batch["anchor_index"],
            "td_error": metrics["td_error_mean"],
            "value_loss": metrics["loss_qvalue"],
            "policy_loss": metrics["loss_actor"],
            "priorities": self.buffer.state_dict()["priorities"],
            "value_gradients": [parameter.grad.clone() for parameter in values],
            "networks": {name: value.clone() for name, value in networks.items()},
            # y itself, from its mean in reward units.
            "target": metrics["target_value"] / metrics["reward_scale"],
        }

    def take(self, other: Learner) -> None:
        """Take all of another learner's state but the reward scales and the rewards."""
        state = {**other.loss.state_dict(), **{name: getattr(self.loss, name) for name in SCALES}}
        self.loss.load_state_dict({name: value.clone() for name, value in state.items()})
        # Optimisers keep the tensors they load.
        self.stepper.load_state_dict(copy.deepcopy(other.stepper.state_dict()))
        _copy_priorities(self.buffer, other.buffer)

    def scale(self) -> torch.Tensor:
        return self.buffer.mean_abs_reward()

    def freeze_scale(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(self.loss, "update_reward_scale_", lambda mean_abs_reward: None)


def _copy_priorities(to: WindowReplayBuffer, source: WindowReplayBuffer) -> None:
    records, state = to.state_dict()["records"], source.state_dict()
    to.load_state_dict({**state, "records": records})


def _policy(result: dict[str, Any]) -> torch.Tensor:
    weights = [v for name, v in result["networks"].items() if name.startswith("actor_network_params")]
    return torch.cat([weight.flatten() for weight in weights])


def _run(learner: Learner, updates: int, first: int = 0) -> list[dict[str, Any]]:
    return [learner.update(seed) for seed in range(first, first + updates)]


@functools.cache
def _unscaled(schedule: str, kind: str, dtype: torch.dtype) -> list[dict[str, Any]]:
    """All updates with k = 1 and values that start at zero."""
    results = _run(Learner(1.0, schedule, SPECS[kind], dtype=dtype), PERIODS * PERIOD)
    moved = [not torch.equal(_policy(a), _policy(b)) for a, b in itertools.pairwise(results)]
    assert all(moved)  # there are updates to compare
    return results


def _agree(results: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float) -> None:
    for update, pair in enumerate(zip(results, expected, strict=True)):
        torch.testing.assert_close(*pair, rtol=tolerance, atol=tolerance, msg=f"update {update + 1}")


@both_actions
@both_schedules
@settings(max_examples=4)
@given(power=st.integers(-12, 12).filter(bool))
def test_powers_of_two_change_nothing_bit_for_bit_if_values_start_at_zero(
    schedule: str, kind: str, power: int
) -> None:
    learner = Learner(2.0**power, schedule, SPECS[kind])
    results = _run(learner, PERIODS * PERIOD)
    _agree(results, _unscaled(schedule, kind, torch.float32), 0.0)
    assert torch.equal(learner.loss.reward_scale, Learner(1.0, schedule, SPECS[kind]).scale() * 2.0**power)


@both_actions
@both_schedules
@settings(max_examples=3)
@given(k=st.floats(1e-3, 1e3))
@example(1e-3)
@example(1e3)
def test_any_factor_changes_nothing_but_roundings_if_values_start_at_zero(
    schedule: str, kind: str, k: float
) -> None:
    results = _run(Learner(k, schedule, SPECS[kind], dtype=torch.float64), PERIODS * PERIOD)
    _agree(results, _unscaled(schedule, kind, torch.float64), TOLERANCE)


@both_actions
@both_schedules
@pytest.mark.parametrize("k", [2.0**-10, 2.0**10])
def test_from_the_second_period_on_it_holds_for_any_networks(schedule: str, kind: str, k: float) -> None:
    one, other = (Learner(factor, schedule, SPECS[kind], zero_heads=False) for factor in (1.0, k))
    first = [_run(learner, PERIOD)[-1] for learner in (one, other)]
    # In the first period it does not: there is D min Q' / (k c) in y.
    assert not torch.allclose(first[0]["target"], first[1]["target"], rtol=1e-2)
    assert not torch.allclose(_policy(first[0]), _policy(first[1]), rtol=1e-3, atol=0)
    other.take(one)
    rest = [_run(learner, (PERIODS - 1) * PERIOD, first=PERIOD) for learner in (one, other)]
    _agree(*rest, 0.0)
    assert not torch.equal(_policy(rest[0][0]), _policy(rest[0][-1]))
    assert torch.equal(other.loss.target_reward_scale, one.loss.target_reward_scale * k)


# Where it does not hold


@both_actions
@pytest.mark.parametrize("k", [1e-3, 1e3])
def test_without_the_scale_policy_updates_depend_on_k(
    kind: str, k: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    learners = [Learner(factor, "periodic", SPECS[kind], dtype=torch.float64) for factor in (1.0, k)]
    for learner in learners:
        learner.freeze_scale(monkeypatch)
    results = [_run(learner, 2 * PERIOD)[-1] for learner in learners]
    # AdamW's steps do not know the size of a gradient either; of their direction a part is left.
    assert (_policy(results[0]) - _policy(results[1])).abs().max() > 1e-4
    assert not torch.allclose(results[0]["td_error"], results[1]["td_error"], rtol=0.5)


def test_the_reward_loss_of_the_encoder_depends_on_k() -> None:
    learners = [Learner(k, "periodic", SPECS["box"], reward_coeff=0.1) for k in (1.0, 1024.0)]
    one, other = (learner.update(0)["networks"] for learner in learners)
    name = "state_encoder_params.module.mlp.l1.weight"
    assert (one[name] - other[name]).abs().max() > 1e-5


def test_rewards_below_1e_8_are_not_scaled_up() -> None:
    learners = [Learner(2.0**power, "periodic", SPECS["box"]) for power in (0, -40)]
    one, other = (learner.update(0) for learner in learners)
    assert learners[1].loss.reward_scale == torch.tensor(1e-8)
    # Mean |r| is near 1: y is 2^-40 / 1e-8 = 9e-5 of the other.
    ratio = (other["target"] / one["target"]).item()
    expected = 2.0**-40 / 1e-8 * learners[0].loss.reward_scale.item()
    assert ratio == pytest.approx(expected, rel=1e-5)
