"""The five networks of a loss, functional and with targets, and how each of them is called.

:class:`LatentNetworks` holds parameters and keys; the losses made of them are in ``uld``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives.common import LossModule
from torchrl.objectives.utils import _vmap_func

from uld_torchrl.config_loss import DynamicsTargetName
from uld_torchrl.errors import InputError, flag, nearest, one_of
from uld_torchrl.modules.rollout import LatentRollout, next_key
from uld_torchrl.objectives.checks import (
    call_network,
    check_keys,
    check_module,
    check_output,
    check_resettable,
    td_entries,
)

NETWORKS = ("state_encoder", "state_action_encoder", "predictor", "actor_network", "qvalue_network")
"""Attribute names of the networks; their parameters are at ``<name>_params``."""


class LatentNetworks(LossModule):
    """Base of :class:`~uld_torchrl.ULDLoss`: f, g, m, the policy and the value heads as functions.

    All have target parameters but the predictor m. The arguments are those of the loss.
    """

    @dataclass
    class _AcceptedKeys:
        """TensorDict keys that :meth:`set_keys` can change.

        ``reward``, ``terminated``, ``truncated`` and ``done`` are read below ``"next"``;
        ``priority`` is written. The networks' own keys must agree with the embeddings' keys.
        """

        action: NestedKey = "action"
        reward: NestedKey = "reward"
        terminated: NestedKey = "terminated"
        truncated: NestedKey = "truncated"
        done: NestedKey = "done"
        validity_mask: NestedKey = "validity_mask"
        state_embedding: NestedKey = "state_embedding"
        state_action_embedding: NestedKey = "state_action_embedding"
        reward_logits: NestedKey = "reward_logits"
        terminated_pred: NestedKey = "terminated_pred"
        pre_activation: NestedKey = "pre_activation"
        state_action_value: NestedKey = "state_action_value"
        priority: NestedKey = "td_error"
        priority_weight: NestedKey = "priority_weight"

    tensor_keys: _AcceptedKeys
    default_keys = _AcceptedKeys

    state_encoder: TensorDictModuleBase
    state_action_encoder: TensorDictModuleBase
    predictor: TensorDictModuleBase
    actor_network: TensorDictModuleBase
    qvalue_network: TensorDictModuleBase
    state_encoder_params: TensorDictParams
    state_action_encoder_params: TensorDictParams
    predictor_params: TensorDictParams
    actor_network_params: TensorDictParams
    qvalue_network_params: TensorDictParams
    target_state_encoder_params: TensorDictParams
    target_state_action_encoder_params: TensorDictParams
    target_predictor_params: TensorDictParams
    target_actor_network_params: TensorDictParams
    target_qvalue_network_params: TensorDictParams

    def __init__(
        self,
        state_encoder: TensorDictModuleBase,
        state_action_encoder: TensorDictModuleBase,
        predictor: TensorDictModuleBase,
        actor_network: TensorDictModuleBase,
        qvalue_network: TensorDictModuleBase | list[TensorDictModuleBase],
        *,
        action_size: int,
        num_qvalue_nets: int,
        deactivate_vmap: bool,
        dynamics_target: DynamicsTargetName,
        target_encoder: bool,
        freeze_encoder: bool,
    ) -> None:
        super().__init__()
        self._in_keys: list[NestedKey] | None = None
        self.deactivate_vmap, self.action_size = deactivate_vmap, action_size
        self.dynamics_target = one_of("dynamics_target", dynamics_target, ("state", "state_action"))
        self.target_encoder = flag("target_encoder", target_encoder)
        self.freeze_encoder = flag("freeze_encoder", freeze_encoder)
        values = qvalue_network if isinstance(qvalue_network, list) else [qvalue_network]
        heads = len(values) if isinstance(qvalue_network, list) else num_qvalue_nets
        if heads < 1:
            raise InputError(f"qvalue_network needs at least one value head, got {heads}.")
        networks = (state_encoder, state_action_encoder, predictor, actor_network)
        for name, network in [*zip(NETWORKS, networks, strict=False), *((NETWORKS[-1], q) for q in values)]:
            check_module(name, network)
        self.num_qvalue_nets = heads
        self.convert_to_functional(state_encoder, "state_encoder", create_target_params=True)
        self.convert_to_functional(state_action_encoder, "state_action_encoder", create_target_params=True)
        self.convert_to_functional(predictor, "predictor")
        self.convert_to_functional(actor_network, "actor_network", create_target_params=True)
        self._convert_values(qvalue_network, heads)
        self._make_vmap()
        self._make_rollout()

    def _convert_values(
        self, qvalue_network: TensorDictModuleBase | list[TensorDictModuleBase], heads: int
    ) -> None:
        name = "qvalue_network"
        if not (isinstance(qvalue_network, list) and heads == 1):
            self.convert_to_functional(qvalue_network, name, heads, create_target_params=True)
            return
        # A list of one would be stacked to a view, which no optimiser finds; a bare module is drawn anew.
        self.convert_to_functional(qvalue_network[0], name, heads, create_target_params=True)
        given = TensorDict.from_module(qvalue_network[0]).data.unsqueeze(0)
        for params in (self._modules[f"{name}_params"], self._modules[f"target_{name}_params"]):
            params.data.update_(given)

    def _make_vmap(self) -> None:
        self._vmap_qvalue = _vmap_func(
            self.qvalue_network,
            (None, 0),
            randomness=self.vmap_randomness,
            pseudo_vmap=self.deactivate_vmap,
        )

    def _make_rollout(self) -> None:
        keys = self.tensor_keys
        # In __dict__, like the functional networks: its parameters are already this module's.
        self.__dict__["_latent_rollout"] = LatentRollout(
            self.state_action_encoder,
            self.predictor,
            state_key=keys.state_embedding,
            action_key=keys.action,
            terminated_key=keys.terminated_pred,
            predicted_key=self.predicted_key,
            logits_key=keys.reward_logits,
        )

    @property
    def predicted_key(self) -> NestedKey:
        """Where m writes what it predicts of the next step: z_s', or z_s'a'."""
        keys = self.tensor_keys
        of_pairs = self.dynamics_target == "state_action"
        return next_key(keys.state_action_embedding if of_pairs else keys.state_embedding)

    @property
    def _learned_encoders(self) -> tuple[TensorDictParams, TensorDictParams]:
        """Parameters of f and g in the encoder's loss, without gradient if they are frozen."""
        f, g = self.state_encoder_params, self.state_action_encoder_params
        return (f.data, g.data) if self.freeze_encoder else (f, g)

    @property
    def _target_encoders(self) -> tuple[TensorDictParams, TensorDictParams]:
        """Parameters of f' and g': the targets, or without target encoders the online ones."""
        if self.target_encoder:
            return self.target_state_encoder_params, self.target_state_action_encoder_params
        return self.state_encoder_params.data, self.state_action_encoder_params.data

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Bind a copy's ``vmap`` to the copy's network; functions are not copied."""
        super().__setstate__(state)
        self._make_vmap()

    def set_keys(self, **kwargs: NestedKey | None) -> None:
        """Rename entries; None gives the default name back.

        Raises:
            InputError: there is no such entry, or the new name is no key.
        """
        accepted = [field.name for field in fields(self._AcceptedKeys)]
        for name, key in kwargs.items():
            if name not in accepted:
                meant = nearest(name, accepted, 1)
                hint = f" Did you mean {meant[0]}?" if meant else ""
                raise InputError(
                    f"{name} is not an accepted tensordict key.{hint} Accepted: {', '.join(accepted)}."
                )
            parts = key if isinstance(key, tuple) and key else (key,)
            if key is not None and not all(isinstance(part, str) for part in parts):
                raise InputError(f"the key for {name} must be a string or a tuple of strings, got {key!r}.")
        super().set_keys(**kwargs)

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        self._in_keys = None
        self._make_rollout()

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that the losses need: those of f now and next, action, reward, terminated."""
        if self._in_keys is None:
            keys = self.tensor_keys
            observed = list(self.state_encoder.in_keys)
            self._in_keys = [
                *observed,
                *(next_key(key) for key in observed),
                keys.action,
                next_key(keys.reward),
                next_key(keys.terminated),
            ]
        return self._in_keys

    @in_keys.setter
    def in_keys(self, values: list[NestedKey]) -> None:
        self._in_keys = values

    def reset_parameters_recursive(self) -> None:
        """Draw all networks anew in place, and copy them to the targets.

        Raises:
            InputError: a module with parameters has no ``reset_parameters``.
        """
        for name in NETWORKS:
            check_resettable(name, getattr(self, name))
        for name in NETWORKS:
            network = getattr(self, name)
            with getattr(self, f"{name}_params").to_module(network, preserve_module_state=False):
                network.reset_parameters_recursive()
            target = self._modules.get(f"target_{name}_params")
            if target is not None:
                target.data.update_(getattr(self, f"{name}_params").data)

    def _check_keys(self) -> None:
        networks = {name: getattr(self, name) for name in NETWORKS}
        check_keys(networks, self.tensor_keys, self.predicted_key)

    def _output(self, name: str, key: NestedKey, value: Tensor | None, shape: Sequence[int | None]) -> Tensor:
        """Return what a network wrote, of this shape; autocast's type ends here, losses are of our own."""
        checked = check_output(name, key, value, shape)
        if torch.is_autocast_enabled(checked.device.type):
            return checked.to(next(self.parameters()).dtype)
        return checked

    def _run(self, name: str, params: TensorDictParams, td: TensorDictBase) -> TensorDictBase:
        network = getattr(self, name)

        def call() -> TensorDictBase:
            with params.to_module(network, preserve_module_state=False):
                return network(td)

        return call_network(name, td_entries(td, network.in_keys), call)

    def _encode(self, td: TensorDictBase, params: TensorDictParams) -> Tensor:
        key, name = self.tensor_keys.state_embedding, "state_encoder"
        z_s = self._run(name, params, td.select(*self.state_encoder.in_keys)).get(key, None)
        return self._output(name, key, z_s, (*td.batch_size, None))

    def _join(self, z_s: Tensor, action: Tensor, params: TensorDictParams) -> Tensor:
        keys, name = self.tensor_keys, "state_action_encoder"
        td = TensorDict(batch_size=z_s.shape[:-1], device=z_s.device)
        td.set(keys.state_embedding, z_s).set(keys.action, action)
        z_sa = self._run(name, params, td).get(keys.state_action_embedding, None)
        return self._output(name, keys.state_action_embedding, z_sa, (*td.batch_size, None))

    def _act(self, z_s: Tensor, params: TensorDictParams) -> tuple[Tensor, Tensor]:
        keys, name = self.tensor_keys, "actor_network"
        td = TensorDict(batch_size=z_s.shape[:-1], device=z_s.device).set(keys.state_embedding, z_s)
        td = self._run(name, params, td)
        action, pre = td.get(keys.action, None), td.get(keys.pre_activation, None)
        return (
            self._output(name, keys.action, action, (*td.batch_size, self.action_size)),
            self._output(name, keys.pre_activation, pre, (*td.batch_size, None)),
        )

    def _values(self, z_sa: Tensor, params: TensorDictParams) -> Tensor:
        """Return the values (num_qvalue_nets, B)."""
        keys, name = self.tensor_keys, "qvalue_network"
        td = TensorDict(batch_size=z_sa.shape[:-1], device=z_sa.device)
        td.set(keys.state_action_embedding, z_sa)
        given = {keys.state_action_embedding: z_sa}
        q = call_network(name, given, lambda: self._vmap_qvalue(td, params)).get(keys.state_action_value)
        return self._output(
            name, keys.state_action_value, q, (self.num_qvalue_nets, *td.batch_size, 1)
        ).squeeze(-1)

    def _predict(
        self, z_s: Tensor, actions: Tensor, g_params: TensorDictParams, width: int, num_outputs: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run g and m over the actions (B, H, A), from z_0 (B, .) on their own predictions, or from each z_t.

        Returns:
            Termination (B, H), next embedding (B, H, width), reward (B, H, num_outputs).
        """
        keys, g, m = self.tensor_keys, self.state_action_encoder, self.predictor
        run = self._latent_rollout if z_s.ndim < actions.ndim else self._latent_rollout.predict

        def call() -> tuple[Tensor, Tensor, Tensor]:
            with (
                g_params.to_module(g, preserve_module_state=False),
                self.predictor_params.to_module(m, preserve_module_state=False),
            ):
                return run(z_s, actions)

        given = {keys.state_embedding: z_s, keys.action: actions}
        d, z_next, logits = call_network("state_action_encoder or predictor", given, call)
        steps = tuple(actions.shape[:2])
        return (
            self._output("predictor", keys.terminated_pred, d, steps),
            self._output("predictor", self.predicted_key, z_next, (*steps, width)),
            self._output("predictor", keys.reward_logits, logits, (*steps, num_outputs)),
        )

    def _clear_compiled(self, td: TensorDictBase) -> None:
        names = (f"{prefix}{name}_params" for name in NETWORKS for prefix in ("", "target_"))
        self._clear_weakrefs(td, *names)
