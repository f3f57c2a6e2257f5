"""``ULDLoss`` under the base class of TorchRL's own loss tests, written as TorchRL writes its own.

The base class is in TorchRL's repository, not in its wheel: ``TORCHRL_SRC`` names a checkout of it (of
the version installed), without which this file is skipped. The base has no tests of its own: it
lends checks, and refuses a class without ``test_reset_parameters_recursive``. Not used:
``set_advantage_keys_through_loss_test``, for there is no value estimator here (the return is the
loss's own). State, reductions and weights, for which the base has nothing, are in ``test_contract``.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tensordict import TensorDict, assert_allclose_td
from torchrl.data import Bounded, OneHot

from uld_torchrl import PeriodicHardUpdate, ULDLoss

# The base's one fixture is class-scoped and an instance method, which pytest 9 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*Class-scoped fixtures? defined as instance method")

SPECS = {"box": Bounded(-1, 1, (2,)), "one-hot": OneHot(2)}


def _torchrl_tests() -> ModuleType | None:
    root = os.environ.get("TORCHRL_SRC")
    if not root:
        return None
    path = Path(root) / "test" / "objectives" / "_objectives_common.py"
    if not path.is_file():
        raise FileNotFoundError(f"TORCHRL_SRC={root} is no checkout of TorchRL's repository: no {path}.")
    spec = importlib.util.spec_from_file_location("torchrl_objectives_common", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMMON = _torchrl_tests()
BASE: Any = object if COMMON is None else COMMON.LossModuleTestBase


@pytest.mark.skipif(COMMON is None, reason="TORCHRL_SRC names no checkout of TorchRL's repository")
class TestULD(BASE):
    seed = 0

    def test_reset_parameters_recursive(self, tools: Any) -> None:
        self.reset_parameters_recursive_test(tools.real_loss())

    def test_tensordict_keys(self, tools: Any) -> None:
        self.tensordict_keys_test(tools.real_loss(), default_keys=asdict(ULDLoss.default_keys()))

    @pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
    def test_losses_are_independent(self, tools: Any, spec: Any) -> None:
        loss, td = tools.real_loss(spec, updater=False), tools.random_window(spec=spec)
        with COMMON._check_td_steady(td), pytest.warns(UserWarning, match="No target network updater"):
            out = loss(td)
        PeriodicHardUpdate(loss)
        own = {
            "loss_encoder": ("state_encoder_params", "state_action_encoder_params", "predictor_params"),
            "loss_qvalue": ("qvalue_network_params",),
            "loss_actor": ("actor_network_params",),
        }
        for name in own:
            out[name].backward(retain_graph=True)
            for key, parameter in loss.named_parameters():
                reached = parameter.grad is not None and parameter.grad.any()
                assert reached == key.startswith(own[name]), (name, key)
            loss.zero_grad()
        sum(value for name, value in out.items() if name.startswith("loss_")).backward()
        assert all(parameter.grad.norm() > 0.0 for parameter in loss.parameters())

    def test_updates_do_not_reach_the_targets(self, tools: Any) -> None:
        loss = tools.real_loss()
        names = [name for name, _ in loss.named_children() if name.startswith("target_")]
        before = {name: getattr(loss, name).clone() for name in names}
        for parameter in loss.parameters():
            parameter.data += torch.randn_like(parameter)
        for name in names:
            assert (getattr(loss, name) == before[name]).all()
        PeriodicHardUpdate(loss, period=1).step()
        for name in names:
            assert not (getattr(loss, name) == before[name]).any()

    @pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
    def test_deactivate_vmap(self, tools: Any, spec: Any) -> None:
        outs = []
        for deactivate in (False, True):
            loss, td = tools.real_loss(spec, deactivate_vmap=deactivate), tools.random_window(spec=spec)
            torch.manual_seed(1)
            with COMMON._check_td_steady(td):
                outs.append(loss(td))
        assert_allclose_td(*outs)

    @pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
    def test_notensordict(self, tools: Any, spec: Any) -> None:
        loss, td = tools.real_loss(spec), tools.random_window(spec=spec)
        kwargs = dict(zip(self._flatten_in_keys(loss.in_keys), map(td.get, loss.in_keys), strict=True))
        torch.manual_seed(self.seed)
        by_td = loss(TensorDict(kwargs, td.batch_size).unflatten_keys("_"))
        torch.manual_seed(self.seed)
        by_kwargs = loss(**kwargs)
        for name, value in zip(loss.out_keys, by_kwargs, strict=True):
            torch.testing.assert_close(by_td.get(name), value)
        loss.select_out_keys("loss_actor", "target_value")
        torch.manual_seed(self.seed)
        loss_actor, target_value = loss(**kwargs)
        assert loss_actor == by_td["loss_actor"]
        assert target_value == by_td["target_value"]
