"""Connections to PostgreSQL, and what its errors mean."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from pgvector.psycopg import register_vector
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from routerretriever.errors import StorageError, VectorIndexError
from routerretriever.index.postgres_uri import PostgresUri

Connection = psycopg.Connection[tuple[Any, ...]]

_MOST_IDLE = 16
_PATIENCE: Mapping[str, int | str] = {
    "connect_timeout": 10,
    # A server whose network is cut is noticed after half a minute, also in the middle of a query.
    "tcp_user_timeout": 30_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "application_name": "routerretriever",
}


class Database:
    """Connections, which are opened when they are needed and kept for the next call.

    One that the server has closed is replaced. There is no pool of psycopg's, because it waits for a
    server that is gone, and does not say why.

    Raises:
        StorageError: the server cannot be reached.
        VectorIndexError: the address cannot be understood, or there is no pgvector.
    """

    def __init__(self, uri: PostgresUri) -> None:
        self.uri = uri
        with self.errors():
            given = conninfo_to_dict(uri.connection)
            conninfo = make_conninfo(uri.connection, **{k: v for k, v in _PATIENCE.items() if k not in given})
            with psycopg.connect(conninfo, autocommit=True) as connection:
                _require_pgvector(connection, uri)
        self._conninfo = conninfo
        self._idle: list[Connection] = []
        weakref.finalize(self, _close, self._idle)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection that sees one state of the database throughout, and changes nothing."""
        with self._connected() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection whose changes are made all or none of them."""
        with self._connected() as connection, connection.transaction():
            yield connection

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """Give a connection for commands that no transaction may hold."""
        with self._connected() as connection:
            yield connection

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with self.errors():
            connection = self._alive() or self._connect()
            try:
                yield connection
            finally:
                if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
                    connection.close()
                elif len(self._idle) < _MOST_IDLE:
                    self._idle.append(connection)
                else:
                    connection.close()

    def _alive(self) -> Connection | None:
        """Return an idle connection that still answers, and close those that do not."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            try:
                connection.execute("SELECT 1")
            except psycopg.OperationalError:
                connection.close()
            else:
                return connection

    def _connect(self) -> Connection:
        connection = psycopg.connect(self._conninfo, autocommit=True)
        try:
            register_vector(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of the client into ours.

        Raises:
            StorageError: the server is gone, full, or does not allow it.
            VectorIndexError: it refuses the command.
        """
        try:
            yield
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise StorageError(
                f"PostgreSQL at {self.uri.shown} did not answer: {_reason(error)}. What this call was about "
                "to write was not written. Check the server, and run it again."
            ) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise StorageError(
                f"PostgreSQL at {self.uri.shown} does not allow that: {_reason(error)}. Grant it to the user."
            ) from error
        except psycopg.Error as error:
            raise VectorIndexError(f"PostgreSQL at {self.uri.shown}: {_reason(error)}") from error


def _close(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()


def _require_pgvector(connection: Connection, uri: PostgresUri) -> None:
    if connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
        return
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.Error as error:
        raise VectorIndexError(
            f"The database of {uri.shown} has no pgvector, and it could not be added ({_reason(error)}). "
            "Install pgvector on the server, and run: CREATE EXTENSION vector"
        ) from error


def _reason(error: psycopg.Error) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
