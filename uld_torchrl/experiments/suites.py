"""Suites: the published sets of tasks, with the steps and the evaluation of their tables.

A suite says which environments, for how many agent steps, and how often they are evaluated. How scores are
normalised, and what others reached, is in ``published``; how runs are started, in ``launcher``.
"""

from __future__ import annotations

from dataclasses import dataclass

from uld_torchrl.errors import InputError, nearest

_EASY = (
    *("acrobot-swingup", "ball_in_cup-catch", "cartpole-balance", "cartpole-balance_sparse"),
    *("cartpole-swingup", "cartpole-swingup_sparse", "cheetah-run", "finger-spin", "finger-turn_easy"),
    *("finger-turn_hard", "fish-swim", "hopper-hop", "hopper-stand", "pendulum-swingup", "quadruped-run"),
    *("quadruped-walk", "reacher-easy", "reacher-hard", "walker-run", "walker-stand", "walker-walk"),
)
_HARD = (
    *("dog-run", "dog-stand", "dog-trot", "dog-walk", "humanoid-run", "humanoid-stand", "humanoid-walk"),
)
_GYM = ("Ant-v4", "HalfCheetah-v4", "Hopper-v4", "Humanoid-v4", "Walker2d-v4")
_ATARI_26 = (
    *("Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing", "Breakout"),
    *("ChopperCommand", "CrazyClimber", "DemonAttack", "Freeway", "Frostbite", "Gopher", "Hero", "Jamesbond"),
    *("Kangaroo", "Krull", "KungFuMaster", "MsPacman", "Pong", "PrivateEye", "Qbert", "RoadRunner"),
    *("Seaquest", "UpNDown"),
)
_ATARI_REST = (
    *("Asteroids", "Atlantis", "BeamRider", "Berzerk", "Bowling", "Centipede", "Defender", "DoubleDunk"),
    *("Enduro", "FishingDerby", "Gravitar", "IceHockey", "MontezumaRevenge", "NameThisGame", "Phoenix"),
    *("Pitfall", "Riverraid", "Robotank", "Skiing", "Solaris", "SpaceInvaders", "StarGunner", "Surround"),
    *("Tennis", "TimePilot", "Tutankham", "Venture", "VideoPinball", "WizardOfWor", "YarsRevenge", "Zaxxon"),
)
NOT_AGGREGATED = ("atari/Defender", "atari/Surround")
"""Games that are played but left out of the published aggregates over 55 games."""


@dataclass(frozen=True)
class Suite:
    """Environments that are reported together, in agent steps throughout.

    Example:
        >>> from uld_torchrl.experiments import suite
        >>> gym = suite("gym5")
        >>> len(gym.envs), gym.total_steps, gym.eval_every, gym.frames_per_step
        (5, 1000000, 5000, 1)
    """

    name: str
    envs: tuple[str, ...]
    total_steps: int
    """Agent steps of each run."""
    eval_every: int
    """Agent steps between two evaluations of ten episodes."""

    @property
    def frames_per_step(self) -> int:
        """Environment frames in an agent step: the action repeat."""
        return frames_per_step(self.envs[0])

    @property
    def settings(self) -> tuple[str, ...]:
        """What the suite sets in a run's configuration."""
        return (
            f"run.total_steps={self.total_steps}",
            f"run.eval_every={self.eval_every}",
            "run.eval_episodes=10",
        )


def _dmc(tasks: tuple[str, ...], kind: str = "dmc") -> tuple[str, ...]:
    return tuple(sorted(f"{kind}/{task}" for task in tasks))


def _atari(games: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(f"atari/{game}" for game in games))


SUITES = {
    each.name: each
    for each in (
        Suite("gym5", tuple(f"gym/{task}" for task in _GYM), 1_000_000, 5_000),
        Suite("dmc28", _dmc((*_EASY, *_HARD)), 500_000, 5_000),
        Suite("dmc-easy21", _dmc(_EASY), 500_000, 5_000),
        Suite("dmc-hard7", _dmc(_HARD), 500_000, 5_000),
        Suite("dmc-pixels28", _dmc((*_EASY, *_HARD), "dmc-pixels"), 500_000, 5_000),
        Suite("atari57", _atari((*_ATARI_26, *_ATARI_REST)), 2_500_000, 100_000),
        Suite("atari26", _atari(_ATARI_26), 100_000, 10_000),
    )
}
"""The suites by name. All but ``atari26`` are those of MR.Q (arXiv 2501.16142, appendix B); ``atari26`` has
the games and the budget of Atari 100k (arXiv 1903.00374), 400 000 frames."""


def suite(name: str) -> Suite:
    """Return the suite of that name.

    Raises:
        InputError: there is none.

    Example:
        >>> suite("dmc-hard7").envs[:2]
        ('dmc/dog-run', 'dmc/dog-stand')
    """
    if name in SUITES:
        return SUITES[name]
    meant = nearest(name, list(SUITES), 1)
    hint = f" Did you mean {meant[0]}?" if meant else ""
    raise InputError(f"suite must be one of {', '.join(SUITES)}, got {name!r}.{hint}")


def frames_per_step(env: str) -> int:
    """Return the environment frames in an agent step: published curves are often over frames, ours never are.

    Example:
        >>> [frames_per_step(env) for env in ("gym/Ant-v4", "dmc/walker-run", "atari/Pong")]
        [1, 2, 4]
    """
    kinds = {"dmc": 2, "dmc-pixels": 2, "atari": 4}
    return kinds.get(env.partition("/")[0], 1)
