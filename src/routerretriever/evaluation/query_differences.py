"""Which queries one system serves better or worse than another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from routerretriever.evaluation.evaluate import CollectionResult, Evaluation, SystemScores
from routerretriever.evaluation.runs import GAIN_MEASURE

BEFORE, AFTER = "hybrid", "routed-hybrid"
SHOWN_QUERIES = 20
SHOWN_RESULTS = 5

_LEAST = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One of a system's first documents, and whether it is judged relevant."""

    id: str
    relevant: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryDifference:
    """One query under two systems.

    Attributes:
        collection: whose query it is.
        query: the text.
        before, after: nDCG@10 of both systems.
        results_before, results_after: the first documents of both.
    """

    collection: str
    query: str
    before: float
    after: float
    results_before: tuple[Result, ...]
    results_after: tuple[Result, ...]

    @property
    def difference(self) -> float:
        """What the second system gains."""
        return self.after - self.before

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def most_changed(
    evaluation: Evaluation, count: int = SHOWN_QUERIES
) -> tuple[list[QueryDifference], list[QueryDifference]]:
    """Return the queries that the default search helps most against unrouted search, and those it hurts most."""
    every = sorted(_differences(evaluation), key=lambda found: -found.difference)
    helped = [found for found in every[:count] if found.difference > _LEAST]
    hurt = [found for found in every[::-1][:count] if found.difference < -_LEAST]
    return helped, hurt


def _differences(evaluation: Evaluation) -> Iterator[QueryDifference]:
    for result in evaluation.collections:
        before, after = result.systems[BEFORE], result.systems[AFTER]
        for row, (query_id, query) in enumerate(result.split.queries.items()):
            yield QueryDifference(
                collection=result.name,
                query=query,
                before=float(before.values[GAIN_MEASURE][row]),
                after=float(after.values[GAIN_MEASURE][row]),
                results_before=_first(result, before, query_id),
                results_after=_first(result, after, query_id),
            )


def _first(result: CollectionResult, scores: SystemScores, query_id: str) -> tuple[Result, ...]:
    grades = result.split.qrels.get(query_id, {})
    ranked = list(scores.run.get(query_id, {}))[:SHOWN_RESULTS]
    return tuple(Result(id=document, relevant=grades.get(document, 0) > 0) for document in ranked)
