"""How an index is searched with one query: what routing decides besides the vector."""

from __future__ import annotations

from dataclasses import dataclass

from routerretriever.routing.relevance import Relevance
from routerretriever.words.weights import DEFAULT_WEIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """What routing says of one query to whoever searches with it.

    Attributes:
        vector_weight: weight of the vector beside the words, 0..1.
        neighbours: whether similar documents draw each other's similarities together; see
            :func:`routerretriever.words.fuse.regularised`.
        reason: why this weight, in one sentence.
        relevance: turns what a search sees of hits into probabilities; ``None`` if nothing was measured.
    """

    vector_weight: float
    reason: str
    neighbours: bool = False
    relevance: Relevance | None = None


DEFAULT_PLAN = SearchPlan(
    vector_weight=DEFAULT_WEIGHT, reason="default, since nothing was measured", neighbours=True
)
WORDS_ALONE = SearchPlan(vector_weight=0.0, reason="the search uses no vector")
