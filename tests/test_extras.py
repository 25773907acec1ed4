"""A framework that is not there, and what the library and its tests load without one."""

import ast
import subprocess
import sys
from importlib import metadata

import pytest
from large import TESTS, is_large
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from routerretriever.errors import MissingExtraError

EXTRAS = {
    "langchain": ("langchain_core", "langchain"),
    "llama_index": ("llama_index", "llama-index"),
    "haystack": ("haystack", "haystack"),
    "mteb": ("mteb", "mteb"),
    "mcp_server": ("mcp", "mcp"),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_framework_names_its_extra(name, monkeypatch):
    package, extra = EXTRAS[name]
    module = f"routerretriever.integrations.{name}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    for loaded in [key for key in sys.modules if key == package or key.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"routerretriever\[{extra}\]"):
        __import__(module)


@pytest.mark.slow
def test_no_framework_is_loaded_unless_asked_for():
    packages = [package for package, _ in EXTRAS.values()]
    code = (
        "import sys, routerretriever.cli, routerretriever.model, routerretriever.index, "
        f"routerretriever.integrations.shared; loaded = set({packages}) & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def installed_with(extra):
    """Every distribution that ``pip install routerretriever[extra]`` brings, by its canonical name."""
    found, open_ = set(), {("routerretriever", extra)}
    while open_:
        name, wanted = open_.pop()
        found.add((name, wanted))
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"extra": wanted}):
                continue
            name_of_it = canonicalize_name(requirement.name)
            open_ |= {(name_of_it, each) for each in ("", *requirement.extras)} - found
    return {name for name, _ in found}


def test_fast_tests_import_only_what_make_test_installs():
    """A larger environment would hide it until a fresh machine runs ``make test``."""
    there = installed_with("test")
    owners = metadata.packages_distributions()
    files = [path for path in TESTS.rglob("*.py") if path.name != "conftest.py"]
    fast = [path for path in files if not is_large(path)]
    assert len(fast) > 100
    for path in fast:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                brought_by = {canonicalize_name(owner) for owner in owners.get(top, [])}
                assert not brought_by or brought_by & there, f"{path.name} imports {name}"
