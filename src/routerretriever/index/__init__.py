"""The document index, which all experts share."""

from routerretriever.kernels.lazy_imports import import_lance_lazily

import_lance_lazily()  # before anything in this folder imports lance
