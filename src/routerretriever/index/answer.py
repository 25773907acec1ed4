"""Answer queries: encode each, search, and say what was used. All doors go through here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np

from routerretriever.data.text import check_queries
from routerretriever.errors import VectorIndexError
from routerretriever.index.encoder import Encoder, Vectors
from routerretriever.index.filters import Condition
from routerretriever.index.migration.bridge import Bridge
from routerretriever.index.parameters import SearchParameters, is_share
from routerretriever.index.querying import (
    EncodedQueries,
    by_words_alone,
    encode_queries,
    search_request,
)
from routerretriever.index.rerank import RERANKED, Reranks, reranked
from routerretriever.index.search import Hit, Mode, SearchRequest, check_mode
from routerretriever.index.store import Store
from routerretriever.routing.candidates import ROUTED
from routerretriever.routing.search_plan import SearchPlan

logger = logging.getLogger(__name__)


class SearchOptions(TypedDict, total=False):
    """Options that all ways of searching an index share; see :meth:`routerretriever.Index.search`."""

    where: str | Condition | None
    exact: bool
    mode: Mode | None
    parameters: SearchParameters | None
    rerank: Reranks | None
    min_relevance: float | None
    passages: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one query found.

    Attributes:
        expert: the candidate that encoded the query: ``base``, ``merged`` or an expert; ``None``
            in mode ``text``, which needs no encoder.
        mode: in which the index was searched.
        vector_weight: weight of the vectors beside the words, 0..1; ``None`` except in mode
            ``hybrid``.
        hits: best first.
        nothing_relevant: whether the first hit is less probably relevant than the first hit of 95% of
            the judged queries that found an answer; ``None`` if that is unknown, as after a reranker.
    """

    expert: str | None
    mode: Mode
    vector_weight: float | None
    hits: list[Hit]
    nothing_relevant: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "expert": self.expert,
            "mode": self.mode,
            "vector_weight": self.vector_weight,
            "nothing_relevant": self.nothing_relevant,
            "hits": [hit.to_dict() for hit in self.hits],
        }


class Searcher:
    """Answers queries from one index.

    Args:
        store: of the index.
        bridge: what maps the model's queries to the documents, while the index has another base.
    """

    def __init__(self, store: Store, bridge: Bridge | None = None) -> None:
        self._store = store
        self._bridge = bridge
        self._warned = False

    def mode(self, wanted: Mode | None) -> Mode:
        """Return the mode of a search: the one wanted, or the best that the index allows.

        Raises:
            VectorIndexError: there is no such mode, or it needs a text index and there is none.
        """
        has_text = self._store.has_text
        if wanted is None:
            if not has_text:
                self._warn_once()
            return "hybrid" if has_text else "vector"
        check_mode(wanted)
        if wanted != "vector" and not has_text:
            raise VectorIndexError(
                "The index has no text index, so it can only be searched by vectors. "
                "Make one: routerretriever index build INDEX --text"
            )
        return wanted

    def encode(
        self, model: Callable[[], Encoder], queries: Sequence[str], mode: Mode, expert: str | None
    ) -> EncodedQueries:
        """Return the queries as the index is searched with them in a mode.

        Args:
            model: gives the model, which mode ``text`` need not load.
            queries: the texts.
            mode: of the search.
            expert: the candidate that encodes all; ``None`` and ``routed`` route.

        Raises:
            QueryError: a query is empty.
            ExpertError: there is no such expert; in mode ``text``, which uses none, as well.
        """
        check_queries(queries)
        pinned = None if expert == ROUTED else expert
        if mode != "text":
            return encode_queries(model(), queries, pinned)
        if pinned is not None:
            model().check_candidate(pinned)
        return by_words_alone(queries)

    def answer(self, encoded: EncodedQueries, k: int, mode: Mode, options: SearchOptions) -> list[Answer]:
        """Search with encoded queries, in one version of the index.

        Args:
            encoded: the queries.
            k: results of each query, at most.
            mode: as :meth:`mode` returned it.
            options: the others.

        Raises:
            VectorIndexError: the condition cannot be understood.
        """
        encoded = self._bridged(encoded)
        reranker = options.get("rerank")
        minimum = options.get("min_relevance")
        if minimum is not None:
            if self._bridge is not None and reranker is None and mode != "text":
                raise VectorIndexError(
                    "Across a bridge nothing says how relevant results are, so none can be left out. Finish "
                    "the move to the new base (routerretriever index migrate), or rerank."
                )
            _check_minimum(minimum, encoded, mode, reranks=reranker is not None)
        parameters = options.get("parameters") or SearchParameters()
        with self._store.view(options.get("where")) as view:
            request = search_request(
                view,
                k if reranker is None else max(k, RERANKED),
                exact=options.get("exact", False),
                parameters=parameters,
                passages=options.get("passages", False),
            )
            found = [_hits(request, encoded, row, mode) for row in range(len(encoded.queries))]
        nothing: list[bool | None] = [None] * len(found)
        if reranker is not None:
            found = reranked(reranker, encoded.queries, found, k)
        else:
            nothing = [_nothing_relevant(encoded.plans[row], mode, hits) for row, hits in enumerate(found)]

        answers = []
        for row, hits in enumerate(found):
            if minimum is not None:
                hits = [hit for hit in hits if hit.relevance is not None and hit.relevance >= minimum]
            answers.append(
                Answer(
                    expert=None if mode == "text" else encoded.experts[row],
                    mode=mode,
                    vector_weight=_weight(parameters, encoded, row) if mode == "hybrid" else None,
                    hits=hits,
                    nothing_relevant=nothing[row],
                )
            )
        return answers

    def _bridged(self, encoded: EncodedQueries) -> EncodedQueries:
        """Return queries as they are compared with the documents."""
        if self._bridge is None or encoded.vectors is None:
            return encoded
        # Similarities across a bridge are smaller, so probabilities learned without one do not hold.
        plans = [replace(plan, relevance=None) for plan in encoded.plans]
        return replace(encoded, vectors=self._bridge.old_vectors(encoded.vectors), plans=plans)

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "The index %s has no text index, so it is searched by vectors alone. "
                "Words find more: routerretriever index build %s --text",
                self._store.uri,
                self._store.uri,
            )


