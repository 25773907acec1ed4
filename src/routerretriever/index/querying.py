"""Searching an index: queries encoded by the model, then answered by one snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from routerretriever.errors import VectorIndexError
from routerretriever.index.blocks import blocks
from routerretriever.index.encoder import Encoder, Vectors
from routerretriever.index.filters import Condition, to_sql
from routerretriever.index.schema import quoted
from routerretriever.index.search import SearchParameters, SearchRequest
from routerretriever.index.table import IndexTable

_QUERY_BLOCK = 64
_LOOKUP_BLOCK = 4096


def search_request(
    table: IndexTable,
    k: int,
    where: str | Condition | None,
    *,
    exact: bool = False,
    parameters: SearchParameters | None = None,
) -> SearchRequest:
    """Return a request to the newest version of an index.

    Raises:
        VectorIndexError: k is below 1.
        FilterError: the condition cannot be understood.
    """
    if k < 1:
        raise VectorIndexError(f"k must be at least 1, but is {k}.")
    snapshot = table.latest.get()
    if isinstance(where, Mapping):
        where = to_sql(where, snapshot.dataset.schema)
    return SearchRequest(
        snapshot=snapshot,
        metric=table.metric,
        k=k,
        where=where or None,
        exact=exact,
        parameters=parameters or SearchParameters(),
    )


def encode_queries(model: Encoder, queries: Sequence[str], pinned: str | None) -> tuple[Vectors, list[str]]:
    """Return vectors of queries (n, d), and what encoded each.

    Args:
        model: encodes them.
        queries: any number; they are encoded in blocks.
        pinned: the candidate that encodes them all; ``None`` routes.
    """
    vectors = [np.empty((0, model.dimension), np.float32)]
    experts: list[str] = []
    for block in blocks(queries, _QUERY_BLOCK):
        encoded = model.encode_routed(block, [pinned] * len(block))
        vectors.append(encoded.vectors)
        experts += encoded.experts
    return np.concatenate(vectors), experts


def look_up(table: IndexTable, ids: Iterable[str]) -> dict[tuple[str, str], Vectors]:
    """Return vectors (d,) of documents by (collection, id); see :meth:`Index.lookup`."""
    found: dict[tuple[str, str], Vectors] = {}
    for block in blocks(dict.fromkeys(ids), _LOOKUP_BLOCK):
        rows = table.lancedb.search().where(f"id IN ({', '.join(map(quoted, block))})")
        columns = rows.select(["id", "collection", "vector"]).to_arrow()
        flat = columns["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = flat.reshape(len(columns), table.dimension)
        keys = zip(columns["collection"].to_pylist(), columns["id"].to_pylist(), strict=True)
        found.update(zip(keys, vectors, strict=True))
    return found
