"""Searching one version of a Lance data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from routerretriever.errors import VectorIndexError
from routerretriever.index.encoder import Vectors
from routerretriever.index.filters import filter_fields
from routerretriever.index.lance_errors import reason_of
from routerretriever.index.lance_rows import rows_by_id
from routerretriever.index.parameters import SearchParameters
from routerretriever.index.schema import FIRST_ROWS, PLACE_COLUMNS, SHOWN_COLUMNS, collection_and_id
from routerretriever.index.snapshot import Snapshot
from routerretriever.index.view import Metric, Record, RowIds
from routerretriever.passages.passage import Place
from routerretriever.words.text_index import matching


@dataclass(frozen=True, slots=True, kw_only=True)
class LanceView:
    """One version of an index; see :class:`routerretriever.index.view.View`.

    Attributes:
        snapshot: the version that is read.
        metric: of the vectors.
        where: SQL, or ``None``.
    """

    snapshot: Snapshot
    metric: Metric
    where: str | None
    _keys: dict[int, str] = field(default_factory=dict, init=False, repr=False)

    @property
    def has_passages(self) -> bool:
        return self.snapshot.has_passages

    def nearest(self, vector: Vectors, k: int, parameters: SearchParameters | None) -> tuple[RowIds, Vectors]:
        how: dict[str, Any] = {"use_index": False}
        if parameters is not None:
            how = approximation(parameters, k, filtered=self.where is not None)
        found = self._scan(
            "_distance", nearest={"column": "vector", "q": vector, "k": k, "metric": self.metric, **how}
        )
        # Lance's distance is 1 - similarity for cosine and dot alike.
        return found["_rowid"].to_numpy(), 1.0 - found["_distance"].to_numpy()

    def matching(self, query: str, k: int) -> tuple[RowIds, NDArray[np.float32]]:
        found = self._scan("_score", full_text_query=matching(query), limit=k)
        return found["_rowid"].to_numpy(), found["_score"].to_numpy()

    @property
    def fields(self) -> Mapping[str, pa.DataType]:
        return filter_fields(self.snapshot.dataset.schema)

    def count(self) -> int:
        return int(self.snapshot.dataset.count_rows(self.where))

    def count_documents(self) -> int:
        return int(self.snapshot.dataset.count_rows(self._one_of_each()))

    def first_rows(self, offset: int, limit: int) -> RowIds:
        scanner = self.snapshot.dataset.scanner(
            columns=["id"], with_row_id=True, filter=self._one_of_each(), offset=offset, limit=limit
        )
        rows: RowIds = scanner.to_table()["_rowid"].to_numpy()
        return rows

    def _one_of_each(self) -> str | None:
        """Return the condition on one row of each document."""
        if not self.has_passages:
            return self.where
        return FIRST_ROWS if self.where is None else f"({self.where}) AND {FIRST_ROWS}"

    def documents(self, rows: RowIds) -> NDArray[np.intp]:
        self._read_keys(rows)
        numbers: dict[str, int] = {}  # key of a document → its number
        found = []
        for row in rows.tolist():
            key = self._keys[row]
            found.append(numbers.setdefault(key, len(numbers)))
        return np.array(found, np.intp)

    def _read_keys(self, rows: RowIds) -> None:
        """Read the keys of rows that were not asked about before.

        Both sides of a search and their union are asked about, and each look takes milliseconds.
        """
        new = [row for row in rows.tolist() if row not in self._keys]
        if new:
            read = rows_by_id(self.snapshot.dataset, np.array(new, np.uint64), ["key"])
            self._keys.update(zip(new, read["key"].to_pylist(), strict=True))

    def vectors(self, rows: RowIds) -> Vectors:
        column = rows_by_id(self.snapshot.dataset, rows, ["vector"])["vector"].combine_chunks()
        flat: Vectors = column.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), column.type.list_size)

    def records(self, rows: RowIds) -> Sequence[Record]:
        columns = [*SHOWN_COLUMNS, *self.snapshot.metadata]
        if self.snapshot.has_passages:
            columns += PLACE_COLUMNS
        shown = rows_by_id(self.snapshot.dataset, rows, columns).to_pylist()
        return [record_of(row, self.snapshot.metadata) for row in shown]

    def _scan(self, score: str, **wanted: Any) -> pa.Table:
        """Return the ids and scores of the rows that a search finds; their texts are read later, of the best alone."""
        dataset = self.snapshot.dataset
        try:
            scanner = dataset.scanner(
                columns=[score], with_row_id=True, filter=self.where, prefilter=True, **wanted
            )
            found: pa.Table = scanner.to_table()
        except (OSError, ValueError, RuntimeError) as error:
            hint = ""
            if self.where:
                hint = " A condition looks like: collection = 'scifact' AND year > 2020"
            raise VectorIndexError(f"The search failed: {reason_of(error).rstrip('.')}.{hint}") from error
        return found


def record_of(row: Mapping[str, Any], metadata: Sequence[str]) -> Record:
    """Return a row of the table as it is shown."""
    collection, document_id = collection_and_id(row["key"])
    return Record(
        collection=collection,
        id=document_id,
        title=row["title"],
        text=row["text"],
        metadata={name: row[name] for name in metadata},
        passage=_place_of(row),
    )


def _place_of(row: Mapping[str, Any]) -> Place | None:
    values: list[Any] = [row.get(name) for name in PLACE_COLUMNS]
    number, start, stop, heading, page = values
    if number is None:
        return None
    return Place(number=number, start=start, stop=stop, heading=heading or "", page=page)


def approximation(given: SearchParameters, k: int, *, filtered: bool) -> dict[str, float]:
    """Return what Lance is told of how to search an approximate index for k results."""
    how: dict[str, float] = {"nprobes": given.nprobes}
    if filtered:
        # What a filter leaves may be in any partition; a search that ends once there are k
        # would find enough, but not the nearest.
        how = {"search_effort": 1.0}
    if given.ef is not None:
        how["ef"] = max(given.ef, k)
    return how
