"""What the site says that the packages know: public names, settings, the command line's options.

Plain functions without Sphinx, so that the tests can ask them; the directives are in ``uld_site``.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
from typing import Any, get_args, get_type_hints

import theory
import uld_torchrl
from uld_torchrl import cli
from uld_torchrl.config import PRESETS, AgentConfig
from uld_torchrl.peers import PEERS


def commands(union: Any = cli.Command, prefix: str = "uld") -> dict[str, type]:
    """Return the dataclass of each command by its name, those of a group by group and name."""
    found = {}
    for part in get_args(union):
        kind, called = get_args(part)[0], f"{prefix} {part.__metadata__[0].name}"
        inner = get_args(get_type_hints(kind, include_extras=True).get("command"))
        found |= commands(inner[0], called) if inner else {called: kind}
    return found


COMMANDS = commands()
"""The command line's commands, and the dataclass that holds the options of each."""


def packages() -> list[str]:
    """Return the names of the packages, those that list their public names in ``__all__``.

    Modules that are no packages are parts of one: what they give is public there, or not at all.
    """
    found = []
    for top in (uld_torchrl, theory):
        inside = pkgutil.walk_packages(top.__path__, f"{top.__name__}.")
        names = [top.__name__, *(module.name for module in inside if module.ispkg)]
        found += [name for name in names if hasattr(importlib.import_module(name), "__all__")]
    return found


def public_names(package: str) -> dict[str, Any]:
    """Return the public objects of a package by name."""
    module = importlib.import_module(package)
    return {name: getattr(module, name) for name in module.__all__}


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass; a field without one is left out."""
    (node,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(node, ast.ClassDef)
    docs = {}
    for field, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(after):
            docs[field.target.id] = " ".join(ast.literal_eval(after.value).split())  # type: ignore[attr-defined]
    return docs


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def sections() -> dict[str, Any]:
    """Return the default settings of each section: those of ``AgentConfig``, and a peer's own."""
    return {**parts(AgentConfig()), **{name: kind() for name, kind in PEERS.items()}}


def parts(config: AgentConfig) -> dict[str, Any]:
    """Return the sections of an agent's settings."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def setting_rows(section: str) -> list[tuple[str, str, str, str]]:
    """Return name, default, presets that differ, and help of each setting of a section."""
    default, rows = sections()[section], []
    docs = field_docs(type(default))
    presets = {name: parts(config).get(section, default) for name, config in PRESETS.items()}
    for field in dataclasses.fields(default):
        value = getattr(default, field.name)
        others = {name: getattr(part, field.name) for name, part in presets.items()}
        differ = ", ".join(f"{name}: {other}" for name, other in others.items() if other != value)
        rows.append((f"{section}.{field.name}", str(value), differ, docs[field.name]))
    return rows


def option_rows(command: type) -> list[tuple[str, str, str]]:
    """Return option, default and help of each field of a command's dataclass; positional ones in capitals."""
    docs, rows = field_docs(command), []
    for field in dataclasses.fields(command):
        positional = str(field.type).startswith("tyro.conf.Positional")
        name = field.name.upper() if positional else "--" + field.name.replace("_", "-")
        rows.append((name, _default(field), docs[field.name]))
    return rows


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    return "" if field.default in (None, (), False, "") else str(field.default)
