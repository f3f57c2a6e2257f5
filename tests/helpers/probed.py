"""Agents and windows for the tests of the probes: known networks, small real ones, what replay gives of them.

The known networks are linear and in float64: z_s = embed(s), z_sa = join(z_s, a), m = W z_sa, Q = k z_sa.
"""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Bounded

from uld_torchrl import PeriodicHardUpdate, ULDLoss, make_replay_buffer, preset
from uld_torchrl.config import override
from uld_torchrl.envs import TaskSpaces
from uld_torchrl.trainers import Agent


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Model(nn.Module):
    """m on z_sa: termination, next embedding and reward outputs, each a weight of its own and an offset."""

    def __init__(self, sizes, width):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(width, size) for size in sizes)

    def forward(self, z_sa):
        return tuple(part(z_sa) for part in self.parts)


def same(x):
    return x.double()


def concatenated(z_s, action):
    return torch.cat([z_s, action.to(z_s.dtype)], -1)


def set_linear(linear, weight, bias=0.0):
    linear.weight.data.copy_(torch.as_tensor(weight, dtype=torch.float64).expand_as(linear.weight))
    if linear.bias is not None:
        linear.bias.data.copy_(torch.as_tensor(bias, dtype=torch.float64).expand_as(linear.bias))


def known_loss(
    *,
    embed=same,
    join=concatenated,
    dims=(1, 2),
    ends=(0, 0),
    after=(0, 0),
    reward=(0, 0),
    value=0.0,
    **settings,
):
    """A loss on linear networks; (weight, offset) of each output of m; target values are 0."""
    z_s_dim, z_sa_dim = dims
    settings = {"reward_loss": "mse", "horizon": 1, "n_steps": 1, "policy_noise": 0.0} | settings
    outputs = 1 if settings["reward_loss"] == "mse" else settings["num_bins"]
    of_pairs = settings.get("dynamics_target") == "state_action"
    predicted = ("state_action_embedding", z_sa_dim) if of_pairs else ("state_embedding", z_s_dim)
    model = Model((1, predicted[1], outputs), z_sa_dim)
    z_s, z_sa = ["state_embedding"], ["state_action_embedding"]
    policy = nn.Linear(z_s_dim, 1)
    for linear, given in zip((*model.parts, policy), (ends, after, reward, (0, 0)), strict=True):
        set_linear(linear.double(), *given)
    head = nn.Linear(z_sa_dim, 1, bias=False).double()
    loss = ULDLoss(
        TensorDictModule(Function(embed), ["observation"], z_s),
        TensorDictModule(Function(join), [*z_s, "action"], z_sa),
        TensorDictModule(model, z_sa, ["terminated_pred", ("next", predicted[0]), "reward_logits"]),
        TensorDictModule(
            nn.Sequential(policy, Function(lambda a: (a, a))), z_s, ["action", "pre_activation"]
        ),
        [TensorDictModule(head, z_sa, ["state_action_value"])],
        action_spec=Bounded(-1, 1, (1,)),
        **settings,
    ).double()
    PeriodicHardUpdate(loss)
    for params, weight in ((loss.qvalue_network_params, value), (loss.target_qvalue_network_params, 0.0)):
        (tensor,) = params.values(True, True)
        tensor.data.copy_(torch.as_tensor(weight, dtype=torch.float64).expand_as(tensor))
    return loss


def windows(s, a, s_next, reward=None, terminated=None):
    """Windows [B, H]: observations, actions and next observations (B, H) or (B, H, n)."""
    tensors = [torch.as_tensor(np.asarray(x, dtype=float)) for x in (s, a, s_next)]
    B, H = tensors[1].shape[:2]
    s, a, s_next = (x.reshape(B, H, -1) for x in tensors)
    reward = torch.zeros(B, H) if reward is None else torch.as_tensor(np.asarray(reward, dtype=float))
    ends = torch.zeros(B, H, dtype=torch.bool) if terminated is None else torch.as_tensor(terminated).bool()
    after = {"observation": s_next, "reward": reward.double().unsqueeze(-1), "terminated": ends.unsqueeze(-1)}
    return TensorDict({"observation": s, "action": a, "next": after}, batch_size=[B, H])


def grid():
    """All pairs of s in {-3, -2, -1, 1, 2, 3} and a in {-1, 1}, as columns (12, 1)."""
    s, a = np.meshgrid([-3.0, -2, -1, 1, 2, 3], [-1.0, 1])
    return s.reshape(-1, 1), a.reshape(-1, 1)


def random_windows(B=12, H=3, actions=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    action = 2 * torch.rand(B, H, 2, generator=g) - 1
    if actions is not None:
        action = nn.functional.one_hot(torch.randint(actions, (B, H), generator=g), actions)
    after = {
        "observation": torch.randn(B, H, 3, generator=g),
        "reward": torch.randn(B, H, 1, generator=g),
        "terminated": torch.zeros(B, H, 1, dtype=torch.bool),
    }
    first = {"observation": torch.randn(B, H, 3, generator=g), "action": action}
    return TensorDict({**first, "next": after}, batch_size=[B, H])


def make_agent(action=None, *settings):
    torch.manual_seed(0)
    spaces = TaskSpaces(Box(-1, 1, (3,)), action or Box(-1, 1, (2,)))
    config = override(preset("debug"), ["loss.horizon=3", "loss.n_steps=2", *settings])
    agent = Agent.build("my-task", spaces, config)
    PeriodicHardUpdate(agent.loss).copy_()
    return agent


def image_agent():
    torch.manual_seed(0)
    frames = Box(0, 255, (2, 32, 32), np.uint8)
    agent = Agent.build("my-film", TaskSpaces(frames, Discrete(3), frames=2), preset("debug"))
    PeriodicHardUpdate(agent.loss)
    return agent


def film():
    """Stacks of two of 32 noisy frames, now and next, of two lanes."""
    seen = torch.randint(256, (2, 32, 1, 32, 32), dtype=torch.uint8)
    stacks = torch.cat([seen[:, :-1], seen[:, 1:]], 2)
    return stacks[:, :-1], stacks[:, 1:]


def replay(agent):
    """A batch from a buffer of 30 steps of two lanes, with a termination and a truncation in each."""
    torch.manual_seed(1)
    ends = {name: torch.zeros(2, 30, 1, dtype=torch.bool) for name in ("terminated", "truncated", "done")}
    ends["terminated"][:, 9] = ends["truncated"][:, 19] = True
    ends["done"] = ends["terminated"] | ends["truncated"]
    frames, size = agent.spaces.frames, agent.loss.action_size
    action = torch.rand(2, 30, size)
    if agent.loss.discrete:
        action = nn.functional.one_hot(action.argmax(-1), size)
    name, now, then = "observation", torch.randn(2, 30, 3), torch.randn(2, 30, 3)
    if frames:
        name, (now, then) = "pixels", film()
    after = {name: then, "reward": torch.randn(2, 30, 1), **ends}
    stack = {"frame_stack": frames} if frames else {}
    horizon = agent.config.loss.horizon
    rb = make_replay_buffer(capacity=80, num_lanes=2, horizon=horizon, batch_size=16, **stack)
    rb.extend(TensorDict({name: now, "action": action, "next": after}, batch_size=[2, 30]))
    return rb.sample()
