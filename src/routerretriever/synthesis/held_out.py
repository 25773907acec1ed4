"""Which generated queries are held out: those of other passages than are trained on."""

from __future__ import annotations

from collections.abc import Sequence

from routerretriever.data.splits import HELD_OUT_LIMIT, HELD_OUT_SHARE, joined_keys
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
    names = joined_keys([[passage.key for passage in query.passages] for query in queries])
    groups: dict[str, list[str]] = {}
    for name, query in zip(names, queries, strict=True):
        groups.setdefault(name, []).append(query.id)
    return groups
