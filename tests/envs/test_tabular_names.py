"""Names of tabular MDPs: what they stand for, and where they can be said (Gymnasium, make_env, train)."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

import theory
import uld_torchrl
from theory.chains import LEAK
from uld_torchrl.config import override, preset
from uld_torchrl.envs import TabularEnv, canonical_id, make_env, named_mdp, state_observations
from uld_torchrl.envs.tabular import make_named
from uld_torchrl.envs.tabular_names import grid_of
from uld_torchrl.errors import InputError
from uld_torchrl.gymnasium_ids import CATALOGUE, NAMES, WORLDS, register

BARE = [name for name in CATALOGUE if theory.catalogue.load(name).problem.mdp is None]


def same(one: theory.TabularMDP, other: theory.TabularMDP) -> bool:
    return one.gamma == other.gamma and all(
        np.array_equal(getattr(one, part), getattr(other, part)) for part in ("P", "r", "terminal", "start")
    )


def test_worlds_are_those_of_theory() -> None:
    expected = {
        "frozenlake4x4": theory.frozen_lake("4x4"),
        "frozenlake4x4-deterministic": theory.frozen_lake("4x4", slippery=False),
        "frozenlake8x8": theory.frozen_lake("8x8"),
        "cliffwalking": theory.cliff_walking(0.99),
        "riverswim": theory.river_swim(6),
        "randomwalk": theory.random_walk(19, 0.99),
        "garnet-20-3-4-5": theory.garnet(20, 3, 4, 0.99, seed=5),
        "garnet:20:3:4:5": theory.garnet(20, 3, 4, 0.99, seed=5),
        "catalogue-riverswim_6": theory.river_swim(6),
        "catalogue:E09": theory.cliff_walking(1.0),
    }
    for name, mdp in expected.items():
        assert same(named_mdp(name), mdp), name
    assert {*WORLDS} - {*expected} == {"chain"}


def test_the_chain_by_hand() -> None:
    mdp = named_mdp("chain")
    assert (mdp.num_states, mdp.num_actions, mdp.gamma) == (11, 2, 0.99)
    assert mdp.start.tolist() == [1.0] + [0.0] * 10 and mdp.terminal.tolist() == [False] * 10 + [True]
    for state in range(10):
        left, right = np.eye(11)[max(state - 1, 0)], np.eye(11)[state + 1]
        np.testing.assert_allclose(
            mdp.P[state], [0.9 * left + 0.1 * right, 0.1 * left + 0.9 * right], rtol=1e-15
        )
        assert mdp.r[state].tolist() == ([0.1, 0.9] if state == 9 else [0.0, 0.0])
    assert theory.optimal(mdp).policy.probs[:10].tolist() == [[0.0, 1.0]] * 10


def test_a_discount_can_be_chosen() -> None:
    for name in ("chain", "garnet-4-2-2-0", "catalogue-sign_flip", "catalogue-cliff_walking"):
        mdp, usual = named_mdp(name, gamma=0.25), named_mdp(name)
        assert mdp.gamma == 0.25 and np.array_equal(mdp.P, usual.P) and np.array_equal(mdp.r, usual.r)
    assert named_mdp("catalogue-sign_flip").gamma == theory.catalogue.load("sign_flip").problem.gamma
    assert named_mdp("catalogue-sign_flip", 0.0).gamma == 0.0


@pytest.mark.parametrize("name", BARE)
def test_a_bare_chain_becomes_an_mdp_of_one_action(name: str) -> None:
    problem, mdp = theory.catalogue.load(name).problem, named_mdp(f"catalogue-{name}")
    n, ends = problem.n, problem.dense_P.sum(axis=1) < 1.0 - LEAK
    assert (mdp.num_states, mdp.num_actions) == (n + ends.any(), 1)
    np.testing.assert_allclose(mdp.P[:n, 0, :n], problem.dense_P, rtol=0, atol=1e-15)
    assert np.array_equal(mdp.r[:n, 0], problem.r)
    np.testing.assert_allclose(mdp.start[:n], problem.mu, rtol=1e-15, atol=0)
    assert mdp.terminal.tolist() == [False] * n + [True] * int(ends.any())
    if ends.any():
        assert np.array_equal(mdp.P[:n, 0, n] > 0, ends)
    if problem.gamma < 1.0:
        values = theory.certified_q(mdp, theory.Policy.uniform(mdp)).value[:n, 0]
        exact = np.linalg.solve(np.eye(n) - problem.gamma * problem.dense_P, problem.r)
        np.testing.assert_allclose(values, exact, rtol=1e-9, atol=1e-9)


def test_large_garnets_are_sparse() -> None:
    mdp = named_mdp("garnet-2000-3-2-0")
    assert not isinstance(mdp.P, np.ndarray) and mdp.P.shape == (6000, 2000) and mdp.P.nnz == 12000


def test_time_limits_by_hand() -> None:
    longer = {"frozenlake8x8": 200, "cliffwalking": 200, "randomwalk": 1000}
    for name in (*NAMES, "mdp"):
        assert gymnasium.spec(f"tabular/{name}").max_episode_steps == longer.get(name, 100)
    assert make_env("tabular/garnet-5-2-2-0")._env.envs[0].spec.max_episode_steps == 100


def test_the_catalogues_names_are_all_there_and_every_id_can_be_made() -> None:
    assert theory.catalogue.names() == CATALOGUE
    for name in NAMES:
        env = gymnasium.make(f"tabular/{name}")
        assert same(env.unwrapped.mdp, named_mdp(name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("frozenlake4x5", "tabular/frozenlake4x5 names no .* Did you mean tabular/frozenlake4x4"),
        ("FrozenLake4x4", "Did you mean tabular/frozenlake4x4"),
        ("catalogue:sign_flop", "Did you mean tabular/catalogue-sign_flip"),
        (
            "qqqq",
            r"Known are tabular/frozenlake4x4, .*garnet-STATES-ACTIONS-BRANCHING-SEED, .*catalogue-NAME",
        ),
        ("a b", "Known are"),
        ("", "Known are"),
        ("catalogue-A23", "7 problems have this id: kolter_p50,"),
        ("garnet", "a Garnet is named garnet-STATES-ACTIONS-BRANCHING-SEED"),
        ("garnet-5-2-3", "a Garnet is named"),
        ("garnet-5-2-3-x", "a Garnet is named"),
        ("garnet-5-2-9-0", "tabular/garnet-5-2-9-0: branching must be at most the 5 states, got 9"),
        ("garnet-0-2-1-0", "num_states must be at least 1, got 0"),
        ("garnet-100000-1000-2-0", "must be at most 100,000,000"),
    ],
)
def test_names_that_stand_for_nothing_are_refused(name: str, message: str) -> None:
    for make in (named_mdp, lambda name: make_env(f"tabular/{name}"), TabularEnv):
        with pytest.raises(InputError, match=message.replace("sign_flop", "sign_fl.p")):
            make(name)


def test_other_bad_arguments_are_refused() -> None:
    with pytest.raises(InputError, match=r"name must be a string .* got 4"):
        named_mdp(4)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"tabular/chain: gamma must .* got 1.5"):
        named_mdp("chain", 1.5)
    with pytest.raises(
        InputError, match=r"tabular/mdp stands for .* gymnasium.make\('tabular/mdp', mdp=mdp\)"
    ):
        make_env("tabular/mdp")


def test_canonical_ids_say_hyphens() -> None:
    names = {
        "tabular/frozenlake4x4": "tabular/frozenlake4x4",
        "tabular/garnet:20:3:3:0": "tabular/garnet-20-3-3-0",
        "gym/tabular/catalogue:sign_flip": "tabular/catalogue-sign_flip",
    }
    assert {name: canonical_id(name) for name in names} == names
    assert make_env("tabular/garnet:20:3:3:0")._env.name == "tabular/garnet-20-3-3-0"


AFTER = """
import sys
gymnasium.register_envs(uld_torchrl)
assert {'torch', 'theory'}.isdisjoint(sys.modules)
env = gymnasium.make('tabular/frozenlake4x4', observation='coordinates')
print(env.reset(seed=0, options={'state': 14})[0].round(2).tolist(), 'torch' in sys.modules)
import importlib.util
print(importlib.util.find_spec('gymnasium').loader.get_code('gymnasium') is not None, len(sys.meta_path))
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import uld_torchrl, gymnasium",
        "import gymnasium, uld_torchrl",
        "import uld_torchrl; import uld_torchrl.envs.registry; import gymnasium",
        "import uld_torchrl, importlib.util; importlib.util.find_spec('gymnasium'); import gymnasium",
    ],
)
def test_gymnasium_knows_the_ids_in_either_order_of_imports(imports: str) -> None:
    code = (
        f"import sys; finders = len(sys.meta_path)\n{imports}\nassert len(sys.meta_path) == finders\n{AFTER}"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=False, capture_output=True, text=True
    )
    assert done.stderr == "" and done.stdout.startswith("[1.0, 0.6700000166893005] False\nTrue")


