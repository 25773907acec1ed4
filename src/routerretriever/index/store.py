"""What an index asks of the store that holds its documents.

Lance and PostgreSQL are stores. Encoding, the fusion of words and vectors, relevance and
reranking are done above them, once for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Protocol

import pyarrow as pa

from routerretriever.data.document import Document
from routerretriever.index.build.chunks import Listing
from routerretriever.index.build.report import BuildReport
from routerretriever.index.build.settings import BuildSettings
from routerretriever.index.build.worker import Runner
from routerretriever.index.encoder import Encoder, Vectors
from routerretriever.index.filters import Condition
from routerretriever.index.kinds import IndexKind
from routerretriever.index.maintenance import Builder
from routerretriever.index.migration.bridge import Bridge
from routerretriever.index.migration.settings import MigrationSettings
from routerretriever.index.reports import Cleaned, Compacted, Flushed, IndexInfo, Migrated, Refreshed
from routerretriever.index.rows import Part
from routerretriever.index.texts import TextIndex
from routerretriever.index.view import Metric, View
from routerretriever.progress import Progress
from routerretriever.words.text_index import TextSettings


class Store(Protocol):
    """Holds the documents of one index, and what the index records about itself.

    The errors are those of the methods of :class:`routerretriever.Index`.
    """

    @property
    def uri(self) -> str:
        """Where the documents are, without a password."""

    @property
    def info(self) -> Mapping[str, Any]:
        """What the index records: base fingerprint, similarity, and place of the model."""

    @property
    def metric(self) -> Metric:
        """How vectors are compared."""

    @property
    def has_text(self) -> bool:
        """Whether the documents can be searched by words."""

    @property
    def holds_passages(self) -> bool:
        """Whether a document may be several rows; otherwise long ones are cut off."""

    @property
    def kind(self) -> IndexKind:
        """The vector index there is, and why it is of this kind."""

    def __len__(self) -> int: ...

    # -- reading -----------------------------------------------------------------------------

    def view(self, where: str | Condition | None) -> AbstractContextManager[View]:
        """Give the newest state of the documents that satisfy a condition.

        Raises:
            FilterError: the condition cannot be understood.
        """

    def lookup(self, ids: Iterable[str]) -> dict[tuple[str, str], Vectors]:
        """Return vectors (d,) of documents, or of their first passages, by (collection, id)."""

    def scan(self, collection: str | None) -> Iterator[tuple[list[Document], Vectors | None]]:
        """Yield all documents, of one state, in blocks, and their vectors (n, d).

        Documents that are several rows come last, without vectors.

        Args:
            collection: that they belong to; ``None`` for any.
        """

    # -- writing -----------------------------------------------------------------------------

    def check(self, documents: Sequence[Document], collection: str) -> Mapping[str, pa.DataType]:
        """Check all documents of a call, and return the columns that they need and the store lacks."""

    def write(
        self,
        parts: Sequence[Part],
        vectors: Vectors,
        collection: str,
        fields: Mapping[str, pa.DataType],
    ) -> None:
        """Write all parts of checked documents and their vectors (n, d), all or none of them."""

    def delete(self, ids: Iterable[str], collection: str) -> None:
        """Delete documents by id; unknown ids are ignored."""

    def build(
        self,
        listing: Listing,
        settings: BuildSettings,
        *,
        model: Encoder,
        precision: str,
        runner: Runner | None,
        progress: Progress,
    ) -> BuildReport:
        """Put everything listed into the index."""

    # -- another base ------------------------------------------------------------------------

    def bridge(self, fingerprint: str) -> Bridge | None:
        """Return what maps queries of another base to the documents; ``None`` if there is none."""

    def migrate(
        self, model: Encoder, place: str, settings: MigrationSettings, progress: Progress
    ) -> Migrated:
        """Encode all documents by another base, and take its vectors."""

    # -- maintenance -------------------------------------------------------------------------

    def after_write(self, progress: Progress) -> None:
        """Build the first indexes, or take new rows in, where there are many."""

    def build_index(self, kind: str, builder: Builder | None) -> IndexKind:
        """Build the vector index again."""

    def build_text_index(self, settings: TextSettings) -> TextIndex:
        """Build the text index again."""

    def drop_text_index(self) -> None:
        """Drop the text index, and keep none from now on."""

    def compact(self) -> Compacted:
        """Give back the space that deleted rows take."""

    def refresh(self) -> Refreshed:
        """Take rows that were written since into the indexes."""

    def clean(self, older_than: timedelta) -> Cleaned:
        """Remove old versions."""

    def flush(self) -> Flushed:
        """Write everything through to the disk."""

    def describe(self) -> IndexInfo:
        """Return the index at a glance."""
