"""What lets commands that answer queries begin sooner."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _NotThere(MetaPathFinder):
    """Finds that a package is not installed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Raise the error of a package that is missing, or leave the name to the other finders."""
        if name == self._name:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def use_arrow_without_pandas() -> None:
    """Let Arrow take pandas for missing in this process, where it would load it for the first array.

    That takes a second and 50 MB. Arrow converts nothing from or to pandas then, so this is for programs
    of our own that do not; pandas itself can be imported as ever.
    """
    if "pandas" in sys.modules:
        return
    hiding = _NotThere("pandas")
    sys.meta_path.insert(0, hiding)
    try:
        import pyarrow as pa  # looks for pandas once, with its first array

        pa.array([0])
    finally:
        sys.meta_path.remove(hiding)
