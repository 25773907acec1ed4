"""Work for a Ray cluster: documents encoded by many machines, vector indexes built and searched.

What is made here is handed to :meth:`routerretriever.Index.add` and
:meth:`routerretriever.Index.build_index`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from routerretriever.errors import MissingExtraError
from routerretriever.extras import of_training

# Threads of Ray Data outlive a job that is stopped; what they ask for would start another
# cluster behind its back. Ray reads this when it is imported.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

try:
    import ray  # noqa: F401
except ImportError as error:
    raise MissingExtraError("ray", error.name or "ray") from error

if TYPE_CHECKING:
    from routerretriever.cluster.encode import encode_on
    from routerretriever.cluster.vector_index import build_index_on, searching

__all__ = ["build_index_on", "encode_on", "searching"]
_MODULE_OF = {"build_index_on": "vector_index", "encode_on": "encode", "searching": "vector_index"}


def __getattr__(name: str) -> Any:
    """Import a name on first use: replicas of a server need a cluster, and do without torch."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'routerretriever.cluster' has no attribute '{name}'")
    try:
        with of_training():
            return getattr(import_module(f"routerretriever.cluster.{_MODULE_OF[name]}"), name)
    except ImportError as error:
        raise MissingExtraError("ray", error.name or "ray") from error
