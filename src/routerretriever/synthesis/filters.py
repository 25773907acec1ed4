"""The filter every way of generating ends in: normalised duplicates, lengths, and round-trip consistency.

Round-trip consistency (Alberti et al. 2019, arXiv 1906.05416; for retrieval Dai et al. 2022, arXiv 2209.11755) keeps a
query only if a retriever finds its passage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from routerretriever.data.text import stable_hash, text_key
from routerretriever.kernels.exact_search import Vectors, top_k
from routerretriever.synthesis.passages import MAX_COPIES, Passage
from routerretriever.synthesis.queries import Generated

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever

K = 20
"""How deep the passage may be found. The usual 1 keeps what the base knows already and leaves nothing to learn; a
passage beyond the first two pages of ten is rarely what its query describes."""

SHORTEST, LONGEST = 3, 400
"""Letters and digits of a query; also counts for languages that do not part words."""

MERGED = "the same as another passage's, which finds both"
"""Why a query is gone though nothing is lost."""

EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Query:
    """A query that passed, with every passage it was made for.

    Attributes:
        id: decided by its text.
        text: as it was first made.
        way: how it was made.
        passages: what it should find, in the order of their keys.
    """

    id: str
    text: str
    way: str
    passages: tuple[Passage, ...]

    @property
    def documents(self) -> list[str]:
        """The ids of all relevant documents."""
        return sorted(document for passage in self.passages for document in passage.documents)


@dataclass(slots=True)
class Dropped:
    """What a filter dropped: reason → how many queries as they were made, and some examples."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, text: str) -> None:
        """Count one query."""
        self.counts[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(text[:200])


def distinct(generated: Sequence[Generated], dropped: Dropped) -> list[Query]:
    """Queries of a sensible length, each once, with all passages it was made for.

    Every query that was made is one of these or counted in ``dropped``: one that was made for several passages stands
    once, and the others count as ``MERGED``.
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
        if len(group) > MAX_COPIES:
            for item in group:
                dropped.add(f"made for more than {MAX_COPIES} passages", item.text)
            continue
        first = min(group, key=lambda item: (item.passage.key, item.text))
        for item in group:
            if item is not first:
                dropped.add(MERGED, item.text)
        passages = sorted((item.passage for item in group), key=lambda passage: passage.key)
        queries.append(
            Query(f"{first.way}-{stable_hash(key)}", " ".join(first.text.split()), first.way, tuple(passages))
        )
    return sorted(queries, key=lambda query: query.id)


def found(
    queries: Sequence[Query],
    model: RouterRetriever,
    expert: str,
    documents: Vectors,
    rows: Mapping[str, int],
    k: int,
    dropped: Dropped,
) -> list[Query]:
    """Queries whose passage is among the first ``k``; of several passages, those that are.

    Args:
        queries: to check.
        model: encodes them.
        expert: which of its experts does; ``base`` for none.
        documents: vectors of the whole collection (m, d).
        rows: document id → row of ``documents``.
        k: depth.
        dropped: counts the others.
    """
    if not queries:
        return []
    vectors = model.encode_query([query.text for query in queries], expert=expert, batch_size=64)
    ranked = top_k(vectors, documents, k, model.similarity_fn_name).columns
    kept = []
    for query, columns in zip(queries, ranked.tolist(), strict=True):
        first = set(columns)
        passages = tuple(p for p in query.passages if any(rows[document] in first for document in p.documents))
        if passages:
            kept.append(Query(query.id, query.text, query.way, passages))
        else:
            dropped.add(f"passage not among the first {k}", query.text)
    return kept


def _unusable(key: str, item: Generated) -> str:
    size = sum(character.isalnum() for character in key)
    if size < SHORTEST:
        return f"shorter than {SHORTEST} letters"
    if size > LONGEST:
        return f"longer than {LONGEST} letters"
    return "a copy of its passage" if key == text_key(item.passage.content) else ""
