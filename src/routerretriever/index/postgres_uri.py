"""Addresses of indexes in PostgreSQL: ``postgresql://USER@HOST/DATABASE?table=NAME``."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from routerretriever.errors import VectorIndexError

_SCHEMES = ("postgresql://", "postgres://")
_LONGEST_NAME = 63  # bytes: PostgreSQL cuts what is longer
_SECRETS = ("password", "sslpassword")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresUri:
    """Where the table of an index is.

    Attributes:
        connection: what the client library connects to, with the password.
        shown: the whole address without passwords.
        schema: of the table; ``None`` for the first that the server searches.
        table: its name.
    """

    connection: str
    shown: str
    schema: str | None
    table: str


def is_postgres(uri: str) -> bool:
    """Return whether an index is in PostgreSQL."""
    return uri.startswith(_SCHEMES)


def postgres_uri(uri: str) -> PostgresUri:
    """Read an address.

    Raises:
        VectorIndexError: it names no table, or the name cannot be one.
    """
    parts = urlsplit(uri)
    options = parse_qsl(parts.query, keep_blank_values=True)
    tables = [value for name, value in options if name == "table"]
    if len(tables) != 1:
        raise VectorIndexError(
            f"{shown_uri(uri)} names {len(tables)} tables. An index in PostgreSQL is one table: "
            "postgresql://USER@HOST/DATABASE?table=NAME"
        )
    schema, _, table = tables[0].rpartition(".")
    for name in (schema, table) if schema else (table,):
        check_identifier(name)
    rest = [(name, value) for name, value in options if name != "table"]
    query = urlencode(rest, quote_via=quote)
    return PostgresUri(
        connection=urlunsplit(parts._replace(query=query)),
        shown=shown_uri(uri),
        schema=schema or None,
        table=table,
    )


def check_identifier(name: str) -> None:
    """Refuse a name that no table or column can have.

    Raises:
        VectorIndexError: it is empty, too long, or holds a control character.
    """
    if not name or len(name.encode()) > _LONGEST_NAME or not name.isprintable():
        raise VectorIndexError(
            f"{name[:80]!r} cannot name a table or column of PostgreSQL. Use 1 to {_LONGEST_NAME} bytes, "
            "and no control characters."
        )


def shown_uri(uri: str) -> str:
    """Return the URI of an index without passwords."""
    if not is_postgres(uri):
        return uri
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    shown = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _SECRETS:
            shown.append((name, value))
    return urlunsplit(
        parts._replace(
            netloc=f"{user.partition(':')[0]}{at}{host}",
            query=urlencode(shown, quote_via=quote, safe="/"),
        )
    )
