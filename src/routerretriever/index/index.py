"""The document index: one table that all experts share.

Documents are encoded by the base alone, so adding or removing experts never touches an index.
The table records the base's fingerprint and refuses another's vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self, Unpack

import numpy as np

from routerretriever.data.document import Document
from routerretriever.index.answer import Answer, Searcher, SearchOptions
from routerretriever.index.build.report import BuildReport
from routerretriever.index.build.settings import BuildSettings
from routerretriever.index.build.sources import decided, listing_of
from routerretriever.index.build.worker import Runner
from routerretriever.index.connection import located
from routerretriever.index.encoder import Encoder, Vectors
from routerretriever.index.filters import Condition
from routerretriever.index.maintained import MaintainedIndex
from routerretriever.index.migration.bridge import Bridge
from routerretriever.index.migration.settings import MigrationSettings
from routerretriever.index.open_store import (
    adopt_store,
    check_fingerprint,
    create_store,
    index_exists,
    open_store,
)
from routerretriever.index.parameters import SearchParameters
from routerretriever.index.querying import EncodedQueries, search_request
from routerretriever.index.recorded_model import load_recorded_model, recorded_place
from routerretriever.index.reports import Adopted, Migrated
from routerretriever.index.rows import Cut, part_blocks
from routerretriever.index.search import Hit
from routerretriever.index.store import Store
from routerretriever.index.view import Metric
from routerretriever.index.writer import BLOCK_ROWS
from routerretriever.progress import Progress, Silent


class Index(MaintainedIndex):
    """A folder or object-store URI with the documents of any number of collections.

    Use :meth:`create` or :meth:`open`.
    """

    def __init__(
        self,
        store: Store,
        model: Encoder | None,
        engine: str = "auto",
        bridge: Bridge | None = None,
    ) -> None:
        super().__init__(store, bridge)
        self._model, self._engine = model, engine
        self._searcher = Searcher(store, bridge)

    @classmethod
    def create(cls, uri: str | Path, model: Encoder, *, model_path: str | Path | None = None) -> Self:
        """Open the index at ``uri``, or make an empty one for this model.

        Args:
            uri: a folder or an object-store URI.
            model: its base encodes the documents.
            model_path: folder of the model or its name on the hub. It is recorded, so that
                :meth:`open` can load the model by itself.

        Raises:
            FingerprintError: the index there was made with another base.
            VectorIndexError: there is something that is not an index.
        """
        uri = located(uri)
        if index_exists(uri):
            return cls.open(uri, model)
        place = recorded_place(model_path) if model_path else ""
        return cls(create_store(uri, model, place), model)

    @classmethod
    def open(cls, uri: str | Path, model: Encoder | None = None, *, engine: str = "auto") -> Self:
        """Open an index; without ``model`` its own is opened when first needed, by an ``engine`` of ``open_model``.

        Raises:
            VectorIndexError: there is no index, or it was written by a newer version.
            FingerprintError: it was made with another base than ``model``'s, and no bridge leads there.
        """
        store = open_store(located(uri))
        bridge = None if model is None else check_fingerprint(store, model.fingerprint)
        return cls(store, model, engine, bridge)

    @classmethod
    def adopt(
        cls,
        uri: str,
        model: Encoder,
        columns: Mapping[str, str],
        *,
        collection: str = "",
        model_path: str | Path | None = None,
    ) -> tuple[Self, Adopted]:
        """Make an index of a table in PostgreSQL that is there already; nothing in it is changed.

        Some of its documents are encoded again, to see whether the vectors are the base's.

        Args:
            uri: ``postgresql://…?table=NAME``.
            model: whose base has encoded the documents.
            columns: names of the columns ``id``, ``text`` and ``vector``, and, where there are any,
                ``title`` and ``collection``.
            collection: of all documents, where no column says it.
            model_path: as for :meth:`create`.

        Raises:
            FingerprintError: the vectors are another base's.
            VectorIndexError: there is no such table or column, or ids repeat.
        """
        place = recorded_place(model_path) if model_path else ""
        store, adopted = adopt_store(uri, model, columns, collection=collection, place=place)
        return cls(store, model), adopted

    @property
    def uri(self) -> str:
        """The folder or object-store URI."""
        return self._store.uri

    @property
    def model(self) -> Encoder:
        """The model that encodes queries and documents."""
        if self._model is None:
            model = load_recorded_model(self._store.info["model"], self.uri, self._engine)
            check_fingerprint(self._store, model.fingerprint)
            self._model = model
        return self._model

    def upsert(
        self,
        documents: Iterable[Document],
        *,
        collection: str = "",
        encode: Callable[[list[str]], Vectors] | None = None,
        precision: str = "fp32",
        progress: Progress | None = None,
        durable: bool = False,
    ) -> int:
        """Add documents, in the place of those of the same collection and id.

        All are checked before the first is written. Two with the same id are refused. Those
        longer than the base reads are stored as passages. Numbers of a new field become floats
        if one of them is; later its type no longer changes.

        Args:
            documents: any number; they are encoded and written in blocks.
            collection: that they belong to.
            encode: texts of documents or passages → vectors (n, d) of the index's model;
                default the model itself. Without a model every document is one passage.
            precision: in which the model computes: ``fp32``, ``bf16``, ``int8`` or ``auto``.
            progress: where to report.
            durable: write everything through to the disk at the end.

        Returns:
            The number of documents written.

        Raises:
            CollectionError: a document cannot be stored: the name, the value or the type of a
                field, a text that is none, or an id that is there twice. Nothing is written.
            VectorIndexError: vectors have another length than the index's.
            StorageError: the disk is full or cannot be written; blocks before that are kept.
        """
        self._check_own_vectors()
        documents = list(documents)
        fields = self._store.check(documents, collection)
        embed = encode or partial(self.model.embed_texts, precision=precision, progress=progress)
        cut = self._cut if encode is None or self._model is not None else None
        for block in part_blocks(documents, cut, BLOCK_ROWS):
            vectors = embed([part.passage.content for part in block])
            self._store.write(block, vectors, collection, fields)
        self._store.after_write(progress or Silent())
        if durable:
            self.flush()
        return len(documents)

    def texts_to_encode(self, documents: Iterable[Document]) -> list[str]:
        """Return the texts whose vectors :meth:`upsert` asks for: of each document, or its passages."""
        blocks = part_blocks(documents, self._cut, BLOCK_ROWS)
        return [part.passage.content for block in blocks for part in block]

    @property
    def _cut(self) -> Cut | None:
        return self.model.cut if self._store.holds_passages else None

    def delete(self, ids: Iterable[str], *, collection: str = "") -> int:
        """Delete documents by id; unknown ids are ignored. Return how many there were.

        Raises:
            StorageError: the disk is full or cannot be written; some may be deleted.
        """
        before = len(self)
        self._store.delete(ids, collection)
        return before - len(self)

    def add(
        self,
        source: str | Path | Iterable[Document],
        *,
        collection: str | None = None,
        settings: BuildSettings | None = None,
        strict: bool = True,
        precision: str = "fp32",
        runner: Runner | None = None,
        progress: Progress | None = None,
    ) -> BuildReport:
        """Put a whole source into the index, as one new version.

        Only what is new or changed is encoded, chunk by chunk: after a kill the same call
        continues. Readers see the old version until the end.

        Args:
            source: a file, folder or URI of shards (JSONL, also ``.gz`` and ``.zst``, or
                Parquet), a folder of files such as PDF, a BEIR folder, anything
                :meth:`Collection.load` reads, or documents.
            collection: its name; default the source's.
            settings: what to do about documents that cannot be indexed, about an unfinished
                build, and about documents that are gone from the source.
            strict: as for :meth:`Collection.load`.
            precision: as for :meth:`upsert`.
            runner: encodes the chunks elsewhere, such as
                :func:`routerretriever.cluster.encode_on`; default this process.
            progress: where to report.

        Raises:
            CollectionError: a document cannot be indexed, and ``settings.on_error`` is ``stop``.
            BuildError: another build of this index has not finished, or the cluster does not fit.
            StorageError: the disk is full or cannot be written; what is recorded is kept.
        """
        self._check_own_vectors()
        settings = settings or BuildSettings()
        listing = listing_of(source, collection, settings, strict=strict, progress=progress)
        precision = self.model.document_precision(precision)
        report = self._store.build(
            listing,
            decided(settings, listing),
            model=self.model,
            precision=precision,
            runner=runner,
            progress=progress or Silent(),
        )
        self._store.after_write(progress or Silent())
        self.flush()
        return report

    def migrate(
        self,
        model: Encoder,
        *,
        model_path: str | Path | None = None,
        settings: MigrationSettings | None = None,
        progress: Progress | None = None,
    ) -> Migrated:
        """Give the index the base of another model, while it is searched and written.

        First a bridge is fitted, by which the new model's queries find the old vectors at once. Then
        the documents are encoded; after a kill the same call continues. At the end the new vectors
        take the place of the old ones, in one version.

        Args:
            model: with the new base.
            model_path: as for :meth:`create`.
            settings: see :class:`routerretriever.index.migration.settings.MigrationSettings`.
            progress: where to report.

        Raises:
            BuildError: it is being migrated to a third base, or a build has not finished.
            VectorIndexError: the store cannot do that.
            StorageError: the disk is full or cannot be written; what was encoded is kept.
        """
        place = recorded_place(model_path) if model_path else ""
        done = self._store.migrate(model, place, settings or MigrationSettings(), progress or Silent())
        store = open_store(self._store.uri)
        bridge = check_fingerprint(store, model.fingerprint)
        self._store, self._model, self._bridge = store, model, bridge
        self._searcher = Searcher(store, bridge)
        return done

    @property
    def metric(self) -> Metric:
        """How vectors are compared."""
        return self._store.metric

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        expert: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Hit]:
        """Return the k documents that fit a query best.

        Args:
            query: the text, which the model routes.
            k: at most this many results; fewer only if fewer documents satisfy ``where`` or
                ``min_relevance``, or, in mode ``text``, have a word of the query.
            expert: pins ``base``, ``merged`` or an expert instead of routing.
            options: those of :class:`routerretriever.index.answer.SearchOptions`, as follows.
            where: condition on ``collection``, ``id``, ``title``, ``text`` or metadata fields:
                SQL, or plain data as :data:`routerretriever.index.filters.Condition`
                describes, which is safe to take from clients.
            exact: scan all vectors even where an approximate index exists.
            mode: ``hybrid`` ranks by similarity and by the words of title and text (BM25),
                ``vector`` by similarity alone, ``text`` by words alone, without any model.
                Default ``hybrid``, or ``vector`` for an index without a text index.
            parameters: how hard an approximate index is searched.
            rerank: reads the best fifty documents and orders them by relevance; see
                :class:`routerretriever.Reranker`.
            min_relevance: leaves out hits that are less probably relevant, 0..1.
            passages: every hit is a passage, and several may be of one document; otherwise every
                hit is a document, ranked and shown by its best passage.

        Raises:
            ExpertError: there is no such expert.
            VectorIndexError: the condition cannot be understood, there is no text index, or nothing
                says how relevant the hits are.
        """
        return self.answer([query], k, expert=expert, **options)[0].hits

    def search_many(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        expert: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[list[Hit]]:
        """Search for several queries, as :meth:`search` does for one."""
        return [found.hits for found in self.answer(queries, k, expert=expert, **options)]

    def answer(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        expert: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Answer]:
        """Search for several queries, and say what encoded each and how words counted.

        Options and errors are those of :meth:`search`.
        """
        mode = self._searcher.mode(options.get("mode"))
        encoded = self._searcher.encode(lambda: self.model, queries, mode, expert)
        return self._searcher.answer(encoded, k, mode, options)

    def answer_encoded(
        self, encoded: EncodedQueries, k: int = 10, **options: Unpack[SearchOptions]
    ) -> list[Answer]:
        """Search as :meth:`answer` does, with queries that were encoded already."""
        return self._searcher.answer(encoded, k, self._searcher.mode(options.get("mode")), options)

    def search_vectors(
        self,
        vectors: Vectors,
        k: int = 10,
        *,
        where: str | Condition | None = None,
        exact: bool = False,
        parameters: SearchParameters | None = None,
    ) -> list[list[Hit]]:
        """Return the documents most similar to query vectors (n, d) of the model."""
        vectors = self.compared(vectors)
        with self._store.view(where) as view:
            request = search_request(view, k, exact=exact, parameters=parameters)
            return [request.by_vector(vector) for vector in vectors]

    def compared(self, vectors: Vectors) -> Vectors:
        """Return query vectors (n, d) of the model as documents are compared with them: across the bridge, if any."""
        vectors = np.atleast_2d(vectors)
        return vectors if self._bridge is None else self._bridge.old_vectors(vectors)

    def lookup(self, ids: Iterable[str]) -> dict[tuple[str, str], Vectors]:
        """Return vectors (d,), of first passages, by (collection, id); an id may be in several collections."""
        self._check_own_vectors()
        return self._store.lookup(ids)
