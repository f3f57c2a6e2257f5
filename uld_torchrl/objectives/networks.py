"""The five networks of a loss, functional and with targets, and how each of them is called.

:class:`LatentNetworks` holds parameters and keys; the losses made of them are in ``uld``.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives.common import LossModule
from torchrl.objectives.utils import _vmap_func

from uld_torchrl.modules.rollout import LatentRollout, next_key

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
        num_qvalue_nets: int,
        deactivate_vmap: bool,
    ) -> None:
        super().__init__()
        self._in_keys: list[NestedKey] | None = None
        self.deactivate_vmap = deactivate_vmap
        heads = len(qvalue_network) if isinstance(qvalue_network, list) else num_qvalue_nets
        self.num_qvalue_nets = heads
        self.convert_to_functional(state_encoder, "state_encoder", create_target_params=True)
        self.convert_to_functional(state_action_encoder, "state_action_encoder", create_target_params=True)
        self.convert_to_functional(predictor, "predictor")
        self.convert_to_functional(actor_network, "actor_network", create_target_params=True)
        self.convert_to_functional(qvalue_network, "qvalue_network", heads, create_target_params=True)
        self._make_vmap()
        self._make_rollout()

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
            logits_key=keys.reward_logits,
        )

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
        """Draw all networks anew and copy them to the targets."""
        for name in NETWORKS:
            network = getattr(self, name)
            with getattr(self, f"{name}_params").to_module(network, preserve_module_state=False):
                network.reset_parameters_recursive()
            target = self._modules.get(f"target_{name}_params")
            if target is not None:
                target.data.update_(getattr(self, f"{name}_params").data)

    def _encode(self, td: TensorDictBase, params: TensorDictParams) -> Tensor:
        td = td.select(*self.state_encoder.in_keys)
        with params.to_module(self.state_encoder, preserve_module_state=False):
            return self.state_encoder(td).get(self.tensor_keys.state_embedding)

    def _join(self, z_s: Tensor, action: Tensor, params: TensorDictParams) -> Tensor:
        keys = self.tensor_keys
        td = TensorDict(batch_size=z_s.shape[:-1], device=z_s.device)
        td.set(keys.state_embedding, z_s).set(keys.action, action)
        with params.to_module(self.state_action_encoder, preserve_module_state=False):
            return self.state_action_encoder(td).get(keys.state_action_embedding)

    def _act(self, z_s: Tensor, params: TensorDictParams) -> tuple[Tensor, Tensor]:
        keys = self.tensor_keys
        td = TensorDict(batch_size=z_s.shape[:-1], device=z_s.device).set(keys.state_embedding, z_s)
        with params.to_module(self.actor_network, preserve_module_state=False):
            td = self.actor_network(td)
        return td.get(keys.action), td.get(keys.pre_activation)

    def _values(self, z_sa: Tensor, params: TensorDictParams) -> Tensor:
        """Return the values (num_qvalue_nets, B)."""
        keys = self.tensor_keys
        td = TensorDict(batch_size=z_sa.shape[:-1], device=z_sa.device)
        td.set(keys.state_action_embedding, z_sa)
        return self._vmap_qvalue(td, params).get(keys.state_action_value).squeeze(-1)

    def _unroll(self, z_0: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g, m = self.state_action_encoder, self.predictor
        with (
            self.state_action_encoder_params.to_module(g, preserve_module_state=False),
            self.predictor_params.to_module(m, preserve_module_state=False),
        ):
            return self._latent_rollout(z_0, actions)

    def _clear_compiled(self, td: TensorDictBase) -> None:
        names = (f"{prefix}{name}_params" for name in NETWORKS for prefix in ("", "target_"))
        self._clear_weakrefs(td, *names)
