"""Judged queries, and which of them are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

HELD_OUT_SHARE = 0.2
"""Share of the train queries held out where a collection has no dev split."""
HELD_OUT_LIMIT = 500
"""Most held-out queries used: enough for a stable mean, cheap to encode with every expert."""


@dataclass(frozen=True, slots=True)
class Split:
    """The judged queries of one split: query id → text, and query id → document id → grade."""

    name: str
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    def __len__(self) -> int:
        return len(self.queries)

    def sample(self, limit: int | None, seed: int = 0) -> Split:
        """At most ``limit`` queries, the same ones for the same seed whatever else is there."""
        if limit is None or len(self) <= limit:
            return self
        chosen = set(sorted(self.queries, key=lambda query_id: stable_hash(f"{seed}:{query_id}"))[:limit])
        return self.restrict(chosen)

    def restrict(self, query_ids: Iterable[str]) -> Split:
        """Only these queries, in their original order."""
        wanted = set(query_ids)
        kept = {query_id: text for query_id, text in self.queries.items() if query_id in wanted}
        return Split(self.name, kept, {query_id: self.qrels[query_id] for query_id in kept})


def stable_hash(text: str) -> bytes:
    """Return 8 bytes that depend on the text alone, in every process."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
