"""The site's own parts for Sphinx: tables of settings and options, and what is checked after reading.

What the tables say comes from ``site_facts``. References to other libraries are let through here: their
inventories would need a network.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from site_facts import COMMANDS, option_rows, packages, public_names, setting_rows
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import signature, stringify_signature

logger = logging.getLogger(__name__)
LIBRARIES = frozenset(
    {"gymnasium", "jaxtyping", "matplotlib", "numpy", "scipy", "tensordict", "torch", "torchrl"}
)
"""Of which no inventory is at hand."""


class SettingsTable(Directive):
    """A table of one section of ``AgentConfig``: name, default, presets that differ, help."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        head = ("Setting", "Default", "Presets that differ", "Meaning")
        return [table(head, setting_rows(self.arguments[0]), code=(0, 1))]


class OptionsTable(Directive):
    """A table of one command's options: name, default, help."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the table, or a sentence where there is no option."""
        rows = option_rows(COMMANDS[self.arguments[0]])
        if not rows:
            return [nodes.paragraph(text="It has no options.")]
        return [table(("Option", "Default", "Meaning"), rows, code=(0, 1))]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], code: Sequence[int]) -> nodes.table:
    """Return a table; columns in ``code`` are set as code."""
    whole, group = nodes.table(), nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    header, body = nodes.thead(), nodes.tbody()
    header += _row([nodes.paragraph(text=title) for title in head])
    for row in rows:
        body += _row([_cell(text, index in code) for index, text in enumerate(row)])
    group += [header, body]
    whole += group
    return whole


def _row(cells: Iterable[nodes.Node]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", cell) for cell in cells))


def _cell(text: str, code: bool) -> nodes.paragraph:
    """Return a cell; what stands between backticks in a docstring is code as well."""
    parts = [(text, True)] if code else [(part, k % 2 == 1) for k, part in enumerate(re.split("`+", text))]
    return nodes.paragraph("", "", *(_inline(part, literal) for part, literal in parts if part))


def _inline(text: str, literal: bool) -> nodes.Node:
    return nodes.literal(text=text) if literal else nodes.Text(text)


class PublicNames(SphinxDirective):
    """A list of a package's public names: what each is, in the first line of its docstring."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the list, each name a link to where it is described."""
        names = public_names(self.arguments[0])
        lines = [f":py:obj:`{name} <{self.arguments[0]}.{name}>`\n   {said(names[name])}" for name in names]
        return self.parse_text_to_nodes("\n".join(lines))


def said(value: Any) -> str:
    """Return the first line of a docstring."""
    return inspect.getdoc(value).strip().partition("\n")[0]  # type: ignore[union-attr]


class Docstring(GoogleDocstring):
    """Google's form, in which a colon in a field's docstring or below ``Returns:`` ends no type.

    The types stand in the signatures.
    """

    def _parse_attribute_docstring(self) -> list[str]:
        return self._consume_to_end()

    def _consume_returns_section(self, preprocess_types: bool = False) -> list[tuple[str, str, list[str]]]:
        return [("", "", self._dedent(self._consume_to_next_section()))]


def read_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText, in which ``|r|`` is no substitution."""
    lines[:] = Docstring(lines, Config(), app, what, name, obj, options).lines()
    for index, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = line.split("`")
            parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
            lines[index] = "`".join(parts)


def show_signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, *shown: Any) -> Any:
    """Show the signature of a class's own ``__init__`` where its metaclass takes anything."""
    if what != "class" or shown[0] != "(*args, **kwargs)":
        return None
    init = signature(obj.__init__, bound_method=True)
    return stringify_signature(init, show_return_annotation=False, unqualified_typehints=True), None


def check_public_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of each public name that no page describes."""
    for name in missing_names(described(env)):
        logger.warning("public name %s stands on no page: add it to docs/api", name)


def described(env: BuildEnvironment) -> set[str]:
    """Return the names of all that the pages describe."""
    return set(env.domains.python_domain.objects)


def missing_names(found: set[str]) -> list[str]:
    """Return the public names that are described under none of their names."""
    return sorted(name for name, others in other_names().items() if not others & found)


@cache
def other_names() -> dict[str, set[str]]:
    """Return for each public name all public names of the same object, and the one it was defined under."""
    named: dict[int, set[str]] = {}
    for package in packages():
        for name, value in public_names(package).items():
            named.setdefault(id(value), set()).add(f"{package}.{name}")
            if inspect.isclass(value) or inspect.isroutine(value):
                named[id(value)].add(f"{value.__module__}.{value.__qualname__}")
    return {name: names for names in named.values() for name in names}


def name_the_error(app: Sphinx, doctree: nodes.document) -> None:
    """Say of each ``InputError`` whose it is: both packages have one."""
    for node in doctree.findall(pending_xref):
        if node.get("reftarget") == "InputError":
            ours = str(node.get("py:module")).startswith("uld_torchrl")
            node["reftarget"] = "uld_torchrl.errors.InputError" if ours else "theory.InputError"


def resolve(app: Sphinx, env: BuildEnvironment, node: Any, content: nodes.TextElement) -> nodes.Node | None:
    """Lead a reference to another name of a public object, and show that to another library as text."""
    target, library = node.get("reftarget", ""), node.get("reftarget", "").partition(".")[0]
    if node.get("refdomain") != "py":
        return None
    for name in other_names().get(target, set()) & described(env):
        domain = env.domains.python_domain
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)
    ours = library in ("uld_torchrl", "theory")
    return None if ours or not (library in sys.stdlib_module_names or library in LIBRARIES) else content


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of all this."""
    app.add_directive("settings", SettingsTable)
    app.add_directive("options", OptionsTable)
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", show_signature)
    app.connect("doctree-read", name_the_error)
    app.connect("env-check-consistency", check_public_names)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
