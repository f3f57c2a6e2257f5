"""The handbook under docs/theory: its code runs, its names exist, its numbers are what the package gives."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import io
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin

from theory import (
    Features,
    Policy,
    Problem,
    Weights,
    bounds,
    catalogue,
    cliff_walking,
    fit_linear_model,
    frozen_lake,
    model_based_solution,
    river_swim,
    stability,
    td_fixed_point,
    td_system,
    value_error,
)
from theory.whitening import whiten

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "theory").glob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MATH = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$", re.DOTALL)


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def named(page: str) -> Path:
    return next(path for path in PAGES if path.stem == page)


every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def test_all_pages_are_there() -> None:
    theorems = ["theorem-1", "theorem-2", "theorem-3"]
    others = ["audit", "catalogue", "equivariances", "further", "index", "mistakes", "numerics", "stability"]
    assert [page.stem for page in PAGES] == others + theorems


@every_page
def test_examples_give_what_the_page_prints(page: Path) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    blocks = "\n\n".join(
        body for language, body in FENCE.findall(page.read_text("utf-8")) if language == "pycon"
    )
    case = doctest.DocTestParser().get_doctest(blocks, {}, page.name, str(page), 0)
    said = io.StringIO()
    result = doctest.DocTestRunner(optionflags=flags).run(case, out=said.write)
    assert result.failed == 0, said.getvalue()


def test_every_block_is_of_a_kind_that_is_run() -> None:
    kinds = {
        (page.stem, language) for page in PAGES for language, _ in FENCE.findall(page.read_text("utf-8"))
    }
    assert {language for _, language in kinds} == {"pycon", "python"}
    assert {stem for stem, language in kinds if language == "python"} == {"catalogue"}


def test_the_catalogue_table_is_the_generated_one() -> None:
    """If it is not, put what the block on the page prints in its place."""
    text = named("catalogue").read_text("utf-8")
    ((_, code),) = FENCE.findall(text)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert text.partition("<!-- table -->")[2].strip() == printed.getvalue().strip()


@every_page
def test_catalogue_entries_that_are_linked_exist(page: Path) -> None:
    linked = re.findall(r"\[`(\w+)`\]\(catalogue\.md\)", prose(page))
    assert set(linked) <= set(catalogue.names())


@every_page
def test_functions_and_modules_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`(theory(?:\.\w+)+)`", prose(page)):
        assert resolves(name), name


def resolves(name: str) -> bool:
    """Whether a dotted name is a module or an attribute of one."""
    try:
        importlib.import_module(name)
        return True
    except ImportError:
        module, _, attribute = name.rpartition(".")
        return hasattr(importlib.import_module(module), attribute)


def test_a_name_that_does_not_exist_is_noticed() -> None:
    assert resolves("theory.bounds") and resolves("theory.catalogue.run_all")
    assert not resolves("theory.no_such_name")


@cache
def all_tests() -> frozenset[str]:
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "tests" / "theory").rglob("test_*.py")]
    return frozenset(
        node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    )


@every_page
def test_tests_that_are_named_exist(page: Path) -> None:
    assert set(re.findall(r"`(test_\w+)`", prose(page))) - {"test_"} <= all_tests()


@every_page
def test_links_lead_to_pages(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", prose(page)):
        assert (page.parent / target).is_file(), target


def test_each_mistake_has_one_paragraph_that_says_what_exposes_it() -> None:
    text = prose(named("mistakes"))
    numbers = [int(number) for number in re.findall(r"^\*\*E(\d+)\.", text, re.MULTILINE)]
    assert numbers == list(range(1, 22))
    full = named("mistakes").read_text("utf-8")
    for paragraph in re.split(r"^\*\*E\d+\.|^## ", full, flags=re.MULTILINE)[1:]:
        if paragraph.startswith(("Theorem", "Preliminaries", "Beside")):
            continue
        shown = "`test_" in paragraph or "(catalogue.md)" in paragraph or "```pycon" in paragraph
        assert shown != bool(re.search("No case of its own", paragraph)), paragraph


def of(name: str) -> Problem:
    return catalogue.load(name).problem


def tau(mdp: Any, **keywords: Any) -> float:
    parts = (Policy.uniform(mdp), Features.one_hot(mdp), Weights.uniform(mdp))
    return stability(Problem(mdp, *parts, **keywords)).tau


def compression() -> float:
    problem = of("sign_flip")
    return float(problem.gamma * whiten(problem).M[0, 0])


TVR = "tsitsiklis_van_roy_reward_one"
# Page, words in it that end with a number, and that number computed again.
CLAIMS: list[tuple[str, str, Callable[[], float]]] = [
    ("theorem-1", "the model's is $(2", lambda: model_based_solution(of("off_support")).w[0]),
    ("theorem-1", "the one of least norm is $(1", lambda: td_fixed_point(of("off_support")).w[0]),
    ("theorem-1", "for its reward, to $(0,15", lambda: td_fixed_point(of("unexcited_mode")).w[1]),
    ("theorem-1", "the same $\\rho=0.88963", lambda: stability(of("basis_dependence_a")).spectral_radius),
    ("theorem-1", "the same $\\rho=0.88963", lambda: stability(of("basis_dependence_b")).spectral_radius),
    (
        "theorem-1",
        "has an eigenvalue $-0.2887",
        lambda: stability(of("basis_dependence_b")).eigenvalues.real.min(),
    ),
    ("theorem-1", "the three limits are 3.2103", lambda: stability(of("three_cycle")).step_size_limit),
    ("theorem-1", "are 3.2103, 1.6052", lambda: stability(of("three_cycle")).step_size_limit / 2),
    ("theorem-1", "1.6052 and 1.0701", lambda: stability(of("three_cycle")).step_size_limit / 3),
    ("theorem-1", "8 features of rank 7", lambda: fit_linear_model(of("baird_star")).rank),
    ("stability", "has $Q^\\top NQ=-3/2", compression),
    ("stability", "$\\kappa=1.03997", lambda: stability(of("garnet_discounted_visitation")).kappa),
    ("stability", "$\\tau=0.90053", lambda: stability(of("garnet_discounted_visitation")).tau),
    ("stability", "$\\gamma=1$, $\\kappa=1", lambda: stability(of("random_walk_19_groups")).kappa),
    ("stability", "$\\sigma=1", lambda: stability(of("random_walk_19_groups")).sigma),
    ("stability", "and still $\\tau=0.9921", lambda: stability(of("random_walk_19_groups")).tau),
    ("stability", "has $\\kappa=2", lambda: stability(of("tsitsiklis_van_roy_convergent")).kappa),
    ("stability", "FrozenLake 4x4 has $\\tau=0.8219", lambda: tau(frozen_lake(gamma=0.99))),
    ("stability", "$\\tau=1.3397", lambda: tau(cliff_walking(0.99), reachable_from="start")),
    ("stability", "that are reached and 2.0120", lambda: tau(cliff_walking(0.99))),
    ("stability", "RiverSwim 1.0396", lambda: tau(river_swim(gamma=0.99))),
    ("stability", "the rate 0.8446", lambda: stability(of("basis_dependence_a")).best_rate),
    ("stability", "a transient of 2.08", lambda: stability(of("basis_dependence_a")).transient_growth),
    ("theorem-2", "$S_2=6.74", lambda: bounds(of("boyan_chain")).S2),
    ("theorem-2", "and $S_3=121.43", lambda: bounds(of("boyan_chain")).S3),
    ("theorem-2", "$S_1=12.37", lambda: bounds(of("basis_dependence_a")).S1),
    ("theorem-2", "$S_1=12.37", lambda: bounds(of("basis_dependence_b")).S1),
    ("theorem-2", "$S_{2.5}=64.73", lambda: bounds(of("basis_dependence_a")).S25),
    ("theorem-2", "$S_{2.5}=64.73", lambda: bounds(of("basis_dependence_b")).S25),
    ("theorem-2", "rises from 140.52", lambda: bounds(of("basis_dependence_a")).published),
    ("theorem-2", "140.52 to 2234.66", lambda: bounds(of("basis_dependence_b")).published),
    ("theorem-2", "has $B_1=(27.5", lambda: bounds(of(TVR)).B1[0]),
    ("theorem-2", "where $VE=(17.5", lambda: abs(value_error(of(TVR)).error[0])),
    ("theorem-2", "where $VE=(17.5,25", lambda: abs(value_error(of(TVR)).error[1])),
    ("theorem-2", "and $S_1=50", lambda: bounds(of(TVR)).S1),
    ("theorem-2", "(iii) gives 0.1814", lambda: bounds(of("random_walk_5_groups")).sigma),
    ("theorem-2", "and (iv) 0.5783", lambda: bounds(of("random_walk_5_groups")).cea),
    ("theorem-2", "the truth being 0.0786", lambda: bounds(of("random_walk_5_groups")).error_D),
    ("theorem-2", "(catalogue.md) is 9.60", lambda: bounds(of("kolter_p711")).error_D),
    ("mistakes", "at $\\gamma=1$: $H=8.2222", lambda: bounds(of("boyan_chain")).H),
    ("mistakes", 'has the "bound" $-28', lambda: literal_bound()),
]


def literal_bound() -> float:
    """The published bound with the largest weight in place of the largest modulus."""
    problem, model = of(TVR), fit_linear_model(of(TVR))
    w = model_based_solution(problem).w
    assert w is not None
    reward = abs(problem.Z @ model.w_r - problem.r)
    dynamics = abs(problem.Z @ model.W_d - problem.Z_next).sum(axis=1)
    return float((reward + w.max() * dynamics).max() / (1 - problem.gamma))


@pytest.mark.parametrize(("page", "words", "number"), CLAIMS)
def test_numbers_in_the_text_are_what_the_package_gives(
    page: str, words: str, number: Callable[[], float]
) -> None:
    assert " ".join(words.split()) in " ".join(prose(named(page)).split())
    printed = re.search(r"-?\d+(?:\.\d+|/\d+)?$", words)
    assert printed is not None
    numerator, _, denominator = printed.group().partition("/")
    digits = len(printed.group().partition(".")[2])
    allowed = 0.5 * 10.0**-digits if digits else 1e-9
    assert number() == pytest.approx(float(numerator) / float(denominator or 1), abs=allowed)


def test_kolters_features_could_do_with_an_error_below_a_thousandth() -> None:
    entries = [name for name in catalogue.names() if name.startswith("kolter")]
    ladders = [bounds(of(name)) for name in entries]
    assert len(entries) == 7 and all(ladder.best_D is not None and ladder.best_D < 1e-3 for ladder in ladders)


def test_a_model_with_the_rank_of_the_features_may_have_no_solution() -> None:
    """The second example of proposition 2, from its matrices."""
    problem = Problem.from_chain([[0, 1], [0, 1]], [2, 0], [[1, 0], [1, 1]], [1, 0], 1)
    system = td_system(problem)
    assert system.A.tolist() == [[0, -1], [0, 0]]
    assert np.linalg.matrix_rank(system.A) == np.linalg.matrix_rank(system.C) == 1
    assert td_fixed_point(problem).kind == "affine" and model_based_solution(problem).w is None


@every_page
def test_mathematics_survives_every_renderer(page: Path) -> None:
    """No escape, tag or operator that GitHub takes away, no bar inside a table, and all dollars paired."""
    for formula in MATH.findall(prose(page)):
        assert not re.search(r"\\[^A-Za-z]|\\operatorname|\\newcommand|<[A-Za-z/!]|\*", formula), formula
    for row in re.findall(r"^\|.*\|$", prose(page), re.MULTILINE):
        assert not any("|" in formula for formula in MATH.findall(row)), row
    parser = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin)
    texts = [child.content for child in inlines(parser, page) if child.type == "text"]
    assert not any("$" in text for text in texts)


def inlines(parser: MarkdownIt, page: Path) -> list[Token]:
    tokens = parser.parse(page.read_text("utf-8"))
    return [child for token in tokens for child in token.children or ()]


@every_page
def test_a_reader_that_knows_no_formulas_finds_no_emphasis_or_tag_in_them(page: Path) -> None:
    """Underscores and stars of a formula must not pair up with others, as they may where it is read first."""
    inside = False
    for child in inlines(MarkdownIt("commonmark").enable("table"), page):
        assert child.type != "html_inline", child.content
        assert not (inside and child.type.startswith(("em_", "strong_"))), child
        inside ^= child.type == "text" and child.content.count("$") % 2 == 1


@every_page
def test_pages_are_short_enough_to_read(page: Path) -> None:
    assert len(page.read_text("utf-8").splitlines()) < 500
