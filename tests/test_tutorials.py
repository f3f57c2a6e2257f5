"""The tutorials: each notebook is paired with its text, runs in a fresh kernel, and asserts what it claims.

A check is a function that raises AssertionError; the last tests hand each of them a small notebook
with one fault, which it has to find. What the tutorials say is not repeated here: they assert it.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

REASON = "comes with the extra 'test'"
jupytext = pytest.importorskip("jupytext", reason=f"jupytext {REASON}")
nbclient = pytest.importorskip("nbclient", reason=f"nbclient {REASON}")
nbformat = pytest.importorskip("nbformat", reason=f"nbformat {REASON}")
pytest.importorskip("ipykernel", reason=f"ipykernel {REASON}")

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.py"))
# Half a minute each, and one as long runs by default: run when asked for slow tests.
LONG = ("02_encoder_loss", "07_from_tabular_to_deep")
CELL_TIMEOUT = 120
LARGEST = 600_000
# /folder/file, ~/file, C:\file; but not what follows a word, as in docs/a/b or https://example.org/a/b.
ABSOLUTE = re.compile(r"(?<![\w.~/:<>-])(?:/\w[\w.-]*/[\w.]|~/[\w.]|[A-Z]:\\\w)")


# Reading


def read_text(path):
    """The notebook as its paired text has it."""
    return jupytext.read(path)


def read_stored(path):
    """The notebook as it is shown, with outputs."""
    return nbformat.read(path.with_suffix(".ipynb"), as_version=4)


def code_of(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def texts_of(output):
    """What a stored output holds apart from pictures."""
    shown = [text for kind, text in output.get("data", {}).items() if not kind.startswith("image/png")]
    return [output.get("text", ""), *map(str, shown), *output.get("traceback", [])]


def asserts_in(source):
    """How many assert statements the code holds; those in strings and comments do not count."""
    lines = [line for line in source.splitlines() if not line.startswith("%matplotlib")]
    return sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse("\n".join(lines))))


def sections_of(notebook):
    """The cells below each level-2 heading, as (heading, cells)."""
    sections = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (heading := re.search(r"^## (.+)", cell.source, re.MULTILINE)):
            sections.append((heading[1], []))
        if sections:
            sections[-1][1].append(cell)
    return sections


# The checks


def check_pair(path):
    """Text and notebook hold the same cells, and are set up to stay so."""
    text, stored = read_text(path), read_stored(path)
    assert text.metadata.get("jupytext", {}).get("formats") == "ipynb,py:percent", "not paired"
    ours, theirs = ([(cell.cell_type, cell.source) for cell in notebook.cells] for notebook in (text, stored))
    assert ours == theirs, "out of sync; run `jupytext --sync` and execute it again"


def check_opening(path):
    """The first cell has a title and says what there is to learn and how long it takes."""
    first = read_text(path).cells[0]
    assert first.cell_type == "markdown", "the first cell is not text"
    assert re.match(r"# \S", first.source), "no title"
    assert "learn" in first.source, "does not say what the reader will learn"
    assert re.search(r"\d+ (seconds|minutes)", first.source), "does not say how long it takes"


def check_claims(path):
    """Claims are asserted: at least one assertion below each level-2 heading that has code below it."""
    notebook = read_text(path)
    sections = sections_of(notebook)
    assert sections, "no level-2 heading"
    for heading, cells in sections:
        code = [cell.source for cell in cells if cell.cell_type == "code"]
        assert not code or sum(map(asserts_in, code)), f"nothing is asserted below {heading!r}"
    assert sum(map(asserts_in, code_of(notebook))) >= len(sections), "fewer assertions than sections"


def check_plain(path):
    """No shell commands, no magics but matplotlib's, no hidden or tagged cells, no absolute paths."""
    for cell in read_stored(path).cells:
        assert not cell.metadata, f"cell with metadata: {dict(cell.metadata)}"
        assert not ABSOLUTE.search(cell.source), f"absolute path in {cell.source!r}"
        if cell.cell_type == "code":
            assert not re.search(r"^\s*(!|%(?!matplotlib\b)|get_ipython\()", cell.source, re.MULTILINE), (
                f"magic in {cell.source!r}"
            )


