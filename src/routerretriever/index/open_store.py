"""Which store an index is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from routerretriever.errors import FingerprintError
from routerretriever.index.connection import exists
from routerretriever.index.encoder import Encoder
from routerretriever.index.lance_store import LanceStore
from routerretriever.index.postgres_uri import is_postgres
from routerretriever.index.store import Store
from routerretriever.index.table import IndexTable

if TYPE_CHECKING:
    from routerretriever.index.postgres.store import PostgresStore


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


def check_fingerprint(store: Store, fingerprint: str) -> None:
    """Check that a model has the base that the index was made with.

    Raises:
        FingerprintError: it has another.
    """
    recorded = store.info["fingerprint"]
    if fingerprint != recorded:
        raise FingerprintError(
            f"The index {store.uri} was made with another base encoder (fingerprint "
            f"{recorded[:12]}, the model has {fingerprint[:12]}). Use the model it was made "
            "with, or index the documents again into a new folder."
        )
