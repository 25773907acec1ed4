"""The document index: one LanceDB table that all experts share.

Documents are encoded by the base alone, so adding or removing experts never touches an index. The
table records the base's fingerprint and refuses another's vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import pyarrow as pa

from routerretriever.data.document import Document, check_document
from routerretriever.encoder.bulk_documents import resolved_precision
from routerretriever.errors import FingerprintError, StorageError, VectorIndexError
from routerretriever.index import kinds as index_kinds
from routerretriever.index.build.build import build
from routerretriever.index.build.settings import BuildReport, Run, Settings, check_workers, run_here
from routerretriever.index.build.shards import Listing, list_pieces, pieces_of
from routerretriever.index.conflicts import retrying_conflicts
from routerretriever.index.connection import TABLE, View, connect, exists, located
from routerretriever.index.filters import Condition, to_sql
from routerretriever.index.kinds import Metric
from routerretriever.index.maintenance import Upkeep
from routerretriever.index.schema import OWN_COLUMNS, document_key, document_table, quoted, table_schema
from routerretriever.index.search import Hit, Mode, Reader, SearchParameters, check_mode
from routerretriever.progress import Progress, Silent
from routerretriever.routing.candidates import ROUTED
from routerretriever.storage.hub_download import downloaded, is_hub_name

if TYPE_CHECKING:
    from routerretriever.kernels.exact_search import Vectors
    from routerretriever.model import RouterRetriever

INDEX_FORMAT = 2
_ADD_BLOCK = 4096
_QUERY_BLOCK = 64

T = TypeVar("T")


class Index(Upkeep):
    """A folder (or object-store URI) with the documents of any number of collections.

    Use :meth:`create` or :meth:`open`.
    """

    def __init__(self, table: Any, info: Mapping[str, Any], uri: str, model: RouterRetriever | None) -> None:
        self._table, self._info, self.uri, self._model = table, info, uri, model
        self._view = View(uri)

    # -- opening -----------------------------------------------------------------------------------

    @classmethod
    def create(cls, uri: str | Path, model: RouterRetriever, *, model_path: str | Path | None = None) -> Self:
        """Open the index at ``uri``, or make an empty one for this model.

        Args:
            uri: a folder or an object-store URI.
            model: its base encodes the documents.
            model_path: folder or name on the hub; remembered, so that :meth:`open` can load the model by itself.

        Raises:
            FingerprintError: the index there was made with another base.
            VectorIndexError: something that is not an index stands there.
        """
        uri = located(uri)
        if exists(uri):
            return cls.open(uri, model)
        path = Path(uri)
        if path.is_dir() and any(path.iterdir()):
            raise VectorIndexError(f"{uri} is not empty and not an index. Choose another folder.")
        info = {
            "format_version": INDEX_FORMAT,
            "fingerprint": model.fingerprint,
            "similarity": model.similarity_fn_name,
            "model": _recorded(model_path) if model_path else "",
        }
        schema = table_schema(model.encoder.dimension, json.dumps(info).encode())
        try:
            table = connect(uri).create_table(TABLE, schema=schema)
        except (OSError, RuntimeError) as error:
            raise StorageError(f"The index {uri} could not be created: {error}") from error
        return cls(table, info, uri, model)

    @classmethod
    def open(cls, uri: str | Path, model: RouterRetriever | None = None) -> Self:
        """Open an index; without ``model`` the one it was made with is loaded when first needed.

        Raises:
            VectorIndexError: there is no index, or it was written by a newer version.
            FingerprintError: it was made with another base than ``model``'s.
        """
        uri = located(uri)
        if not exists(uri):
            raise VectorIndexError(
                f"There is no index at {uri}. Make one: routerretriever index MODEL {uri} COLLECTION"
            )
        table = connect(uri).open_table(TABLE)
        try:
            info = json.loads((table.schema.metadata or {})[b"routerretriever"])
        except (KeyError, ValueError) as error:
            raise VectorIndexError(f"{uri} was not made by routerretriever. Choose another folder.") from error
        if info["format_version"] > INDEX_FORMAT:
            raise VectorIndexError(
                f"The index {uri} has format {info['format_version']}, this version reads up to {INDEX_FORMAT}. "
                "Upgrade routerretriever."
            )
        if info["format_version"] < INDEX_FORMAT:
            raise VectorIndexError(
                f"The index {uri} has format {info['format_version']}, this version makes {INDEX_FORMAT}. Index the "
                "documents again into a new folder; vectors come from the embedding cache."
            )
        index = cls(table, info, uri, None)
        if model is not None:
            index._attach(model)
        return index

    def _attach(self, model: RouterRetriever) -> None:
        if model.fingerprint != self._info["fingerprint"]:
            raise FingerprintError(
                f"The index {self.uri} was made with another base encoder (fingerprint "
                f"{self._info['fingerprint'][:12]}, the model has {model.fingerprint[:12]}). Use the model it "
                "was made with, or index the documents again into a new folder."
            )
        self._model = model

    @property
    def model(self) -> RouterRetriever:
        """The model that encodes queries and documents."""
        if self._model is None:
            from routerretriever.model import RouterRetriever

            recorded = self._info["model"]
            on_hub = bool(recorded) and not Path(recorded).is_absolute()
            if not on_hub and not Path(recorded or "-").is_dir():
                raise VectorIndexError(
                    f"The model of the index {self.uri} is not at '{recorded}' any more. Say where it is: --model PATH"
                )
            # A folder that has the name of a model on the hub does not come before it here: it was not there.
            self._attach(RouterRetriever.from_pretrained(downloaded(recorded) if on_hub else recorded))
        assert self._model is not None
        return self._model

    def __len__(self) -> int:
        return int(self._table.count_rows())

    # -- writing -----------------------------------------------------------------------------------

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
        """Add documents, replacing those of the same collection and id.

        Args:
            documents: any number; they are encoded and written in blocks.
            collection: that they belong to.
            encode: texts → vectors (n, d) of the index's model; default the model itself, with its cache.
            precision: in which the model computes: ``fp32``, ``bf16``, ``int8`` or ``auto``; see
                :func:`routerretriever.documents.encode_documents`.
            progress: where to report.
            durable: write everything through to the disk at the end; see :meth:`flush`.

        Returns:
            How many documents were written.

        Raises:
            CollectionError: a document cannot be stored: a number beyond 64 bits, or what is no text.
            VectorIndexError: a metadata field has another type than before.
            StorageError: the disk is full or cannot be written; documents before that are kept.
        """
        count = 0
        for block in _blocks(documents, _ADD_BLOCK):
            for number, document in enumerate(block, start=count + 1):
                check_document(document, f"Document {number}")
            texts = [document.content for document in block]
            embed = encode or partial(self.model.embed_texts, precision=precision, progress=progress)
            vectors = embed(texts)
            self._write(block, vectors, collection)
            count += len(block)
        self._refresh(progress or Silent())
        self.flush(durable=durable)
        return count

    def _write(self, documents: Sequence[Document], vectors: Vectors, collection: str) -> None:
        self._add_metadata_columns(documents)

        def merge() -> None:
            data = document_table(documents, collection, vectors, self._table.schema)
            merging = self._table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all()
            merging.execute(data)

        self._written(merge)

    def _written(self, work: Callable[[], Any]) -> None:
        try:
            retrying_conflicts(work)
        except (OSError, RuntimeError) as error:
            raise StorageError(f"The index {self.uri} could not be written: {error}") from error
        finally:
            self._view.expire()

    def _add_metadata_columns(self, documents: Sequence[Document]) -> None:
        known = set(self._table.schema.names)
        samples: dict[str, Any] = {}
        for document in documents:
            for name, value in document.metadata.items():
                if name in OWN_COLUMNS:
                    raise VectorIndexError(
                        f"Document '{document.id}' has a metadata field '{name}', a name the index needs. Rename it."
                    )
                if name not in known:
                    samples.setdefault(name, value)
        if samples:
            self._add_columns({name: pa.scalar(value).type for name, value in samples.items()})

    def _add_columns(self, types: Mapping[str, Any]) -> None:
        """Add those that are missing; another process may add the same at the same time."""

        def missing() -> list[tuple[str, Any]]:
            present = set(self._table.schema.names)
            return [(name, kind) for name, kind in types.items() if name not in present]

        while fields := missing():
            try:
                retrying_conflicts(partial(self._table.add_columns, pa.schema(fields)))
            except (OSError, RuntimeError, ValueError) as error:
                self._table.checkout_latest()
                if missing() == fields:  # nobody else added any
                    raise StorageError(f"The index {self.uri} could not be written: {error}") from error

    def delete(self, ids: Iterable[str], *, collection: str = "") -> int:
        """Delete documents by id; unknown ids are ignored. Returns how many were there.

        Raises:
            StorageError: the disk is full or cannot be written; documents before that are deleted.
        """
        before = len(self)
        keys = [quoted(document_key(collection, document_id)) for document_id in ids]
        for start in range(0, len(keys), _ADD_BLOCK):
            self._written(partial(self._table.delete, f"key IN ({', '.join(keys[start : start + _ADD_BLOCK])})"))
        return before - len(self)

    def build(
        self,
        source: str | Path | Iterable[Document],
        *,
        collection: str | None = None,
        settings: Settings | None = None,
        strict: bool = True,
        precision: str = "fp32",
        cluster: str | None = None,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> BuildReport:
        """Put a whole source into the index, as one new version: only what is new or changed is encoded.

        What is done is recorded piece by piece beside the index: after a kill, a full disk or a lost machine the
        same call goes on from there. Readers see the old version until the end.

        Args:
            source: a file, folder or URI of shards (JSONL, also ``.gz`` and ``.zst``, or Parquet), a BEIR folder,
                anything :meth:`Collection.load` reads, or documents.
            collection: its name; default the source's.
            settings: what to do with what cannot be indexed, with an unfinished build, and with rows that are gone.
            strict: as for :meth:`Collection.load`.
            precision: as for :meth:`upsert`.
            cluster: address of a Ray cluster, or ``local`` for one on this machine; default this process.
            workers: that encode on the cluster; default as many as it has processors or accelerators.
            progress: where to report.

        Raises:
            CollectionError: something cannot be indexed, and ``settings.on_error`` is ``stop``.
            BuildError: another build of this index has not finished, or the cluster does not fit.
            StorageError: the disk is full or cannot be written; what is recorded is kept.
        """
        check_workers(cluster, workers)
        if isinstance(source, str | Path):
            listing = list_pieces(source, strict=strict)
        else:
            listing = Listing("documents", tuple(pieces_of(source)))
        listing = replace(listing, name=collection or listing.name)
        precision = resolved_precision(precision, self.model.device)
        run: Run
        if cluster is None:
            run = run_here(partial(self.model.embed_texts, precision=precision))
        else:
            from routerretriever.cluster.encode import run_on

            run = run_on(cluster, self.model, precision=precision, workers=workers)
        identity = f"{self.model.fingerprint}-{precision}"
        settings = settings or Settings()
        report = build(self.uri, listing, run, settings, identity=identity, flush=self.flush, progress=progress)
        self._table.checkout_latest()
        self._view.expire()
        self._refresh(progress or Silent())
        self.flush()
        return report

    # -- searching ---------------------------------------------------------------------------------

    @property
    def is_approximate(self) -> bool:
        """Whether searches use an approximate index."""
        return bool(index_kinds.vector_indices(self._table))

    @property
    def metric(self) -> Metric:
        """How vectors are compared."""
        return "cosine" if self._info["similarity"] == "cosine" else "dot"

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        expert: str | None = None,
        where: str | Condition | None = None,
        exact: bool = False,
        mode: Mode = "vector",
        parameters: SearchParameters | None = None,
    ) -> list[Hit]:
        """The k documents that fit a query best.

        Args:
            query: the text, which the model routes.
            k: at most this many results; fewer only where fewer documents satisfy ``where``, or, in mode ``text``,
                have a word of the query.
            expert: pins ``base``, ``merged`` or an expert instead of routing.
            where: condition on ``collection``, ``id``, ``title``, ``text`` or metadata fields: SQL, or plain data
                as :mod:`routerretriever.filters` describes, which is safe to take from strangers.
            exact: scan all vectors even where an approximate index exists.
            mode: ``vector`` ranks by similarity, ``text`` by BM25 over title and text without any model, and
                ``hybrid`` by both as :func:`routerretriever.fusion.fuse` describes. The last two need
                :meth:`build_text_index`.
            parameters: how hard an approximate index is searched.

        Raises:
            ExpertError: there is no such expert.
            VectorIndexError: the condition cannot be understood, or there is no text index.
        """
        found = self.search_many([query], k, expert=expert, where=where, exact=exact, mode=mode, parameters=parameters)
        return found[0]

    def search_many(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        vectors: Vectors | None = None,
        experts: Sequence[str | None] | None = None,
        expert: str | None = None,
        where: str | Condition | None = None,
        exact: bool = False,
        mode: Mode = "vector",
        parameters: SearchParameters | None = None,
    ) -> list[list[Hit]]:
        """The same for several queries.

        Args:
            vectors: theirs (n, d), where they were encoded already.
            experts: what encoded each, which mode ``hybrid`` wants to know; default the base.
        """
        check_mode(mode)
        reader = self._reader(k, where, exact, parameters)
        if mode != "vector":
            index_kinds.check_text(self._table)
        if mode == "text":
            return [reader.by_text(query) for query in queries]
        if mode == "vector":
            given = self.model.encode_query(list(queries), expert=expert) if vectors is None else vectors
            return [reader.by_vector(vector) for vector in given]
        if vectors is None:
            vectors, experts = self._routed(queries, expert)
        by = experts or [None] * len(queries)
        return [reader.by_both(*query) for query in zip(queries, vectors, by, strict=True)]

    def _routed(self, queries: Sequence[str], expert: str | None) -> tuple[Vectors, list[str]]:
        """Vectors of queries, and what encoded each."""
        pinned = None if expert == ROUTED else expert
        blocks = [self.model.encode_routed(block, [pinned] * len(block)) for block in _blocks(queries, _QUERY_BLOCK)]
        vectors = [block.vectors for block in blocks] or [np.empty((0, self.model.encoder.dimension), np.float32)]
        return np.concatenate(vectors), [name for block in blocks for name in block.experts]

    def search_vectors(
        self,
        vectors: Vectors,
        k: int = 10,
        *,
        where: str | Condition | None = None,
        exact: bool = False,
        parameters: SearchParameters | None = None,
    ) -> list[list[Hit]]:
        """The documents most similar to query vectors (n, d)."""
        reader = self._reader(k, where, exact, parameters)
        return [reader.by_vector(vector) for vector in np.atleast_2d(vectors)]

    def lookup(self, ids: Iterable[str]) -> dict[tuple[str, str], Vectors]:
        """Vectors (d,) of documents by (collection, id); an id may be in several collections or in none."""
        wanted = list(dict.fromkeys(ids))
        found: dict[tuple[str, str], Vectors] = {}
        for start in range(0, len(wanted), _ADD_BLOCK):
            block = wanted[start : start + _ADD_BLOCK]
            rows = self._table.search().where(f"id IN ({', '.join(map(quoted, block))})")
            table = rows.select(["id", "collection", "vector"]).to_arrow()
            flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            vectors = flat.reshape(len(table), self._table.schema.field("vector").type.list_size)
            keys = zip(table["collection"].to_pylist(), table["id"].to_pylist(), strict=True)
            found.update(zip(keys, vectors, strict=True))
        return found

    def _reader(
        self, k: int, where: str | Condition | None, exact: bool, parameters: SearchParameters | None
    ) -> Reader:
        if k < 1:
            raise VectorIndexError(f"k must be at least 1, but is {k}.")
        snapshot = self._view.latest()
        if isinstance(where, Mapping):
            where = to_sql(where, snapshot.dataset.schema)
        return Reader(snapshot, self.metric, k, where or None, exact, parameters or SearchParameters())


def _recorded(model: str | Path) -> str:
    """Where a model is, for whoever opens the index from another folder."""
    return str(model) if is_hub_name(model) else str(Path(model).expanduser().resolve())


def _blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block
