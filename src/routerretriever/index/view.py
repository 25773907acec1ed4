"""What a search asks of the store: one state of the documents that may be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from routerretriever.data.document import Document
from routerretriever.index.encoder import Vectors
from routerretriever.index.fields import is_missing
from routerretriever.index.parameters import SearchParameters
from routerretriever.passages.passage import Place

Metric = Literal["cosine", "dot"]

RowIds = NDArray[np.uint64]
"""Numbers that a store gives to rows (n,): of one view, not of documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A row as it is shown; ``metadata`` has all fields of the index, also those without a value.

    ``passage`` says where the text is in the document; ``None`` if it is the whole.
    """

    collection: str
    id: str
    title: str | None
    text: str
    metadata: Mapping[str, Any]
    passage: Place | None = None


def document_of(records: Sequence[Record]) -> Document:
    """Return all records of a document as the document that was written."""
    first = records[0]
    text = first.text
    if first.passage is not None:
        text = ""
        for record in sorted(records, key=_start):
            # Passages overlap, or leave out white space between them.
            text = text.ljust(_start(record))[: _start(record)] + record.text
    fields = {name: value for name, value in first.metadata.items() if not is_missing(value)}
    return Document(first.id, text, first.title or "", fields)


def _start(record: Record) -> int:
    return 0 if record.passage is None else record.passage.start


class View(Protocol):
    """One state of the documents of an index that satisfy a condition."""

    @property
    def metric(self) -> Metric:
        """How vectors are compared."""

    @property
    def has_passages(self) -> bool:
        """Whether a document is several rows."""

    def nearest(self, vector: Vectors, k: int, parameters: SearchParameters | None) -> tuple[RowIds, Vectors]:
        """Return the k rows nearest to a vector (d,), nearest first, and their similarities.

        Args:
            vector: the query's (d,).
            k: rows, at most.
            parameters: how hard an approximate index is searched; ``None`` scans all vectors.

        Raises:
            VectorIndexError: the condition cannot be understood.
        """

    def matching(self, query: str, k: int) -> tuple[RowIds, NDArray[np.float32]]:
        """Return the k best rows with words of a query, best first, and their BM25 scores."""

    @property
    def fields(self) -> Mapping[str, pa.DataType]:
        """Types of the fields that can be filtered by."""

    def count(self) -> int:
        """Return the number of rows that satisfy the condition."""

    def count_documents(self) -> int:
        """Return the number of documents that satisfy the condition."""

    def first_rows(self, offset: int, limit: int) -> RowIds:
        """Return a row of each document (n,), as they are stored, without the first ``offset``."""

    def documents(self, rows: RowIds) -> NDArray[np.intp]:
        """Return the number of each row's document (n,), in the order in which they first occur."""

    def vectors(self, rows: RowIds) -> Vectors:
        """Return the vectors of rows (n, d), in their order."""

    def records(self, rows: RowIds) -> Sequence[Record]:
        """Return what is shown of rows (n,), in their order."""
