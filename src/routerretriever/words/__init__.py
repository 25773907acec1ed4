"""Search by words: text indexes, and one ranking made from words and vectors."""

from routerretriever.kernels.lazy_imports import import_lance_lazily

import_lance_lazily()  # before anything in this folder imports lance
