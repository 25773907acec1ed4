"""Connections to PostgreSQL, and what its errors mean."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from pgvector.psycopg import register_vector
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import ConnectionPool

from routerretriever.errors import StorageError, VectorIndexError
from routerretriever.index.postgres_uri import PostgresUri

Connection = psycopg.Connection[tuple[Any, ...]]

_MOST_CONNECTIONS = 16
_WAIT_SECONDS = 10.0
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
    """A pool of connections, which are opened when they are needed.

    A connection that the server has closed is replaced by the next call.

    Raises:
        StorageError: the server cannot be reached.
        VectorIndexError: the address cannot be understood, or there is no pgvector.
    """

    def __init__(self, uri: PostgresUri) -> None:
        self.uri = uri
        with self.errors():
            given = conninfo_to_dict(uri.connection)
            conninfo = make_conninfo(uri.connection, **{k: v for k, v in _PATIENCE.items() if k not in given})
            # The pool would only say that it has waited; this says why.
            with psycopg.connect(conninfo, autocommit=True) as connection:
                _require_pgvector(connection, uri)
        self._pool = ConnectionPool(
            conninfo,
            min_size=0,
            max_size=_MOST_CONNECTIONS,
            timeout=_WAIT_SECONDS,
            configure=register_vector,
            check=ConnectionPool.check_connection,
            kwargs={"autocommit": True},
            open=True,
        )
        weakref.finalize(self, self._pool.close)

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
        with self.errors(), self._pool.connection() as connection:
            yield connection

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
