"""The public names: all resolve, all are documented, and none is imported before it is used."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import uld_torchrl

PACKAGES = (
    "uld_torchrl",
    "uld_torchrl.data",
    "uld_torchrl.diagnostics",
    "uld_torchrl.envs",
    "uld_torchrl.modules",
    "uld_torchrl.objectives",
)


@pytest.mark.parametrize("name", uld_torchrl.__all__)
def test_each_public_object_resolves_and_has_a_docstring_with_an_example(name: str) -> None:
    documentation = getattr(uld_torchrl, name).__doc__
    assert documentation is not None
    assert "Example:" in documentation and ">>> " in documentation


def test_the_names_for_type_checkers_are_those_that_resolve() -> None:
    text = (Path(uld_torchrl.__file__)).read_text(encoding="utf-8")
    typed = text[text.index("if TYPE_CHECKING:") : text.index("def __getattr__")]
    names = {name for name in re.findall(r"\w+", typed) if name in uld_torchrl._HOMES}
    assert uld_torchrl.__all__ == sorted(uld_torchrl._HOMES) == sorted(names)


def test_the_glossary_names_what_exists() -> None:
    from uld_torchrl import ULDLoss, config, functional, modules, trainers

    lines = (uld_torchrl.__doc__ or "").split("equation or meaning\n")[1].splitlines()
    identifiers = [name for line in lines if line.strip() for name in line[14:49].split(" / ")[0].split(", ")]
    keys = vars(ULDLoss.default_keys())
    homes = (functional, *modules.Networks.__dataclass_fields__, *config.LossConfig.__dataclass_fields__)
    assert len(lines) - 1 < len(identifiers) == 19
    for name in (identifier.strip() for identifier in identifiers):
        known = (
            hasattr(functional, name.removeprefix("functional."))
            or name in {*keys.values(), *homes, *keys}
            or name in ULDLoss.__annotations__
            or name in trainers.logs.METRICS
            or name in vars(modules.encoders.StateActionEncoder(1, 1))["_modules"]
        )
        assert known, name


@pytest.mark.parametrize("package", PACKAGES)
def test_all_lists_what_a_package_gives(package: str) -> None:
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'uld_torchrl' has no attribute 'ULDLosses'"):
        uld_torchrl.ULDLosses  # noqa: B018


def test_the_package_imports_no_torch() -> None:
    code = (
        "import sys, uld_torchrl, uld_torchrl.config, uld_torchrl.errors; dir(uld_torchrl);"
        "sys.exit(', '.join({'torch', 'tensordict', 'numpy', 'gymnasium'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_a_plain_string() -> None:
    assert uld_torchrl.__version__.count(".") == 2
