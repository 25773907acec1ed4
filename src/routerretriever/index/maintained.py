"""What keeps an index in shape, whatever it is searched with."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from routerretriever.errors import FingerprintError
from routerretriever.index.export import KeepsVectors, export
from routerretriever.index.kinds import IndexKind
from routerretriever.index.listed import ListedIndex
from routerretriever.index.maintenance import KEEP_VERSIONS, Builder
from routerretriever.index.migration.bridge import Bridge
from routerretriever.index.reports import Cleaned, Compacted, Flushed, IndexInfo, Refreshed
from routerretriever.index.store import Store
from routerretriever.index.texts import TextIndex
from routerretriever.words.text_index import AUTO, TextSettings


class MaintainedIndex(ListedIndex):
    """The part of :class:`routerretriever.Index` that looks after its store."""

    def __init__(self, store: Store, bridge: Bridge | None) -> None:
        self._store = store
        self._bridge = bridge

    def _check_own_vectors(self) -> None:
        """Refuse to read or write vectors with a model that the index does not have yet.

        Raises:
            FingerprintError: only a bridge leads from the model to the documents.
        """
        if self._bridge is not None:
            raise FingerprintError(
                f"The index {self._store.uri} is being migrated to the base of this model, and holds vectors of "
                f"the former one. Until that is done, use it with {self._store.info['model'] or 'the former model'}; "
                "only searches and deletions may use the new one."
            )

    @property
    def is_approximate(self) -> bool:
        """Whether searches use an approximate index."""
        return self.kind.kind != "flat"

    @property
    def kind(self) -> IndexKind:
        """The vector index there is, and why it is of this kind."""
        return self._store.kind

    def build_index(self, kind: str = "auto", *, builder: Builder | None = None) -> IndexKind:
        """Build the vector index again; the choice is remembered.

        Args:
            kind: ``auto`` chooses by the number of documents; ``flat`` drops the index, so that
                searches scan all vectors; ``ivf_flat``, ``ivf_pq``, ``ivf_rq`` and ``hnsw`` are
                approximate indexes.
            builder: builds it elsewhere, such as
                :func:`routerretriever.cluster.build_index_on`; default this process.

        Raises:
            VectorIndexError: there is no such kind, or it cannot be built for these vectors.
            BuildError: there is no such cluster, or nothing for it to do.
            StorageError: the disk is full or cannot be written.
        """
        return self._store.build_index(kind, builder)

    def build_text_index(self, *, tokenizer: str = AUTO, language: str = AUTO) -> TextIndex:
        """Build the full-text index of title and text again.

        The first write builds one; this builds it in another way, or where it was dropped.
        Documents written later are found at once, by a scan, and taken in by :meth:`refresh`.

        Args:
            tokenizer: ``simple``, ``icu``, ``ngram``, ``whitespace``, or ``auto``; see
                :class:`routerretriever.words.text_index.TextSettings`.
            language: whose words are stemmed: a name such as ``German``, ``none``, or ``auto``.

        Raises:
            VectorIndexError: there is no such tokenizer or language.
            StorageError: the disk is full or cannot be written.
        """
        settings = TextSettings(tokenizer=tokenizer, language=language)
        return self._store.build_text_index(settings)

    def drop_text_index(self) -> None:
        """Drop the text index; later writes build none until :meth:`build_text_index`."""
        self._store.drop_text_index()

    def export(
        self, folder: str | Path, *, collection: str | None = None, model: KeepsVectors | None = None
    ) -> int:
        """Write the documents into a folder as ``corpus.jsonl``, to train on, and return how many they are.

        Args:
            folder: gets the file; queries and judgements beside it are kept.
            collection: that is written; ``None`` for all.
            model: gets the vectors, so that training does not encode the documents again.

        Raises:
            CollectionError: there are no documents, the file exists, or ids repeat.
            StorageError: the disk is full or cannot be written.
        """
        if model is not None:
            self._check_own_vectors()
        return export(self._store, Path(folder), collection, model)

    def compact(self) -> Compacted:
        """Merge the fragments that writes have left, and drop deleted rows from them; errors as :meth:`refresh`."""
        return self._store.compact()

    def refresh(self) -> Refreshed:
        """Take rows that were written since into the vector index and the text index.

        Raises:
            StorageError: the disk is full or cannot be written; the index is as it was.
        """
        return self._store.refresh()

    def clean(self, older_than: timedelta = KEEP_VERSIONS) -> Cleaned:
        """Remove versions that are older than this, and the files that only they used.

        A reader keeps its version while a search lasts, so an hour is plenty unless something
        checks out versions by number. Files of a killed write are removed after seven days.

        Raises:
            VectorIndexError: ``older_than`` is negative.
            StorageError: something cannot be removed.
        """
        return self._store.clean(older_than)

    def flush(self) -> Flushed:
        """Write every file and folder that is new since the last flush through to the disk.

        Until this returns, a power cut can lose a write that has returned. The first flush of an
        opened index covers all its files; an object store needs none.

        Raises:
            StorageError: the disk reports that it could not write.
        """
        return self._store.flush()

    def describe(self) -> IndexInfo:
        """Return what the index holds and how it is searched; this reads one column of all documents."""
        return self._store.describe()
