"""Judged queries, and which of them are held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from routerretriever.data.text import stable_hash, text_key

HELD_OUT_SHARE = 0.2
"""Share of the train queries that is held out where a collection has no dev split."""
HELD_OUT_LIMIT = 500
"""Most held-out queries: enough for a stable mean, cheap to encode with every expert."""


@dataclass(frozen=True, slots=True)
class Split:
    """The judged queries of one split: query id → text, and query id → document id → grade."""

    name: str
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    def __len__(self) -> int:
        return len(self.queries)

    def sample(self, limit: int | None, seed: int = 0) -> Split:
        """Return at most ``limit`` queries, the same ones for the same seed."""
        if limit is None or len(self) <= limit:
            return self
        ranked = sorted(self.queries, key=lambda query_id: stable_hash(f"{seed}:{query_id}"))
        return self.restrict(ranked[:limit])

    def restrict(self, query_ids: Iterable[str]) -> Split:
        """Return only these queries, in their original order."""
        wanted = set(query_ids)
        queries: dict[str, str] = {}
        qrels: dict[str, Mapping[str, int]] = {}
        for query_id, text in self.queries.items():
            if query_id in wanted:
                queries[query_id] = text
                qrels[query_id] = self.qrels[query_id]
        return Split(self.name, queries, qrels)

    def without_copies_of(self, other: Split) -> Split:
        """Return only the queries whose text is not among those of another split."""
        seen = {text_key(text) for text in other.queries.values()}
        return self.restrict(
            query_id for query_id, text in self.queries.items() if text_key(text) not in seen
        )


def is_measured_on(text: str) -> bool:
    """Return whether a held-out query measures an expert's gain; the others choose the expert.

    A hash of the text decides, so that training and the pilot library agree without sharing
    state, and a query stays where it is when others are added. Copies of one question are on
    the same side.
    """
    return int(stable_hash(f"measured on: {text_key(text)}"), 16) % 2 == 0


def part_held_out(train: Split) -> tuple[Split, Split]:
    """Divide train queries into those to train on and a fixed share that is held out.

    A hash of the text decides, so that training and the pilot library agree without
    sharing state. Copies of one question stay on the same side.
    """
    copies: dict[str, list[str]] = {}
    for query_id, text in train.queries.items():
        copies.setdefault(text_key(text), []).append(query_id)

    def rank(query_ids: list[str]) -> str:
        return min(stable_hash(train.queries[q].strip().lower()) for q in query_ids)

    wanted = min(HELD_OUT_LIMIT, max(1, round(HELD_OUT_SHARE * len(train))))
    held_out: list[str] = []
    for query_ids in sorted(copies.values(), key=rank):
        if len(held_out) >= wanted:
            break
        held_out += query_ids

    remaining = train.restrict(train.queries.keys() - held_out)
    part = train.restrict(held_out)
    return remaining, Split("train (held out)", part.queries, part.qrels)
