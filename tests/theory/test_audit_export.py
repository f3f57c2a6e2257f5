"""What an export must be: names, shapes, finite numbers, probabilities; and which files are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import exact_export
from scipy import sparse

from theory import InputError, Policy, TabularMDP, audit_embeddings, frozen_lake, garnet
from theory.audit import Export, mdp_number, read_export
from theory.audit.export import OPTIONAL, REQUIRED

MDP = garnet(5, 3, 2, 0.9, seed=1, num_terminal=1)


def good(**more: Any) -> dict[str, Any]:
    return exact_export(MDP, Policy.uniform(MDP), **more)


def changed(name: str, change: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    export = good(counts=np.ones((5, 3)))
    value = np.array(export[name], dtype=float)
    made = change(value)
    return {**export, name: value if made is None else made}


def put(*index: int, value: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[index] = value

    return change


def test_the_names_are_those_of_the_class() -> None:
    assert set(REQUIRED + OPTIONAL) == set(Export.__dataclass_fields__)


@pytest.mark.parametrize("name", REQUIRED)
def test_each_missing_name_is_named(name: str) -> None:
    export = good()
    del export[name]
    with pytest.raises(InputError, match=rf"lacks {name}; it must have zs, zsa, q, pi"):
        audit_embeddings(export, MDP)


@pytest.mark.parametrize(
    "name", ["zs", "zsa", "zs_next_pred", "q", "pi", "r_hat", "v_at_pred", "d_hat", "counts"]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_found(name: str, bad: float) -> None:
    with pytest.raises(InputError, match=rf"{name} must be finite, got (nan|inf) at state 1"):
        audit_embeddings(changed(name, lambda array: put(*[1] * array.ndim, value=bad)(array)), MDP)


@pytest.mark.parametrize(
    ("export", "message"),
    [
        (changed("q", lambda q: q[:, :2]), r"q must have shape \(5, 3\) for this MDP, got \(5, 2\)"),
        (changed("q", lambda q: q[:-1]), r"has 5 states, .* and 3 actions\. Is the export of another\?"),
        (changed("zs", lambda zs: zs[:-1]), r"zs must have shape \(5, 5\)"),
        (changed("zs", lambda zs: zs[:, 0]), r"zs must have shape"),
        (changed("zs", lambda zs: zs[:, :0]), "zs has no columns"),
        (changed("zsa", lambda zsa: zsa.reshape(15, -1)), r"zsa must have shape \(5, 3, 15\)"),
        (changed("zs_next_pred", lambda z: z[..., :4]), r"zs_next_pred must have shape \(5, 3, 5\)"),
        (changed("counts", lambda counts: counts.sum()), r"counts must have shape \(5, 3\)"),
        (changed("pi", put(2, 0, value=-0.1)), r"pi must not be negative, got -0\.1 at state 2, action 0"),
        (changed("pi", put(2, 0, value=0.5)), r"pi must sum to 1 over the actions, got 1\.1667 at state 2"),
        (changed("pi", lambda pi: 0.0 * pi), "pi must sum to 1 over the actions, got 0 at state 0"),
        (changed("counts", put(1, 2, value=-1.0)), "counts must not be negative, got -1 at state 1"),
        (changed("counts", lambda counts: 0.0 * counts), "No pair is left that counts: counts is zero"),
        (changed("counts", lambda counts: counts * (np.arange(5) == 4)[:, None]), "No pair is left"),
        (good(mu=-np.ones((5, 3))), "mu must not be negative"),
        (good(mu=np.ones((5, 3)), counts=np.ones((5, 3))), "both counts and mu"),
        (good(mask=np.ones((5, 3))), "mask must hold True or False for each pair, got float64"),
        (good(mask=np.ones((5, 2), dtype=bool)), r"mask must have shape \(5, 3\)"),
        (good(mask=np.zeros((5, 3), dtype=bool)), "No pair is left that counts: the mask is zero"),
        (good(q_heads=np.zeros((2, 5, 2))), r"q_heads must have shape \(2, 5, 3\)"),
        (good(q_heads=np.float64(1.0)), "q_heads must have shape"),
        (good(gamma=1.5), r"gamma must lie in \[0, 1\], got 1\.5"),
        (good(gamma=np.array([0.9, 0.9])), r"gamma must be one number, got float64 of shape \(2,\)"),
        (good(gamma="high"), "gamma must be one number"),
        (good(n_step=0), "n_step must be at least 1, got 0"),
        (good(n_step=2.5), "n_step must be a whole number, got 2.5"),
        (good(step=-1), "step must be at least 0"),
        (good(reward_scale=0.0), "reward_scale must be greater than 0"),
        (good(q_head=1), r"An export has no 'q_head'; it may have zs, zsa, .*\. Did you mean q_heads\?"),
        (good(weights=1), r"An export has no 'weights'; it may have zs, .*, mdp\.$"),
        (good(q=np.array([["a"] * 3] * 5)), "q must hold real numbers"),
        (good(q=np.full((5, 3), 1e80)), r"q must be at most 1e\+70 in size, got 1e\+80: .* diverged\?"),
        (good(zsa=np.full((5, 3, 2), -1e300)), r"zsa must be at most 1e\+70 in size, got 1e\+300"),
        (good(q_heads=np.full((2, 5, 3), 1e80)), r"q_heads must be at most 1e\+70 in size"),
        (good(q=[[0.0], [0.0, 1.0]]), "q must be an array, every row of the same length"),
        (good(q=np.zeros((5, 3), dtype=complex)), "q must hold real numbers"),
        ([1, 2], "An export is a mapping or the path of an .npz file, got a list"),
        (None, "An export is a mapping or the path of an .npz file, got a NoneType"),
    ],
)  # fmt: skip
def test_a_bad_export_is_one_message(export: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        audit_embeddings(export, MDP)


def test_an_export_of_another_mdp_is_refused() -> None:
    lake = frozen_lake("8x8")
    with pytest.raises(InputError, match=r"q must have shape \(64, 4\) for this MDP, got \(5, 3\)"):
        audit_embeddings(good(), lake)


def test_an_export_of_another_mdp_of_the_same_size_is_refused() -> None:
    other = TabularMDP(MDP.P, np.where(MDP.terminal[:, None], 0.0, MDP.r + 1e-3), MDP.gamma, MDP.terminal)
    again = TabularMDP(np.asarray(MDP.P) + 1e-13, MDP.r, 0.5, MDP.terminal)
    marked = {**good(), "mdp": mdp_number(MDP), "greedy": True}
    assert read_export(marked, again).greedy is True  # neither rounding nor the discount make it another
    with pytest.raises(InputError, match="mdp must be the one that was exported"):
        read_export(marked, other)
    found = read_export(good(), other)  # exports of earlier versions do not say
    assert (found.mdp, found.greedy) == (None, None)


@pytest.mark.parametrize("change", ["transitions", "rewards", "terminal"])
def test_each_part_of_an_mdp_makes_it_another(change: str) -> None:
    P, r, terminal = np.zeros((3, 1, 3)), np.zeros((3, 1)), np.array([False, False, True])
    P[0, 0, 0] = P[1, 0, 1] = P[2, 0, 2] = 1.0
    before = mdp_number(TabularMDP(P, r, 0.9, terminal))
    if change == "transitions":
        P[0, 0] = [0.0, 1.0, 0.0]
    elif change == "rewards":
        r[1] = 1.0
    else:
        terminal[1] = True
    assert mdp_number(TabularMDP(P, r, 0.9, terminal)) != before
    assert mdp_number(TabularMDP(sparse.csr_array(P[:, 0]), r, 0.9, terminal)) != before


def test_the_number_of_an_mdp_does_not_depend_on_how_it_is_stored() -> None:
    rows = sparse.csr_array(np.asarray(MDP.P).reshape(15, 5))
    assert mdp_number(TabularMDP(rows, MDP.r, 0.9, MDP.terminal)) == mdp_number(MDP) < 2**48


def test_something_that_is_no_mdp_is_refused() -> None:
    with pytest.raises(InputError, match="mdp must be a TabularMDP, got a str"):
        audit_embeddings(good(), "frozenlake")


def test_probabilities_of_float32_are_taken_and_made_exact() -> None:
    rng = np.random.default_rng(0)
    softmax = np.exp(rng.normal(size=(5, 3))).astype(np.float32)
    softmax /= softmax.sum(axis=1, keepdims=True)
    for pi in (softmax, softmax.astype(np.float64)):
        found = read_export({**good(), "pi": pi}, MDP)
        np.testing.assert_allclose(found.pi.sum(axis=1), np.ones(5), atol=1e-15)
        np.testing.assert_allclose(found.pi[:4], softmax[:4], atol=1e-6)
    with pytest.raises(InputError, match="pi must sum to 1"):
        read_export({**good(), "pi": softmax * 1.001}, MDP)


def test_terminal_rows_of_policy_and_counts_do_not_matter() -> None:
    export = good(counts=np.ones((5, 3)))
    export["pi"][4] = [-5.0, 0.0, 0.0]
    found = read_export(export, MDP)
    assert MDP.terminal[4] and found.pi[4] == pytest.approx([1 / 3] * 3)
    assert found.counts.tolist() == [[1.0] * 3] * 4 + [[0.0] * 3]


def test_a_file_says_the_same_as_the_arrays(tmp_path: Path) -> None:
    export = good(
        counts=np.ones((5, 3)), n_step=3, step=7, reward_scale=0.5, mask=np.ones((5, 3), dtype=bool)
    )
    np.savez(tmp_path / "export.npz", **export)
    for path in (tmp_path / "export.npz", str(tmp_path / "export.npz")):
        assert audit_embeddings(path, MDP).to_json() == audit_embeddings(export, MDP).to_json()
    found = read_export(tmp_path / "export.npz", MDP)
    assert (found.n_step, found.step, found.reward_scale, found.gamma) == (3, 7, 0.5, 0.9)
    with np.load(tmp_path / "export.npz") as opened:
        assert audit_embeddings(opened, MDP).verdict == "pass"


def test_nothing_that_is_given_is_changed() -> None:
    export = good(counts=np.ones((5, 3)))
    before = {name: np.array(value) for name, value in export.items()}
    audit_embeddings(export, MDP)
    for name, value in before.items():
        np.testing.assert_array_equal(export[name], value)


def pickled(path: Path) -> None:
    np.savez(path, **{**good(), "q": np.array([[{}] * 3] * 5, dtype=object)})


def single(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((5, 3)))


def cut_short(path: Path) -> None:
    np.savez_compressed(path, **good())
    data = bytearray(path.read_bytes())
    path.write_bytes(bytes(data[: len(data) // 2]))


def damaged(path: Path) -> None:
    np.savez(path, **good())
    data = bytearray(path.read_bytes())
    data[200:400] = bytes(200)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (pickled, "without pickled objects: Object arrays cannot be loaded"),
        (single, "holds a single array"),
        (cut_short, "cannot be read as an export"),
        (damaged, "cannot be read as an export"),
        (lambda path: path.write_text("hello"), "cannot be read as an export"),
        (lambda path: path.write_bytes(b""), "cannot be read as an export"),
        (lambda path: path.mkdir(), "cannot be read as an export"),
        (lambda path: None, "No such file"),
    ],
    ids=["pickled", "single", "cut short", "damaged", "text", "empty", "directory", "missing"],
)
def test_a_file_that_is_no_export_is_one_message(
    write: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "export.npz"
    write(path)
    with pytest.raises(InputError, match=message) as caught:
        audit_embeddings(path, MDP)
    assert "export.npz" in str(caught.value)


def test_an_mdp_with_sparse_transitions_is_audited_alike() -> None:
    rows = [(s, a, t, p, 0.0) for (s, a, t), p in np.ndenumerate(np.asarray(MDP.P)) if p > 0.0]
    sparse = TabularMDP.from_transitions(rows, 0.9, terminal=MDP.terminal, shape=(5, 3), dense=False)
    dense = TabularMDP.from_transitions(rows, 0.9, terminal=MDP.terminal, shape=(5, 3))
    export = exact_export(dense, Policy.uniform(dense), counts=np.ones((5, 3)), n_step=2)
    export["q"] = export["q"] + 1.0
    first, second = audit_embeddings(export, sparse), audit_embeddings(export, dense)
    assert first.verdict == second.verdict == "pass" and not first.unjudged
    assert first.value.error.weighted == pytest.approx(second.value.error.weighted)
    assert first.noise.loss == pytest.approx(second.noise.loss)
