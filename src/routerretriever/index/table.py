"""The store of one index: a Lance data set with what the index records about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import lance
import pyarrow as pa

from routerretriever.errors import StorageError, VectorIndexError
from routerretriever.index.connection import dataset_uri, exists, writer_session
from routerretriever.index.lance_errors import reason_of
from routerretriever.index.schema import (
    FIRST_ROWS,
    check_same_base,
    holds_passages,
    recorded_info,
    table_schema,
)
from routerretriever.index.snapshot import LatestSnapshot
from routerretriever.index.view import Metric

INDEX_FORMAT = 3
"""Format of new tables: a document may be several rows."""

OLDEST_FORMAT = 2
"""Format with one row a document, which is still read and written."""


class IndexTable:
    """The table of an index.

    Attributes:
        uri: a folder or an object-store URI.
        info: what the index records: base fingerprint, similarity, and place of the model.
        latest: the newest version, for searching.
    """

    def __init__(self, uri: str, info: Mapping[str, Any]) -> None:
        self.uri = uri
        self.info = info
        self.latest = LatestSnapshot(uri)
        self._session = writer_session()

    @classmethod
    def create(cls, uri: str, *, dimension: int, fingerprint: str, similarity: str, model: str) -> Self:
        """Make an empty index.

        Args:
            uri: where nothing is yet.
            dimension: length of the vectors.
            fingerprint: of the base that encodes the documents.
            similarity: ``cosine`` or ``dot``.
            model: place of the model; empty if unknown.

        Raises:
            VectorIndexError: the folder holds something else.
            StorageError: the index cannot be written.
        """
        folder = Path(uri)
        if folder.is_dir() and any(folder.iterdir()):
            raise VectorIndexError(f"{uri} is not empty and not an index. Choose another folder.")
        info = {
            "format_version": INDEX_FORMAT,
            "fingerprint": fingerprint,
            "similarity": similarity,
            "model": model,
        }
        schema = table_schema(dimension, json.dumps(info).encode())
        try:
            lance.write_dataset(schema.empty_table(), dataset_uri(uri))
        except (OSError, RuntimeError) as error:
            raise StorageError(f"The index {uri} could not be created: {error}") from error
        return cls(uri, info)

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open an index.

        Raises:
            VectorIndexError: there is none, or it has a format that is not read.
            StorageError: it is damaged.
        """
        if not exists(uri):
            raise VectorIndexError(
                f"There is no index at {uri}. Make one: routerretriever index MODEL {uri} COLLECTION"
            )
        table = cls(uri, {})
        try:
            schema = table.schema
        except (OSError, ValueError, RuntimeError) as error:
            raise StorageError(
                f"The index {uri} is damaged or cannot be read ({reason_of(error)}). Restore it from a copy, or "
                "index the documents again into a new folder; vectors come from the embedding cache."
            ) from error
        try:
            table.info = recorded_info(schema)
        except (KeyError, ValueError) as error:
            raise VectorIndexError(
                f"{uri} was not made by routerretriever. Choose another folder."
            ) from error
        _check_format(uri, table.info["format_version"])
        return table

    @property
    def dataset_uri(self) -> str:
        """URI of the Lance data set."""
        return dataset_uri(self.uri)

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        schema: pa.Schema = self.latest.get().dataset.schema
        return schema

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return int(self.schema.field("vector").type.list_size)

    @property
    def metric(self) -> Metric:
        """How vectors are compared."""
        return "cosine" if self.info["similarity"] == "cosine" else "dot"

    @property
    def holds_passages(self) -> bool:
        """Whether a document may be several rows."""
        return holds_passages(self.schema)

    @property
    def rows(self) -> int:
        """Number of rows: one for each passage of every document."""
        return int(self.latest.get().dataset.count_rows())

    def __len__(self) -> int:
        return int(self.latest.get().dataset.count_rows(FIRST_ROWS)) if self.holds_passages else self.rows

    def newest(self) -> Any:
        """Return the newest version of the Lance data set, to write and maintain it.

        Raises:
            FingerprintError: the index was migrated to another base since it was opened.
        """
        dataset = self.newest_of_any_base()
        check_same_base(dataset.schema, self.info["fingerprint"], self.uri)
        return dataset

    def newest_of_any_base(self) -> Any:
        """Return the newest version, also where the index was migrated since it was opened."""
        return lance.dataset(self.dataset_uri, session=self._session)

    def refresh(self) -> None:
        """See what this process has just written, on an object store too."""
        self.latest.expire()


def _check_format(uri: str, found: int) -> None:
    if found > INDEX_FORMAT:
        raise VectorIndexError(
            f"The index {uri} has format {found}, this version reads up to {INDEX_FORMAT}. Upgrade routerretriever."
        )
    if found < OLDEST_FORMAT:
        raise VectorIndexError(
            f"The index {uri} has format {found}, this version reads from {OLDEST_FORMAT} on. Index the "
            "documents again into a new folder; vectors come from the embedding cache."
        )
