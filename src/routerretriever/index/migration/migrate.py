"""Migrating an index in Lance: the bridge, the documents, the switch, and what comes after it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from routerretriever.errors import BuildError, StorageError, VectorIndexError
from routerretriever.index import kinds
from routerretriever.index.build.lock import build_lock
from routerretriever.index.commit import committing
from routerretriever.index.connection import dataset_uri
from routerretriever.index.encoder import Encoder, Vectors
from routerretriever.index.lance_view import LanceView
from routerretriever.index.maintenance import Maintenance
from routerretriever.index.migration.bridge import Bridge, fit_bridge
from routerretriever.index.migration.record import Migration, MigrationFolder
from routerretriever.index.migration.settings import MigrationSettings
from routerretriever.index.migration.staged import catch_up
from routerretriever.index.reports import Migrated, MigrationState
from routerretriever.index.search import hit_of
from routerretriever.index.table import IndexTable
from routerretriever.progress import Progress
from routerretriever.words.text_index import TextSettings, is_wanted, present_settings

_ATTEMPTS = 10  # at a switch before which nobody has written meanwhile
_SEED = 0


def migrate(
    table: IndexTable, model: Encoder, place: str, settings: MigrationSettings, progress: Progress
) -> Migrated:
    """Give an index the base of another model; see :meth:`routerretriever.Index.migrate`.

    Args:
        table: the index as it is.
        model: with the new base.
        place: of the model; empty if unknown.
        settings: how.
        progress: where to report.
    """
    work = _Migration(table=table, model=model, place=place, settings=settings, progress=progress)
    return work.run()


@dataclass(slots=True, kw_only=True)
class _Migration:
    """One migration; the arguments are those of :func:`migrate`."""

    table: IndexTable
    model: Encoder
    place: str
    settings: MigrationSettings
    progress: Progress
    _encoded: int = field(default=0, init=False)

    def run(self) -> Migrated:
        """Do what is left to do."""
        start = time.perf_counter()
        folder = MigrationFolder(self.table.uri)
        begun = self._begun(folder)
        is_switched = self.table.info["fingerprint"] == self.model.fingerprint
        if not is_switched and begun is not None:
            try:
                is_switched = self._advance(folder, begun)
            except (OSError, RuntimeError) as error:
                message = (
                    f"The index {self.table.uri} could not be written: {error}. Run the same command again."
                )
                raise StorageError(message) from error
        bridge = folder.bridge()
        if is_switched:
            self._finish(begun)
            folder.remove()
        return Migrated(
            documents=len(IndexTable.open(self.table.uri)),
            encoded=self._encoded,
            switched=is_switched,
            method="" if bridge is None else bridge.method,
            figures={} if bridge is None else dict(bridge.figures),
            seconds=round(time.perf_counter() - start, 2),
        )

    def _begun(self, folder: MigrationFolder) -> Migration | None:
        """Return the record of this migration, a new one where none has begun; ``None`` if it is done."""
        found = folder.read()
        if found is not None and found.fingerprint != self.model.fingerprint:
            raise BuildError(
                f"The index {self.table.uri} is being migrated to the base of {found.model or 'another model'}. "
                f"End that with its own command, or remove {folder.uri} to give it up."
            )
        if found is not None or self.table.info["fingerprint"] == self.model.fingerprint:
            return found
        dataset = self.table.newest()
        text = present_settings(dataset)
        begun = Migration(
            fingerprint=self.model.fingerprint,
            model=self.place,
            kind="auto" if kinds.chosen_by_size(dataset) else kinds.present(dataset).kind,
            text=None if text is None else text.to_dict(),
            keeps_words=is_wanted(dataset.schema),
            figures={},
        )
        folder.remove()  # what a kill left of one that was done
        folder.write(begun)
        return begun

    def _advance(self, folder: MigrationFolder, begun: Migration) -> bool:
        """Fit the bridge, and unless only that is wanted, encode and switch; return whether that was done."""
        if _staged(folder) is None:
            folder.remove_unfinished_next()
            IndexTable.create(
                folder.next,
                dimension=self.model.dimension,
                fingerprint=self.model.fingerprint,
                similarity=self.model.similarity_fn_name,
                model=self.place,
            )
        with build_lock(dataset_uri(folder.next), self._what, resume=True):
            if folder.bridge() is None and self.table.rows:
                folder.keep_bridge(begun, self._bridge())
            if self.settings.only_bridge:
                return False
            self._catch_up(self._opened(), dataset_uri(folder.next))
            with build_lock(self.table.dataset_uri, self._what, resume=True):
                self._switch(folder)
        return True

    @property
    def _what(self) -> str:
        return f"all documents for the base {self.model.fingerprint[:12]}"

    def _opened(self) -> Any:
        return lance.dataset(self.table.dataset_uri)

    def _bridge(self) -> Bridge:
        """Encode a sample of the documents, or of their passages, and fit the bridge."""
        snapshot = self.table.latest.get()
        rows = snapshot.dataset.scanner(columns=["key"], with_row_id=True).to_table()["_rowid"].to_numpy()
        chosen = np.random.default_rng(_SEED).permutation(len(rows))[: self.settings.sample]
        view = LanceView(snapshot=snapshot, metric=self.table.metric, where=None)
        sample = rows[np.sort(chosen)]
        texts = [hit_of(record, 0.0).content for record in view.records(sample)]
        return fit_bridge(self._embed(texts), view.vectors(sample))

    def _embed(self, texts: list[str]) -> Vectors:
        return self.model.embed_texts(texts, precision=self._precision, progress=self.progress)

    @property
    def _precision(self) -> str:
        return self.model.document_precision(self.settings.precision)

    def _catch_up(self, source: Any, target: str) -> None:
        self._encoded += catch_up(source, target, self.model, self._precision, self.progress)

    # -- the switch --------------------------------------------------------------------------

    def _switch(self, folder: MigrationFolder) -> None:
        """Put the new rows in the place of the old ones, as one version, when none of them is behind."""
        target = dataset_uri(folder.next)
        for _ in range(_ATTEMPTS):
            before = self._opened()
            self._catch_up(before, target)
            staged = lance.dataset(target)
            fragments: list[lance.FragmentMetadata] = []
            if staged.count_rows():
                reader = pa.RecordBatchReader.from_batches(staged.schema, _batches(staged))
                fragments = lance.fragment.write_fragments(
                    reader, before.uri, schema=staged.schema, mode="overwrite"
                )
            Maintenance(self.table).flush()
            with committing(self.table.uri):
                if self._opened().version > before.version:
                    continue
                operation = lance.LanceOperation.Overwrite(staged.schema, fragments)
                transaction = lance.Transaction(
                    read_version=before.version, operation=operation, uuid=str(uuid.uuid4())
                )
                committed = lance.LanceDataset.commit(before, transaction)
            self._take_in(before, committed)
            return
        raise BuildError(
            f"Others write to the index all the time, so {_ATTEMPTS} switches failed. Run the same command again later."
        )

    def _take_in(self, before: Any, committed: Any) -> None:
        """Take in what others wrote in an object store, which has no lock, just before the switch."""
        if committed.version > before.version + 1:
            last = lance.dataset(before.uri, version=committed.version - 1)
            self._catch_up(last, before.uri)

    def _finish(self, begun: Migration | None) -> None:
        """Build the indexes again that there were, and drop the old version if that is wanted."""
        maintenance = Maintenance(IndexTable.open(self.table.uri))
        if begun is not None:
            if not begun.keeps_words:
                maintenance.drop_text_index()
            elif begun.text is not None and len(maintenance.table):
                maintenance.build_text_index(TextSettings(**begun.text))
            if begun.kind != "auto":
                maintenance.build_index(begun.kind, None)
            maintenance.after_write(self.progress)
            maintenance.flush()
        if self.settings.drop_old:
            maintenance.clean(timedelta(0))


def migration_state(uri: str) -> MigrationState | None:
    """Return how far the migration of an index is; ``None`` if none has begun."""
    folder = MigrationFolder(uri)
    begun = folder.read()
    if begun is None:
        return None
    staged = _staged(folder)
    return MigrationState(
        fingerprint=begun.fingerprint,
        model=begun.model,
        encoded=0 if staged is None else len(staged),
        method=begun.method,
        figures=begun.figures,
    )


def _staged(folder: MigrationFolder) -> IndexTable | None:
    """Return the index that is filled; ``None`` if there is none, or a kill left it before it was whole."""
    try:
        return IndexTable.open(folder.next)
    except VectorIndexError:
        return None


def _batches(dataset: Any) -> Iterator[pa.RecordBatch]:
    for batch in dataset.to_batches():
        yield pa.RecordBatch.from_arrays(batch.columns, schema=dataset.schema)
