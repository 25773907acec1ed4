"""What an index asks of the model that encodes its documents and queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from routerretriever.data.document import Document
from routerretriever.passages.passage import Passage
from routerretriever.progress import Progress
from routerretriever.routing.search_plan import SearchPlan

Vectors = NDArray[np.float32]
"""A float32 matrix of shape (n, d)."""


class RoutedQueries(Protocol):
    """Vectors of queries, and what encoded each."""

    @property
    def vectors(self) -> Vectors:
        """Vectors of the queries (n, d)."""

    @property
    def experts(self) -> Sequence[str]:
        """The candidate that encoded each query."""

    @property
    def plans(self) -> Sequence[SearchPlan]:
        """How an index is searched with each query (n,)."""


class Encoder(Protocol):
    """Encodes documents by one frozen base, and queries so that they find them.

    :class:`routerretriever.RouterRetriever` is one.
    """

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides document vectors."""

    @property
    def similarity_fn_name(self) -> Any:
        """How vectors are compared: ``cosine`` or ``dot``."""

    @property
    def dimension(self) -> int:
        """Length of the vectors."""

    def document_precision(self, precision: str) -> str:
        """Return the precision that documents are encoded in, given the one asked for."""

    def cut(self, document: Document) -> list[Passage]:
        """Return the passages of a document: one if the base reads it whole."""

    def embed_texts(
        self, texts: Sequence[str], *, precision: str = "fp32", progress: Progress | None = None
    ) -> Vectors:
        """Return the vectors of documents (n, d)."""

    def encode_query(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the vectors of queries (n, d), routed or by a pinned ``expert``."""

    def encode_routed(
        self, queries: Sequence[str], experts: Sequence[str | None] | None = None
    ) -> RoutedQueries:
        """Encode a batch of queries, and say what encoded each."""

    def check_candidate(self, name: str) -> None:
        """Refuse a name that is neither ``base``, ``merged`` nor an expert."""
