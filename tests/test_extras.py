"""A framework that is not there, and what the library loads without one."""

import subprocess
import sys

import pytest

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
