"""Words of documents in PostgreSQL: the same BM25 as Lance's, over its own full-text index.

PostgreSQL splits and stems words, and finds the documents that have them. Its ranking functions
know neither how rare a word is nor how long a document; BM25 does, and what the model has measured
at its pilots holds for BM25. ``ts_rank_cd`` with a single word counts how often it occurs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from psycopg import sql

from routerretriever.index.postgres.database import Connection
from routerretriever.index.postgres.table import WORDS, PostgresTable

CANDIDATES = 500
"""Documents that are scored at least, if so many have a word of the query: those with its rarest words."""

K1, B = 1.2, 0.75
"""Of BM25, as in Lance."""

_MOST_CHARACTERS = 250_000  # of a document: PostgreSQL keeps a megabyte of words at most
_KEPT_SECONDS = 60.0
_SAMPLED_DOCUMENTS = 2000


def configuration(language: str) -> str:
    """Return PostgreSQL's name for how words of a language are stemmed."""
    return "simple" if language == "none" else language.lower()


@dataclass(slots=True)
class WordStatistics:
    """How often words occur; what PostgreSQL has not counted is counted when it is asked for.

    Args:
        table: whose words.
    """

    table: PostgresTable
    _documents: int = 0
    _length: float = 1.0
    _frequencies: dict[str, float] = field(default_factory=dict)
    _read: float = -math.inf

    def expire(self) -> None:
        """Count again: this process has written."""
        self._read = -math.inf

    @property
    def mean_length(self) -> float:
        """Mean number of different words of a document."""
        return self._length

    def inverse_frequencies(self, connection: Connection, words: Sequence[str]) -> dict[str, float]:
        """Return how telling each word is, as BM25 has it; words that no document has are left out."""
        if time.monotonic() - self._read > _KEPT_SECONDS:
            self._renew(connection)
        weights = {}
        for word in words:
            having = self.documents_with(connection, word)
            if having > 0:
                weights[word] = math.log1p((self._documents - having + 0.5) / (having + 0.5))
        return weights

    def documents_with(self, connection: Connection, word: str) -> float:
        """Return the number of documents with a word."""
        if word not in self._frequencies:
            counted = sql.SQL("SELECT count(*) FROM {} WHERE {} @@ %s::tsquery").format(
                self.table.identifier, sql.Identifier(WORDS)
            )
            row = connection.execute(counted, [quoted(word)]).fetchone()
            assert row is not None
            self._frequencies[word] = min(row[0], self._documents)
        return self._frequencies[word]

    def _renew(self, connection: Connection) -> None:
        words = sql.Identifier(WORDS)
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(self.table.identifier)).fetchone()
        assert row is not None
        self._documents = row[0]
        percent = min(100.0, 100.0 * _SAMPLED_DOCUMENTS / max(1, self._documents))
        lengths = sql.SQL("SELECT avg(length({})) FROM {} TABLESAMPLE SYSTEM (%s) REPEATABLE (0)")
        row = connection.execute(lengths.format(words, self.table.identifier), [percent]).fetchone()
        self._length = float(row[0] or 1.0) if row else 1.0
        found = connection.execute(
            "SELECT most_common_elems::text::text[], most_common_elem_freqs FROM pg_stats "
            "WHERE schemaname = %s AND tablename = %s AND attname = %s",
            [self.table.schema, self.table.name, WORDS],
        ).fetchone()
        self._frequencies = {}
        if found is not None and found[0] is not None:
            # After the frequencies come the least, the greatest, and that of nulls.
            for word, frequency in zip(found[0], found[1], strict=False):
                self._frequencies[word] = frequency * self._documents
        self._read = time.monotonic()


def words_of(connection: Connection, query: str, language: str) -> list[str]:
    """Return the different words of a query, stemmed, without stop words."""
    row = connection.execute(
        "SELECT tsvector_to_array(to_tsvector(%s::regconfig, %s))",
        [configuration(language), query.replace("\0", " ")[:_MOST_CHARACTERS]],
    ).fetchone()
    assert row is not None
    return list(row[0])


def rarest(weights: dict[str, float], counts: dict[str, float]) -> list[str]:
    """Return the rarest words that together :data:`CANDIDATES` documents have."""
    kept: list[str] = []
    total = 0.0
    for word in sorted(weights, key=lambda word: (counts[word], word)):
        if total >= CANDIDATES:
            break
        kept.append(word)
        total += counts[word]
    return kept


def quoted(word: str) -> str:
    """Return a word as a query of PostgreSQL's text search."""
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"


def add_words(connection: Connection, table: PostgresTable, language: str) -> None:
    """Add the column of words, which PostgreSQL keeps from now on, and its index."""
    columns = table.info.columns
    parts = [sql.SQL("coalesce({}, '')").format(sql.Identifier(columns.text))]
    if columns.title is not None:
        parts.insert(0, sql.SQL("coalesce({}, '') || ' '").format(sql.Identifier(columns.title)))
    drop_words(connection, table)
    connection.execute(
        sql.SQL(
            "ALTER TABLE {} ADD COLUMN {} tsvector GENERATED ALWAYS AS "
            "(to_tsvector({}::regconfig, left({}, {}))) STORED"
        ).format(
            table.identifier,
            sql.Identifier(WORDS),
            sql.Literal(configuration(language)),
            sql.SQL(" || ").join(parts),
            sql.Literal(_MOST_CHARACTERS),
        )
    )
    connection.execute(
        sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET STATISTICS 1000").format(
            table.identifier, sql.Identifier(WORDS)
        )
    )
    connection.execute(
        sql.SQL("CREATE INDEX ON {} USING gin ({})").format(table.identifier, sql.Identifier(WORDS))
    )


def drop_words(connection: Connection, table: PostgresTable) -> None:
    """Drop the column of words, and its index with it."""
    connection.execute(
        sql.SQL("ALTER TABLE {} DROP COLUMN IF EXISTS {}").format(table.identifier, sql.Identifier(WORDS))
    )
