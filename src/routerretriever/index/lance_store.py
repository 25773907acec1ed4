"""Documents in a Lance data set: a folder or an object store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa

from routerretriever.data.document import Document
from routerretriever.index.blocks import blocks
from routerretriever.index.build.build import build
from routerretriever.index.build.chunks import Listing
from routerretriever.index.build.report import BuildReport
from routerretriever.index.build.settings import BuildSettings
from routerretriever.index.build.worker import Runner, run_here
from routerretriever.index.check import checked_ids
from routerretriever.index.encoder import Encoder, Vectors
from routerretriever.index.filters import Condition, as_sql
from routerretriever.index.lance_view import LanceView, record_of
from routerretriever.index.maintenance import Maintenance
from routerretriever.index.migration.bridge import Bridge
from routerretriever.index.migration.migrate import migrate, migration_state
from routerretriever.index.migration.record import MigrationFolder
from routerretriever.index.migration.settings import MigrationSettings
from routerretriever.index.reports import IndexInfo, Migrated
from routerretriever.index.rows import Part
from routerretriever.index.schema import FIRST_ROWS, PLACE_COLUMNS, SHOWN_COLUMNS, quoted
from routerretriever.index.table import IndexTable
from routerretriever.index.view import Metric, Record, document_of
from routerretriever.index.writer import DocumentWriter
from routerretriever.progress import Progress

_LOOKUP_BLOCK = 4096


class LanceStore(Maintenance):
    """See :class:`routerretriever.index.store.Store`.

    Attributes:
        table: what is stored.
    """

    def __init__(self, table: IndexTable) -> None:
        super().__init__(table)
        self._writer = DocumentWriter(table)

    @property
    def uri(self) -> str:
        return self.table.uri

    @property
    def info(self) -> Mapping[str, Any]:
        return self.table.info

    @property
    def metric(self) -> Metric:
        return self.table.metric

    @property
    def has_text(self) -> bool:
        return self.table.latest.get().has_text

    @property
    def holds_passages(self) -> bool:
        return self.table.holds_passages

    def __len__(self) -> int:
        return len(self.table)

    # -- reading -----------------------------------------------------------------------------

    @contextmanager
    def view(self, where: str | Condition | None) -> Iterator[LanceView]:
        snapshot = self.table.latest.get()
        where = as_sql(where, snapshot.dataset.schema)
        yield LanceView(snapshot=snapshot, metric=self.table.metric, where=where)

    def lookup(self, ids: Iterable[str]) -> dict[tuple[str, str], Vectors]:
        dataset = self.table.latest.get().dataset
        first = f" AND {FIRST_ROWS}" if self.table.holds_passages else ""
        found: dict[tuple[str, str], Vectors] = {}
        for block in blocks(dict.fromkeys(checked_ids(ids)), _LOOKUP_BLOCK):
            columns = dataset.to_table(
                columns=["id", "collection", "vector"],
                filter=f"id IN ({', '.join(map(quoted, block))}){first}",
            )
            flat = columns["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            vectors = flat.reshape(len(columns), self.table.dimension)
            keys = zip(columns["collection"].to_pylist(), columns["id"].to_pylist(), strict=True)
            found.update(zip(keys, vectors, strict=True))
        return found

    def scan(self, collection: str | None) -> Iterator[tuple[list[Document], Vectors | None]]:
        snapshot = self.table.latest.get()
        where = None if collection is None else f"collection = {quoted(collection)}"
        columns = [*SHOWN_COLUMNS, *snapshot.metadata, "vector"]
        if snapshot.has_passages:
            columns += PLACE_COLUMNS
        parts: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for batch in snapshot.dataset.to_batches(columns=columns, filter=where, batch_size=_LOOKUP_BLOCK):
            vectors = batch["vector"].flatten().to_numpy(zero_copy_only=False)
            vectors = vectors.reshape(len(batch), self.table.dimension)
            whole, documents = [], []
            for number, row in enumerate(batch.drop_columns(["vector"]).to_pylist()):
                record = record_of(row, snapshot.metadata)
                if record.passage is None:
                    whole.append(number)
                    documents.append(document_of([record]))
                else:
                    parts[record.collection, record.id].append(record)
            yield documents, vectors[whole]
        for block in blocks(parts.values(), _LOOKUP_BLOCK):
            yield [document_of(records) for records in block], None

    # -- writing -----------------------------------------------------------------------------

    def check(self, documents: Sequence[Document], collection: str) -> Mapping[str, pa.DataType]:
        return self._writer.check(documents, collection)

    def write(
        self,
        parts: Sequence[Part],
        vectors: Vectors,
        collection: str,
        fields: Mapping[str, pa.DataType],
    ) -> None:
        self._writer.write(parts, vectors, collection, fields)

    def delete(self, ids: Iterable[str], collection: str) -> None:
        self._writer.delete(ids, collection)

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
        report = build(
            self.uri,
            listing,
            runner or run_here(model),
            settings,
            fingerprint=model.fingerprint,
            precision=precision,
            flush=self.flush,
            progress=progress,
        )
        self.table.refresh()
        return report

    # -- another base ------------------------------------------------------------------------

    def bridge(self, fingerprint: str) -> Bridge | None:
        folder = MigrationFolder(self.uri)
        begun = folder.read()
        if begun is None or begun.fingerprint != fingerprint:
            return None
        return folder.bridge()

    def migrate(
        self, model: Encoder, place: str, settings: MigrationSettings, progress: Progress
    ) -> Migrated:
        return migrate(self.table, model, place, settings, progress)

    def describe(self) -> IndexInfo:
        return replace(super().describe(), migration=migration_state(self.uri))
