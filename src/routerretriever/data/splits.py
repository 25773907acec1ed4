"""Judged queries, and which of them are held out."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from routerretriever.data.text import stable_hash, text_key

HELD_OUT_SHARE = 0.2
"""Share of the train queries that is held out where a collection has no dev split."""
HELD_OUT_LIMIT = 500
"""Most held-out queries: enough for a stable mean, cheap to encode with every expert."""

_OF_DOCUMENT = "\0"  # begins the key of a document, which no text begins with


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

    def without_copies_of(self, other: Split, generated: Container[str] = ()) -> Split:
        """Return only the queries that may stand beside another split.

        Left out are copies of its queries, and generated queries of a document that its
        generated queries are made from.

        Args:
            other: the other split.
            generated: ids of generated queries of both.
        """
        seen: set[str] = set()
        for query_id in other.queries:
            seen.update(_keys(other, query_id, generated))
        return self.restrict(
            query_id for query_id in self.queries if seen.isdisjoint(_keys(self, query_id, generated))
        )


def division_keys(split: Split, generated: Container[str]) -> list[str]:
    """Return a key of each query; those with the same key must be on one side of a division.

    Copies of one text share theirs. So do generated queries with a relevant document in
    common: they were made from its words, and on both sides they would show that a
    training remembers documents.

    Args:
        split: the queries.
        generated: ids of those that were generated.
    """
    return joined_keys([_keys(split, query_id, generated) for query_id in split.queries])


def joined_keys(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return for each row the least key of all rows that are linked to it by keys in common."""
    parents: dict[str, str] = {}

    def least(key: str) -> str:
        while parents[key] != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    for keys in rows:
        for key in keys:
            parents.setdefault(key, key)
            one, other = sorted((least(keys[0]), least(key)))
            parents[other] = one
    return [least(keys[0]) for keys in rows]


def _keys(split: Split, query_id: str, generated: Container[str]) -> list[str]:
    keys = [text_key(split.queries[query_id])]
    if query_id in generated:
        keys += [
            f"{_OF_DOCUMENT}{document}" for document, grade in split.qrels[query_id].items() if grade > 0
        ]
    return keys


def is_measured_on(key: str) -> bool:
    """Return whether a held-out query measures an expert's gain; the others choose the expert.

    A hash decides, so that training and the pilot library agree without sharing state,
    and a query stays where it is when others are added.

    Args:
        key: of :func:`division_keys`, or the text of a query that nobody generated.
    """
    return int(stable_hash(f"measured on: {text_key(key)}"), 16) % 2 == 0


def part_held_out(train: Split, generated: Container[str] = ()) -> tuple[Split, Split]:
    """Divide train queries into those to train on and a fixed share that is held out.

    A hash of the text decides, so that training and the pilot library agree without
    sharing state. Queries with the same key of :func:`division_keys` stay on the same
    side.

    Args:
        train: the queries.
        generated: ids of those that were generated.
    """
    groups: dict[str, list[str]] = {}
    for query_id, key in zip(train.queries, division_keys(train, generated), strict=True):
        groups.setdefault(key, []).append(query_id)

    def rank(query_ids: list[str]) -> str:
        return min(stable_hash(train.queries[q].strip().lower()) for q in query_ids)

    wanted = min(HELD_OUT_LIMIT, max(1, round(HELD_OUT_SHARE * len(train))))
    held_out: list[str] = []
    for key in sorted(groups, key=lambda key: rank(groups[key])):
        if len(held_out) >= wanted:
            break
        # Generated queries of several documents can link most of a collection.
        if len(groups[key]) <= wanted or not key.startswith(_OF_DOCUMENT):
            held_out += groups[key]
    held_out = held_out or min(groups.values(), key=len)

    remaining = train.restrict(train.queries.keys() - held_out)
    part = train.restrict(held_out)
    return remaining, Split("train (held out)", part.queries, part.qrels)
