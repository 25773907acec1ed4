"""Work for a Ray cluster: documents encoded by many machines, vector indexes built and searched.

What is made here is handed to :meth:`routerretriever.Index.add` and
:meth:`routerretriever.Index.build_index`.
"""

import os

from routerretriever.errors import MissingExtraError

# Threads of Ray Data outlive a job that is stopped; what they ask for would start another
# cluster behind its back. Ray reads this when it is imported.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

try:
    import lance_ray  # noqa: F401
    import ray  # noqa: F401
except ImportError as error:
    raise MissingExtraError("ray", error.name or "ray") from error

from routerretriever.cluster.encode import encode_on
from routerretriever.cluster.vector_index import build_index_on, searching

__all__ = ["build_index_on", "encode_on", "searching"]