def _hits(request: SearchRequest, encoded: EncodedQueries, row: int, mode: Mode) -> list[Hit]:
    query = encoded.queries[row]
    if mode == "text":
        return request.by_text(query)
    vector = _vectors(encoded)[row]
    plan = encoded.plans[row]
    if mode == "vector":
        return request.by_vector(vector, plan.relevance)
    return request.by_both(query, vector, _weight(request.parameters, encoded, row), plan)


def _nothing_relevant(plan: SearchPlan, mode: Mode, hits: Sequence[Hit]) -> bool | None:
    """Return whether the first hit is below the limit of the calibration; no hits are nothing relevant."""
    if plan.relevance is None or mode == "text":
        return None
    limit = plan.relevance.vector.limit if mode == "vector" else plan.relevance.hybrid.limit
    return not hits or (hits[0].relevance or 0.0) < limit


def _check_minimum(minimum: float, encoded: EncodedQueries, mode: Mode, *, reranks: bool) -> None:
    """Refuse a least relevance that is none, or that nothing can be compared with."""
    if not is_share(minimum):
        raise VectorIndexError(f"The least relevance must be within 0..1, but is {minimum!r}.")
    if reranks:
        return
    if mode == "text":
        raise VectorIndexError(
            "A search by words alone does not say how relevant its results are, so none can be left out. "
            "Use mode 'hybrid' or 'vector', or rerank."
        )
    if any(plan.relevance is None for plan in encoded.plans):
        raise VectorIndexError(
            "Nothing says how relevant these results are, so none can be left out. Build the pilot "
            "library of the model again (routerretriever library MODEL COLLECTION…), or rerank."
        )


def _weight(parameters: SearchParameters, encoded: EncodedQueries, row: int) -> float:
    given = parameters.vector_weight
    return encoded.plans[row].vector_weight if given is None else given


def _vectors(encoded: EncodedQueries) -> Vectors:
    if encoded.vectors is None:
        raise VectorIndexError("These queries were not encoded. Search with mode 'text', or encode them.")
    return np.atleast_2d(encoded.vectors)