def test_registering_twice_is_silent_and_keeps_what_the_user_registered() -> None:
    kept = gymnasium.spec("tabular/chain")
    try:
        gymnasium.registry.pop("tabular/chain")
        gymnasium.register("tabular/chain", "gymnasium.envs.classic_control.cartpole:CartPoleEnv")
        register()
        assert gymnasium.make("tabular/chain").observation_space.shape == (4,)
        assert make_env("tabular/chain").action_spec.shape == (1, 2)
    finally:
        gymnasium.registry["tabular/chain"] = kept


def test_gymnasiums_own_tabular_ids_are_left_to_gymnasium() -> None:
    try:
        import jax  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match=r"CliffWalking-v0 cannot be made: ModuleNotFoundError.*jax"):
            make_env("tabular/CliffWalking-v0")


def stream(env: EnvBase, steps: int = 40) -> TensorDictBase:
    generator = torch.Generator().manual_seed(0)
    td, stored = env.reset(), []
    for _ in range(steps):
        choice = torch.randint(env.action_spec.shape[-1], (env.num_envs,), generator=generator)
        action = torch.nn.functional.one_hot(choice, env.action_spec.shape[-1])
        before, td = env.step_and_maybe_reset(td.set("action", action))
        stored.append(before.clone())
    return torch.stack(stored, 1)


