"""Vectors of documents of any length: of each document whole, or of its passages.

Everything that compares queries with a collection's documents (evaluation, training,
pilots, suites, synthesis) gets their vectors from here, so that this is the only place
where it is decided whether long documents are read by passages or cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from routerretriever.data.document import Document
from routerretriever.kernels.vectors import Vectors
from routerretriever.passages.passage import Passage
from routerretriever.progress import Progress, Silent


class CutsAndEncodes(Protocol):
    """What vectors of documents need of a model."""

    def cut(self, document: Document) -> list[Passage]:
        """Return the passages of a document: one if the base reads it whole."""

    def reads_whole(self, document: Document) -> bool:
        """Return whether the base reads a document to its end."""

    def embed_texts(
        self, texts: Sequence[str], *, precision: str = "fp32", progress: Progress | None = None
    ) -> Vectors:
        """Return the vectors of texts (n, d)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentCounts:
    """How documents of any length were read.

    Attributes:
        documents: number of documents.
        passages: number of vectors: one of each document, or of each of its passages.
        in_passages: documents that were cut into several passages.
        cut_off: documents whose end was not read.
    """

    documents: int = 0
    passages: int = 0
    in_passages: int = 0
    cut_off: int = 0

    def __add__(self, other: DocumentCounts) -> DocumentCounts:
        return DocumentCounts(
            documents=self.documents + other.documents,
            passages=self.passages + other.passages,
            in_passages=self.in_passages + other.in_passages,
            cut_off=self.cut_off + other.cut_off,
        )

    def __str__(self) -> str:
        """Return a sentence without its full stop."""
        if self.in_passages:
            parts = self.passages - self.documents + self.in_passages
            return f"{self.documents:,} documents, {self.in_passages:,} of them cut into {parts:,} passages"
        if self.cut_off:
            return f"{self.documents:,} documents, {self.cut_off:,} of them cut off after what the base reads"
        return f"{self.documents:,} documents, all read whole"

    def to_dict(self) -> dict[str, int]:
        """Return plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentVectors:
    """Documents as they are searched: each whole, or as its passages.

    Attributes:
        documents: the documents (m).
        passages: theirs, in the same order (P); one of each document that is whole or
            cut off.
        owners: row of each passage's document (P,), ascending.
        vectors: of the passages (P, d).
        cut_off: number of documents whose end was not read.
    """

    documents: Sequence[Document]
    passages: Sequence[Passage]
    owners: NDArray[np.intp]
    vectors: Vectors
    cut_off: int = 0

    @classmethod
    def of(
        cls,
        model: CutsAndEncodes,
        documents: Sequence[Document],
        *,
        cut_off: bool = False,
        parts: Sequence[Sequence[Passage]] | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Cut and encode documents, as an index does.

        Args:
            model: its base encodes, and its tokeniser counts.
            documents: of any length (m).
            cut_off: read only the beginning of long documents, as much as the base
                reads.
            parts: passages of each document (m), where they were cut already.
            progress: where to report.
        """
        passages: list[Passage] = []
        owners: list[int] = []
        unread = 0
        with (progress or Silent()).task("cut documents", len(documents)) as task:
            for row, document in enumerate(documents):
                own: Sequence[Passage]
                if cut_off:
                    own = [Passage.whole(document)]
                    unread += not model.reads_whole(document)
                else:
                    own = model.cut(document) if parts is None else parts[row]
                passages += own
                owners += [row] * len(own)
                task.advance(1)
        vectors = model.embed_texts([passage.content for passage in passages], progress=progress)
        return cls(
            documents=documents,
            passages=passages,
            owners=np.array(owners, np.intp),
            vectors=vectors,
            cut_off=unread,
        )

    @classmethod
    def whole(cls, documents: Sequence[Document], vectors: Vectors) -> Self:
        """Return documents that were encoded elsewhere, one vector for each (m, d)."""
        passages = [Passage.whole(document) for document in documents]
        return cls(documents=documents, passages=passages, owners=np.arange(len(documents)), vectors=vectors)

    @property
    def in_passages(self) -> bool:
        """Whether some document is several passages."""
        return len(self.passages) > len(self.documents)

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """The first passage of each document (m,)."""
        return np.searchsorted(self.owners, np.arange(len(self.documents)))

    @property
    def groups(self) -> NDArray[np.intp] | None:
        """What :func:`routerretriever.kernels.exact_search.top_k` groups passages by; ``None`` for nothing."""
        return self.starts if self.in_passages else None

    def passages_of(self, row: int) -> range:
        """Return the passages of a document."""
        starts = self.starts
        end = int(starts[row + 1]) if row + 1 < len(starts) else len(self.passages)
        return range(int(starts[row]), end)

    @property
    def counts(self) -> DocumentCounts:
        """How many documents were read how."""
        sizes = np.bincount(self.owners, minlength=len(self.documents))
        return DocumentCounts(
            documents=len(self.documents),
            passages=len(self.passages),
            in_passages=int(np.count_nonzero(sizes > 1)),
            cut_off=self.cut_off,
        )

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Title and text of each passage (P), as the text index of an index holds them."""
        shown = []
        for owner, passage in zip(self.owners.tolist(), self.passages, strict=True):
            shown.append((self.documents[owner].title, passage.text))
        return shown
