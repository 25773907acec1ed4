"""Which store an index is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from routerretriever.errors import FingerprintError, VectorIndexError
from routerretriever.index.connection import exists
from routerretriever.index.encoder import Encoder
from routerretriever.index.lance_store import LanceStore
from routerretriever.index.migration.bridge import Bridge
from routerretriever.index.postgres_uri import is_postgres
from routerretriever.index.reports import Adopted
from routerretriever.index.store import Store
from routerretriever.index.table import IndexTable

if TYPE_CHECKING:
    from routerretriever.index.postgres.store import PostgresStore


NEEDED_ROLES = frozenset({"id", "text", "vector"})
ROLES = frozenset({*NEEDED_ROLES, "title", "collection"})
"""What the columns of a table hold that is adopted."""


def index_exists(uri: str) -> bool:
    """Return whether there is an index at ``uri``."""
    return _postgres().exists(uri) if is_postgres(uri) else exists(uri)


def open_store(uri: str) -> Store:
    """Open the store of an index.

    Raises:
        VectorIndexError: there is no index, or it has a format that is not read.
        StorageError: the server of the database cannot be reached.
    """
    return _postgres().open(uri) if is_postgres(uri) else LanceStore(IndexTable.open(uri))


def create_store(uri: str, model: Encoder, place: str) -> Store:
    """Make a store for an empty index.

    Args:
        uri: where no index is yet.
        model: its base encodes the documents.
        place: of the model; empty if unknown.

    Raises:
        VectorIndexError: there is something else.
        StorageError: the index cannot be written.
    """
    about = {
        "dimension": model.dimension,
        "fingerprint": model.fingerprint,
        "similarity": model.similarity_fn_name,
        "model": place,
    }
    return (
        _postgres().create(uri, **about) if is_postgres(uri) else LanceStore(IndexTable.create(uri, **about))
    )


def _postgres() -> type[PostgresStore]:
    # Imported here: it needs an extra.
    from routerretriever.index.postgres.store import PostgresStore

    return PostgresStore


def adopt_store(
    uri: str, model: Encoder, columns: Mapping[str, str], *, collection: str, place: str
) -> tuple[Store, Adopted]:
    """Make an index of a table that is there; see :meth:`routerretriever.Index.adopt`."""
    if not is_postgres(uri):
        raise VectorIndexError(
            f"{uri} is not in PostgreSQL. Only a table there can be adopted: postgresql://…?table=NAME"
        )
    wrong = sorted(columns.keys() - ROLES)
    missing = sorted(NEEDED_ROLES - columns.keys())
    if wrong or missing:
        raise VectorIndexError(
            f"Columns are named by what they hold: {', '.join(sorted(ROLES))}. "
            f"Missing: {', '.join(missing) or 'none'}; unknown: {', '.join(wrong) or 'none'}."
        )
    return _postgres().adopt(uri, model, columns, collection=collection, place=place)


def check_fingerprint(store: Store, fingerprint: str) -> Bridge | None:
    """Check that a model has the base that the index was made with, or one that a bridge leads from.

    Returns:
        The bridge; ``None`` where none is needed.

    Raises:
        FingerprintError: it has another base.
    """
    recorded = store.info["fingerprint"]
    if fingerprint == recorded:
        return None
    bridge = store.bridge(fingerprint)
    if bridge is None:
        raise FingerprintError(
            f"The index {store.uri} was made with another base encoder (fingerprint "
            f"{recorded[:12]}, the model has {fingerprint[:12]}). Use the model it was made "
            "with, or give the index this base: routerretriever index migrate INDEX --model MODEL"
        )
    return bridge