@pytest.mark.parametrize("name", ["tabular/garnet:6:2:2:1", "tabular/catalogue-E01"])
def test_lanes_here_and_in_workers_give_the_same(name: str) -> None:
    with closing(make_env(name, num_envs=2, env_workers=1, seed=4)) as env:
        data = stream(env)
    assert (data == stream(make_env(name, num_envs=2, seed=4))).all()
    assert not (data == stream(make_env(name, num_envs=2, seed=5))).all()
    observations = data["next", "observation"]
    assert (observations.sum(-1) == 1.0).all() and not torch.equal(observations[0], observations[1])
    mdp, action = named_mdp(name.removeprefix("tabular/")), data["action"].argmax(-1)
    states = data["observation"].argmax(-1)
    np.testing.assert_array_equal(data["next", "reward"].squeeze(-1), np.float32(mdp.r[states, action]))
    after = observations.argmax(-1)
    np.testing.assert_array_equal(data["next", "terminated"].squeeze(-1), mdp.terminal[after])


def test_an_agent_trains_and_sees_what_state_observations_says(tmp_path: Path) -> None:
    tiny = ["optim.batch_size=4", "optim.period=5", "run.total_steps=40", "run.random_steps=10"]
    config = override(preset("debug"), [*tiny, "run.eval_every=20", "run.eval_episodes=1"])
    result = uld_torchrl.train(config, "tabular/frozenlake4x4", name="debug", run_dir=tmp_path)
    agent = uld_torchrl.load(result.path)
    assert agent.env_id == "tabular/frozenlake4x4" and result.step == 40
    assert result.path == tmp_path / "tabular" / "frozenlake4x4" / "debug" / "seed0"
    actions = agent.predict(state_observations("frozenlake4x4"))
    assert actions.shape == (16,) and set(actions.tolist()) <= {0, 1, 2, 3}


def test_an_environment_object_trains_lanes_of_its_own_mdp() -> None:
    env = gymnasium.make(
        "tabular/mdp", mdp=named_mdp("riverswim"), observation="coordinates", max_episode_steps=5
    )
    data = stream(make_env(env, num_envs=2, seed=0), 10)
    assert data["observation"].shape == (2, 10, 1)
    assert data["next", "truncated"].squeeze(-1).nonzero()[:, 1].tolist() == [4, 9, 4, 9]


@pytest.mark.parametrize("name", ["frozenlake4x4", "chain", "garnet-7-2-3-1", "catalogue-boyan_chain"])
def test_anywhere_changes_the_start_and_nothing_else(name: str) -> None:
    mdp, anywhere = named_mdp(name, 0.9), named_mdp(f"{name}-anywhere", 0.9)
    for field in ("P", "r", "gamma", "terminal"):
        one, other = getattr(mdp, field), getattr(anywhere, field)
        assert np.array_equal(one.toarray() if hasattr(one, "toarray") else one, other)
    live = ~np.asarray(mdp.terminal)
    assert np.allclose(anywhere.start, live / live.sum(), rtol=4e-16, atol=0)  # normed once more: an ulp


def test_an_environment_begun_anywhere_keeps_its_time_limit_and_grid() -> None:
    made = make_named("cliffwalking-anywhere").spec
    assert made is not None and made.max_episode_steps == 200
    assert grid_of("frozenlake8x8-anywhere") == (8, 8)
    env = make_env("tabular/frozenlake8x8-anywhere", seed=0)
    starts = {int(env.reset()["observation"].argmax()) for _ in range(300)}
    holes = set(np.flatnonzero(named_mdp("frozenlake8x8").terminal).tolist())
    # Each of the 53 live states is missed with probability (52/53)^300 = 0.003.
    assert len(starts) > 40 and not starts & holes
