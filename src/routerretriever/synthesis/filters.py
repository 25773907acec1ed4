"""The filter that every query goes through: duplicates, lengths, round-trip consistency.

Round-trip consistency (Alberti et al. 2019, arXiv 1906.05416; for retrieval Dai et al. 2022,
arXiv 2209.11755) keeps a query only if a retriever finds its passage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from routerretriever.data.text import stable_hash, text_key
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.kernels.exact_search import top_k
from routerretriever.synthesis.passages import MAX_COPIES
from routerretriever.synthesis.queries import Generated, Query

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever

SHORTEST = 3
LONGEST = 400
"""Letters and digits of a query; also counts for languages that do not part words."""

MERGED = "the same as another passage's, which finds both"
"""Why a query is gone although nothing is lost."""

EXAMPLES = 3


@dataclass(slots=True)
class Dropped:
    """What a filter dropped: reason → number of queries as they were made, and examples."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, text: str) -> None:
        """Count one query."""
        self.counts[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(text[:200])


@dataclass(frozen=True, slots=True)
class Kept:
    """What passed the filter.

    Attributes:
        queries: that find a passage of theirs.
        dropped: the others.
        checked: how many queries looked for their passage.
    """

    queries: list[Query]
    dropped: Dropped
    checked: int


def distinct(generated: Sequence[Generated], dropped: Dropped) -> list[Query]:
    """Return queries of a sensible length, each once, with all passages it was made for.

    Every query that was made is one of these or is counted in ``dropped``. One that was made
    for several passages is kept once, and the others count as ``MERGED``.
    """
    groups: dict[str, list[Generated]] = {}
    for item in generated:
        key = text_key(item.text)
        if reason := _unusable(key, item):
            dropped.add(reason, item.text)
            continue
        group = groups.setdefault(key, [])
        if any(other.passage.key == item.passage.key for other in group):
            dropped.add("a repetition", item.text)
        else:
            group.append(item)

    queries = []
    for key, group in sorted(groups.items()):
        if len(group) <= MAX_COPIES:
            queries.append(_merged(key, group, dropped))
            continue
        for item in group:
            dropped.add(f"made for more than {MAX_COPIES} passages", item.text)
    return sorted(queries, key=lambda query: query.id)


def _merged(key: str, group: Sequence[Generated], dropped: Dropped) -> Query:
    """Return one query for all that have the same text."""
    first = min(group, key=lambda item: (item.passage.key, item.text))
    for item in group:
        if item is not first:
            dropped.add(MERGED, item.text)
    passages = sorted((item.passage for item in group), key=lambda passage: passage.key)
    return Query(
        id=f"{first.method}-{stable_hash(key)}",
        text=" ".join(first.text.split()),
        method=first.method,
        passages=tuple(passages),
    )


def found(
    queries: Sequence[Query],
    model: RouterRetriever,
    expert: str,
    documents: DocumentVectors,
    rows: Mapping[str, int],
    k: int,
    dropped: Dropped,
) -> list[Query]:
    """Return the queries that find a passage of theirs, with those passages only.

    Args:
        queries: to check.
        model: encodes them.
        expert: which of its experts encodes them; ``base`` for none.
        documents: of the whole collection; long ones are found by their best passage.
        rows: document id → its row.
        k: the passage must be among the first ``k`` results.
        dropped: counts the others.
    """
    if not queries:
        return []
    vectors = model.encode_query([query.text for query in queries], expert=expert, batch_size=64)
    ranked = top_k(vectors, documents.vectors, k, model.similarity_fn_name, documents.groups).columns

    kept = []
    for query, columns in zip(queries, ranked.tolist(), strict=True):
        results = set(columns)
        passages = tuple(
            passage
            for passage in query.passages
            if any(rows[document] in results for document in passage.documents)
        )
        if passages:
            kept.append(replace(query, passages=passages))
        else:
            dropped.add(f"passage not among the first {k}", query.text)
    return kept


def _unusable(key: str, item: Generated) -> str:
    """Return why a query cannot be used; empty if it can."""
    size = sum(character.isalnum() for character in key)
    if size < SHORTEST:
        return f"shorter than {SHORTEST} letters"
    if size > LONGEST:
        return f"longer than {LONGEST} letters"
    return "a copy of its passage" if key == text_key(item.passage.content) else ""
