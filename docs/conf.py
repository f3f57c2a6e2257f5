"""Sphinx settings: `sphinx-build -W -n --keep-going docs docs/_build` makes the site, without a network.

What is worked out from the packages (settings, options, the check of public names) is in ``_ext``.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]
# TorchRL warns of its own classes when they are imported.
warnings.filterwarnings("ignore", category=DeprecationWarning)

from uld_torchrl import __version__  # noqa: E402

project = "uld-torchrl"
author = "uld-torchrl developers"
copyright = "uld-torchrl developers, Apache-2.0"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "uld_site",
]
root_doc = "index"
exclude_patterns = ["_build", "README.md"]
suppress_warnings = ["config.cache"]
html_theme = "furo"
html_title = f"uld-torchrl {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path: list[str] = []

smartquotes = False  # `--seed` in a help text stays what is typed

# Markdown: formulas between dollars, definition lists, anchors for links to headings.
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
# The tutorials are shown with the outputs they are stored with; the tests execute them.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100

# Every reference leads somewhere, but those to other libraries: their inventories would need a network.
nitpicky = True
nitpick_ignore_regex = [
    # Strings in signatures that are cut into pieces, and types that stand for themselves.
    ("py:class", r"Tensor|ULDLoss|Mapping\[str|dict\[str|tuple\[Condition|\w*Verdict|Polynomial|Setting"),
    # What docstrings name though it is no public name.
    ("py:class", r"theory\.(audit\.setting|chains|exact\.rationals|problem|resolvent|streaming)\.\w+"),
    ("py:class", r"uld_torchrl\.trainers\.(engines\.Engine|playback\.Playback)"),
    ("py:(data|exc|func)", r"METHODS|STATISTICS|FEATURE_KINDS|ResetNeeded|probe_columns|condition_numbers"),
    ("py:(attr|func|mod)", r"uld_torchrl\.(data\.sampler|EnvironmentFault\.lanes)"),
    ("py:func", r"theory\.whitening\.whiten|uld_torchrl\.diagnostics\.statistics\.ridge_r2"),
]


def copy_tutorials() -> None:
    """Copy the notebooks to where Sphinx looks for pages, those unchanged since the last build excepted."""
    target = HERE / "tutorials"
    target.mkdir(exist_ok=True)
    wanted = {path.name: fitted(path) for path in (HERE.parent / "tutorials").glob("*.ipynb")}
    for old in target.iterdir():
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        copy = target / name
        if not copy.exists() or copy.read_text("utf-8") != text:
            copy.write_text(text, "utf-8")


def fitted(notebook: Path) -> str:
    """Return a notebook with links from here."""
    return notebook.read_text("utf-8").replace("](../docs/", "](../")


copy_tutorials()
