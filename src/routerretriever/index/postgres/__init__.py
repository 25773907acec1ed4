"""Documents in PostgreSQL with pgvector."""

from routerretriever.errors import MissingExtraError

try:
    import pgvector.psycopg  # noqa: F401
    import psycopg  # noqa: F401
except ImportError as error:
    raise MissingExtraError("postgres", error.name or "psycopg") from error