def check_outputs(path):
    """Stored outputs come from one run from top to bottom and show no error, warning or machine path."""
    notebook = read_stored(path)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)], "not executed once from top to bottom"
    check_quiet(notebook)
    for text in (text for output in outputs_of(notebook) for text in texts_of(output)):
        assert not ABSOLUTE.search(text), f"machine path in {text!r}"
    assert path.with_suffix(".ipynb").stat().st_size <= LARGEST, "too large to be read on the web"


def check_quiet(notebook):
    """No cell has failed, and none has written to stderr, where warnings and log lines go."""
    for output in outputs_of(notebook):
        assert output.output_type != "error", f"stored error: {output.get('ename')}"
        assert output.get("name") != "stderr", f"written to stderr: {output.text}"


def execute(notebook, folder):
    """Run all cells in a fresh kernel of this Python and this tree, in ``folder``; warnings are shown."""
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "IPYTHONDIR": str(folder / ".ipython"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    for name in ("MPLBACKEND", "PYTHONWARNINGS"):
        env.pop(name, None)
    client = nbclient.NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=env)
    drop_advice(notebook)


# Where Ray is installed TorchRL imports it, and then it and tqdm ask for widgets that nothing here shows.
ADVICE = re.compile(r".* (Missing packages: \['ipywidgets'\]|TqdmWarning: IProgress not found).*\n(  .*\n)?")


def drop_advice(notebook):
    """Drop the lines of stderr that ask for widgets."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                output.text = ADVICE.sub("", output.text)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("text") != ""]


def check_execution(path, folder):
    """The text runs from top to bottom without an error or a warning."""
    notebook = read_text(path)
    execute(notebook, folder)
    check_quiet(notebook)


# The tutorials


@pytest.fixture(params=TUTORIALS, ids=lambda path: path.stem)
def tutorial(request):
    return request.param


def test_every_notebook_has_its_text():
    assert TUTORIALS
    assert [path.with_suffix(".ipynb") for path in TUTORIALS] == sorted((ROOT / "tutorials").glob("*.ipynb"))


def test_pair_is_in_sync(tutorial):
    check_pair(tutorial)


def test_opening_says_what_to_learn_and_how_long_it_takes(tutorial):
    check_opening(tutorial)


def test_what_is_claimed_is_asserted(tutorial):
    check_claims(tutorial)


def test_cells_are_plain_and_visible(tutorial):
    check_plain(tutorial)


def test_stored_outputs_are_whole_and_clean(tutorial):
    check_outputs(tutorial)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LONG else [])
        for path in TUTORIALS
    ],
)
def test_runs_in_a_fresh_kernel_without_a_warning(path, tmp_path):
    check_execution(path, tmp_path)


# The checks find faults

OPENING = "# A sum\n\nYou will learn to add in 5 seconds. See docs/a/b.md or https://example.org/a/b."
HEADING = "## Adding\n\nOne and one is two."
CODE = "total = 1 + 1\nassert total == 2\nprint(total)"


def write_pair(folder, cells=(OPENING, HEADING, CODE), stored=None, output="2\n", **changes):
    """Write a small notebook and its text; ``stored`` and ``changes`` alter the notebook's code cell."""
    path = folder / "00_sum.py"
    code = nbformat.v4.new_code_cell
    notebook = nbformat.v4.new_notebook(metadata={"jupytext": {"formats": "ipynb,py:percent"}})
    notebook.cells = [*map(nbformat.v4.new_markdown_cell, cells[:-1]), code(cells[-1])]
    jupytext.write(notebook, path, fmt="py:percent")
    shown = nbformat.v4.new_output("stream", text=output)
    notebook.cells[-1] = code(stored or cells[-1], **{"execution_count": 1, "outputs": [shown]} | changes)
    nbformat.write(notebook, path.with_suffix(".ipynb"))
    return path


def test_checks_pass_a_good_notebook(tmp_path):
    path = write_pair(tmp_path)
    for check in (check_pair, check_opening, check_claims, check_plain, check_outputs):
        check(path)
    check_execution(path, tmp_path)


