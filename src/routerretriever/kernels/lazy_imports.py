"""Packages whose import takes long and which are hardly needed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def import_lazily(name: str) -> None:
    """Let a package run its ``__init__`` only when something of it is asked for.

    Its subpackages can be imported meanwhile. Nothing happens if it is loaded already, or is not there.
    """
    spec = None if name in sys.modules else find_spec(name)
    if spec is None or spec.loader is None or spec.submodule_search_locations is None:
        return
    loader, module = spec.loader, ModuleType(name)
    module.__spec__, module.__file__ = spec, spec.origin
    module.__path__ = spec.submodule_search_locations

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(f"module '{name}' has no attribute '{attribute}'")
        del module.__getattr__
        loader.exec_module(module)
        return getattr(module, attribute)

    module.__getattr__ = load  # type: ignore[method-assign]
    sys.modules[name] = module


def import_lance_lazily() -> None:
    """Do without the client of Lance's REST catalogue: two thirds of a second, for what nobody uses here."""
    import_lazily("lance_namespace_urllib3_client")
