"""Networks, losses and acting policies of the peers, all of TorchRL's parts.

:func:`make_peer` is the way in. Vectors only; actions are one-hot, or in [-1, 1]. When the losses are
taken is in ``stepper``.
"""

from __future__ import annotations

from collections.abc import Sequence

from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.data import TensorSpec
from torchrl.modules import (
    MLP,
    AdditiveGaussianModule,
    EGreedyModule,
    ProbabilisticActor,
    QValueActor,
    TanhNormal,
    ValueOperator,
)
from torchrl.objectives import DQNLoss, HardUpdate, SACLoss, TD3Loss, ValueEstimators
from torchrl.objectives.common import LossModule

from uld_torchrl.errors import InputError
from uld_torchrl.modules.specs import is_discrete, vector_size
from uld_torchrl.peers.config import DQNConfig, PeerConfig, SACConfig, TD3Config, name_of

_OBSERVED = "observation"
_ONLINE = "_params"


class GaussianHead(nn.Module):
    """Mean and standard deviation of a Gaussian: ``std = exp(clip(log_std, low, high))``.

    Args:
        body: network whose output (..., 2 m) is mean and log_std.
        low: least log_std.
        high: largest one.

    Example:
        >>> import torch
        >>> mean, std = GaussianHead(nn.Identity(), -20.0, 2.0)(torch.tensor([0.5, 9.0]))
        >>> mean.item(), round(std.log().item(), 4)
        (0.5, 2.0)
    """

    def __init__(self, body: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.body, self.low, self.high = body, low, high

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (..., n) to mean and standard deviation, (..., m) each."""
        mean, log_std = self.body(x).chunk(2, -1)
        return mean, log_std.clamp(self.low, self.high).exp()


def make_peer(
    peer: PeerConfig, observation_spec: TensorSpec, action_spec: TensorSpec
) -> tuple[LossModule, TensorDictSequential]:
    """Make the loss, which holds all networks and their targets, and the policy on the same networks.

    Args:
        peer: settings.
        observation_spec: a vector (n,).
        action_spec: bounded by -1 and 1 for TD3 and SAC, one-hot for DQN; without batch dimensions.

    Returns:
        TorchRL's loss, and a module that writes the action and explores under ``ExplorationType.RANDOM``.

    Raises:
        InputError: observations or actions that the peer does not take.

    Example:
        >>> from torchrl.data import Bounded, Unbounded
        >>> loss, policy = make_peer(TD3Config(), Unbounded(3), Bounded(-1, 1, (2,)))
        >>> type(loss).__name__, sorted(online_networks(loss))
        ('TD3Loss', ['actor_network', 'qvalue_network'])
    """
    check_actions(peer, is_discrete(action_spec))
    n, m = vector_size(observation_spec), action_spec.shape[-1]
    if isinstance(peer, TD3Config):
        return _td3(peer, n, m, action_spec)
    if isinstance(peer, SACConfig):
        return _sac(peer, n, m, action_spec)
    return _dqn(peer, n, m, action_spec)


def check_actions(peer: PeerConfig, discrete: bool) -> None:
    """Refuse discrete actions for TD3 and SAC, and others for DQN.

    Raises:
        InputError: they are.

    Example:
        >>> check_actions(DQNConfig(), discrete=True)
    """
    if discrete != isinstance(peer, DQNConfig):
        wanted, given = ("Box", "Discrete") if discrete else ("Discrete", "Box")
        others = "dqn or uld" if discrete else "td3, sac or uld"
        raise InputError(
            f"agent {name_of(peer)} needs {wanted} actions, got {given}: take agent {others} for this task."
        )


def online_networks(loss: LossModule) -> list[str]:
    """Return the names of a loss's networks, targets not counted.

    Example:
        >>> from torchrl.data import OneHot, Unbounded
        >>> online_networks(make_peer(DQNConfig(), Unbounded(3), OneHot(2))[0])
        ['value_network']
    """
    names = [name.removesuffix(_ONLINE) for name, _ in loss.named_children() if name.endswith(_ONLINE)]
    return [name for name in names if not name.startswith("target_")]


def copy_targets(loss: LossModule) -> None:
    """Make all target networks equal to those that they follow.

    Example:
        >>> from torchrl.data import OneHot, Unbounded
        >>> loss, _ = make_peer(DQNConfig(), Unbounded(3), OneHot(2))
        >>> copy_targets(loss)
    """
    HardUpdate(loss)  # does so when it is made


def end_exploration(policy: TensorDictSequential) -> None:
    """Let a policy explore as at the end of training: how far DQN's had come is not in a model.

    Example:
        >>> from torchrl.data import OneHot, Unbounded
        >>> _, policy = make_peer(DQNConfig(), Unbounded(3), OneHot(2))
        >>> end_exploration(policy)
        >>> round(policy[-1].eps.item(), 3)
        0.05
    """
    if isinstance(policy[-1], EGreedyModule):
        policy[-1].eps.copy_(policy[-1].eps_end)


def _td3(peer: TD3Config, n: int, m: int, spec: TensorSpec) -> tuple[LossModule, TensorDictSequential]:
    body = nn.Sequential(_mlp(n, [peer.hidden_dim] * 2, m), nn.Tanh())
    actor = TensorDictModule(body, in_keys=[_OBSERVED], out_keys=["action"])
    loss = TD3Loss(
        actor,
        _twin_values(n + m, peer.hidden_dim),
        action_spec=spec,
        policy_noise=peer.target_noise,
        noise_clip=peer.target_noise_clip,
        loss_function="l2",
    )
    noise = AdditiveGaussianModule(spec, sigma_init=peer.exploration_noise, sigma_end=peer.exploration_noise)
    return _bootstrapped(loss, peer), TensorDictSequential(actor, noise)


def _sac(peer: SACConfig, n: int, m: int, spec: TensorSpec) -> tuple[LossModule, TensorDictSequential]:
    head = GaussianHead(_mlp(n, [peer.hidden_dim] * 2, 2 * m), peer.log_std_min, peer.log_std_max)
    actor = ProbabilisticActor(
        TensorDictModule(head, in_keys=[_OBSERVED], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        spec=spec,
    )
    loss = SACLoss(
        actor,
        _twin_values(n + m, peer.hidden_dim),
        loss_function="l2",
        alpha_init=peer.temperature,
        target_entropy=m * peer.entropy_per_action,
    )
    return _bootstrapped(loss, peer), actor


def _dqn(peer: DQNConfig, n: int, m: int, spec: TensorSpec) -> tuple[LossModule, TensorDictSequential]:
    values = QValueActor(_mlp(n, [peer.hidden_dim, peer.second_dim], m), in_keys=[_OBSERVED], spec=spec)
    loss = DQNLoss(values, action_space=spec, loss_function="l2")
    greedy = EGreedyModule(
        spec, eps_init=1.0, eps_end=peer.epsilon_end, annealing_num_steps=peer.epsilon_steps
    )
    return _bootstrapped(loss, peer), TensorDictSequential(values, greedy)


def _mlp(inputs: int, hidden: Sequence[int], outputs: int) -> MLP:
    """Return layers with ReLU between, drawn as ``nn.Linear`` draws them."""
    return MLP(in_features=inputs, out_features=outputs, num_cells=list(hidden), activation_class=nn.ReLU)


def _twin_values(inputs: int, hidden: int) -> list[ValueOperator]:
    # Two modules: of a single one TorchRL would draw the copies from other intervals than nn.Linear's.
    return [ValueOperator(_mlp(inputs, [hidden] * 2, 1), in_keys=[_OBSERVED, "action"]) for _ in range(2)]


def _bootstrapped(loss: LossModule, peer: PeerConfig) -> LossModule:
    """Let targets be r + gamma (1 - terminated) V': a truncation ends no return."""
    loss.make_value_estimator(ValueEstimators.TD0, gamma=peer.gamma)
    return loss