HIDDEN = {"metadata": {"tags": ["hide-input"]}}
FAILED = {"outputs": [nbformat.v4.new_output("error", ename="KeyError", evalue="", traceback=[])]}
WARNED = {"outputs": [nbformat.v4.new_output("stream", name="stderr", text="UserWarning: look out")]}
IN_STRING = "text = 'assert 1'  # assert 1"


@pytest.mark.parametrize(
    ("check", "message", "fault"),
    [
        (check_pair, "out of sync", {"stored": "total = 2"}),
        (check_opening, "no title", {"cells": ("You will learn to add in 5 seconds.", HEADING, CODE)}),
        (check_opening, "will learn", {"cells": ("# A sum\n\nTakes 5 seconds.", HEADING, CODE)}),
        (check_opening, "how long", {"cells": ("# A sum\n\nYou will learn to add.", HEADING, CODE)}),
        (check_claims, "nothing is asserted below 'Adding'", {"cells": (OPENING, HEADING, IN_STRING)}),
        (check_claims, "fewer assertions", {"cells": (OPENING, "## More", HEADING, CODE)}),
        (check_claims, "no level-2 heading", {"cells": (OPENING, CODE)}),
        (check_plain, "magic", {"stored": "!ls"}),
        (check_plain, "magic", {"stored": "x = 1\n%time x"}),
        (check_plain, "absolute path", {"stored": "open('/home/me/data.csv')"}),
        (check_plain, "metadata", HIDDEN),
        (check_outputs, "not executed", {"execution_count": 3}),
        (check_outputs, "stored error: KeyError", FAILED),
        (check_outputs, "look out", WARNED),
        (check_outputs, "machine path", {"output": "saved to /tmp/runs/0"}),
        (check_outputs, "machine path", {"output": "File '~/.cache/x'"}),
        (check_outputs, "machine path", {"output": r"File C:\Users\me"}),
        (check_outputs, "too large", {"output": "2" * LARGEST}),
    ],
)
def test_checks_find_a_fault(check, message, fault, tmp_path):
    with pytest.raises(AssertionError, match=message):
        check(write_pair(tmp_path, **fault))


def test_check_of_the_pair_wants_it_set_up(tmp_path):
    path = write_pair(tmp_path)
    path.write_text(path.read_text("utf-8").replace("ipynb,py:percent", "md"), "utf-8")
    with pytest.raises(AssertionError, match="not paired"):
        check_pair(path)


def test_execution_finds_a_false_claim(tmp_path):
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="AssertionError"):
        check_execution(write_pair(tmp_path, (OPENING, HEADING, "assert 1 + 1 == 3")), tmp_path)


def test_execution_finds_a_warning(tmp_path):
    code = "import warnings\nassert 1\nwarnings.warn('look out')"
    with pytest.raises(AssertionError, match="UserWarning: look out"):
        check_execution(write_pair(tmp_path, (OPENING, HEADING, code)), tmp_path)


def test_execution_drops_the_wish_for_widgets_and_nothing_else(tmp_path):
    advice = (
        "auto.py:21: TqdmWarning: IProgress not found. Please update.\n  from .autonotebook import tqdm\n"
        "INFO util.py:155 -- Missing packages: ['ipywidgets']. Run `pip install -U ipywidgets`."
    )
    alone = f"import sys\nassert 1\nprint({advice!r}, file=sys.stderr)"
    check_execution(write_pair(tmp_path, (OPENING, HEADING, alone)), tmp_path)
    warned = f"{alone}\nprint('look out', file=sys.stderr)"
    with pytest.raises(AssertionError, match="stderr: look out"):
        check_execution(write_pair(tmp_path, (OPENING, HEADING, warned)), tmp_path)


def test_execution_leaves_its_files_in_the_working_directory(tmp_path):
    code = "from pathlib import Path\nassert 1\n_ = Path('left.txt').write_text('here')"
    check_execution(write_pair(tmp_path, (OPENING, HEADING, code)), tmp_path)
    assert (tmp_path / "left.txt").exists()
