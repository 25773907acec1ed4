"""Models on disk: atomic saves, locks, the log of versions, downloads."""

from routerretriever.kernels.lazy_imports import import_lazily

import_lazily("huggingface_hub.errors")  # which loads a client of HTTP
