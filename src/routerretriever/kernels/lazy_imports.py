"""Packages whose import takes long and which are hardly ever needed."""

from __future__ import annotations

import sys
import threading
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def import_lazily(name: str) -> None:
    """Let a package or a module be executed only when something of it is asked for.

    Subpackages can be imported meanwhile. Nothing happens if it is loaded already, or is not there.
    """
    spec = None if name in sys.modules else find_spec(name)
    if spec is None or spec.loader is None:
        return
    loader, module = spec.loader, ModuleType(name)
    module.__spec__, module.__file__ = spec, spec.origin
    if spec.submodule_search_locations is not None:
        module.__path__ = spec.submodule_search_locations
    lock = threading.RLock()
    begun = False

    def load(attribute: str) -> Any:
        nonlocal begun
        missing = AttributeError(f"module '{name}' has no attribute '{attribute}'")
        if attribute.startswith("__"):
            raise missing
        # Other threads wait here until the package is there as a whole.
        with lock:
            if not begun:
                begun = True
                loader.exec_module(module)
                return getattr(module, attribute)
            if attribute in vars(module):
                return vars(module)[attribute]
        raise missing

    module.__getattr__ = load  # type: ignore[method-assign]
    sys.modules[name] = module
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)


def import_lance_lazily() -> None:
    """Let everything do without the client of Lance's REST catalogue, which nobody uses here."""
    import_lazily("lance_namespace_urllib3_client")
