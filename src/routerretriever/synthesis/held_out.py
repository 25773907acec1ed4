"""Which generated queries are held out: those of other passages than are trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from routerretriever.data.splits import HELD_OUT_LIMIT, HELD_OUT_SHARE
from routerretriever.data.text import stable_hash
from routerretriever.synthesis.queries import Query


def held_out_ids(queries: Sequence[Query]) -> set[str]:
    """Return the ids of the queries to hold out: all queries of a share of the passages.

    The queries of one passage share its words. On both sides they would show that the
    training remembers passages, not that it learns the domain. So passages are held out,
    together with those they share a query with.
    """
    if not queries:
        return set()
    groups = _groups(queries)
    wanted = min(HELD_OUT_LIMIT, max(1, round(HELD_OUT_SHARE * len(queries))))
    chosen: set[str] = set()
    for name in sorted(groups, key=lambda name: stable_hash(f"held-out:{name}")):
        if len(chosen) + len(groups[name]) <= wanted:
            chosen.update(groups[name])
    return chosen


def _groups(queries: Sequence[Query]) -> dict[str, list[str]]:
    """Return the ids of queries whose passages hang together, by the first passage's key."""
    keys = sorted({passage.key for query in queries for passage in query.passages})
    row = {key: number for number, key in enumerate(keys)}
    edges = np.array(
        [(row[query.passages[0].key], row[passage.key]) for query in queries for passage in query.passages],
        np.int64,
    )
    weights = np.ones(len(edges), np.int8)
    graph = coo_array((weights, (edges[:, 0], edges[:, 1])), shape=(len(row), len(row)))
    _, component = connected_components(graph, directed=False)

    names: dict[int, str] = {}
    for key, number in zip(keys, component.tolist(), strict=True):
        names.setdefault(number, key)
    groups: dict[str, list[str]] = {}
    for query in queries:
        number = int(component[row[query.passages[0].key]])
        groups.setdefault(names[number], []).append(query.id)
    return groups
