"""Explain routes: the candidate that encodes a query, the reason, and the nearest pilots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.candidates import BASE
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A pilot near the query.

    Attributes:
        collection: where the pilot comes from.
        example: its query.
        similarity: cosine similarity to the query, in the space of the pilots.
        gains: expert → gain measured at this pilot (nDCG@10 over the base).
    """

    collection: str
    example: str
    similarity: float
    gains: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The decision for one query, explained.

    Attributes:
        query: the text.
        expert: the chosen candidate: ``base``, ``merged`` or an expert's name.
        adapter_weight: weight of the chosen expert's LoRA delta, from 0 to 1; below 1 where the query is
            close to the edge of what the pilots cover.
        gains: predicted score of every candidate; for the gain router in nDCG@10 over the base.
        in_domain_score: closeness to the pilots; 0 is the average of in-domain queries.
        abstained: the query is out of domain, so the fallback was chosen.
        reason: one sentence.
        vector_weight: weight of the vectors beside the words in a hybrid search, 0 to 1.
        words_reason: why words have the rest of the weight.
        pilots: the nearest pilots, nearest first.
    """

    query: str
    expert: str
    adapter_weight: float
    gains: Mapping[str, float]
    in_domain_score: float
    abstained: bool
    reason: str
    vector_weight: float
    words_reason: str
    pilots: Sequence[Neighbour] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def explain_routes(
    policy: RoutingPolicy, queries: Sequence[str], route_embeddings: Vectors, n_pilots: int = 5
) -> list[Route]:
    """Return one :class:`Route` for every query.

    Args:
        policy: decides.
        queries: texts (n).
        route_embeddings: of these texts (n, d).
        n_pilots: number of nearest pilots to name.
    """
    similarities = policy.router.similarities(route_embeddings)
    decision = policy.decide_by(similarities)
    plans = policy.plans(decision)
    nearest = similarities.nearest(n_pilots)

    routes = []
    for row, query in enumerate(queries):
        expert = policy.candidates[int(decision.chosen[row])]
        gains = _finite(policy.candidates, decision.scores[row])
        score = float(decision.in_domain_scores[row])
        weight = float(decision.adapter_weights[row])
        pilots = zip(nearest.indices[row], nearest.values[row], strict=True)
        routes.append(
            Route(
                query=query,
                expert=expert,
                adapter_weight=_applied_weight(policy, expert, weight),
                gains=gains,
                in_domain_score=round(score, 4),
                abstained=weight == 0,
                reason=_reason(policy, expert, gains, score, weight),
                vector_weight=plans[row].vector_weight,
                words_reason=plans[row].reason,
                pilots=tuple(_neighbour(policy.library, int(pilot), float(value)) for pilot, value in pilots),
            )
        )
    return routes


def _applied_weight(policy: RoutingPolicy, expert: str, weight: float) -> float:
    """Return the weight that a route states; the base has no delta to weigh."""
    if expert == BASE:
        return 1.0
    return weight or policy.fallback_weight


def _neighbour(library: PilotLibrary, pilot: int, similarity: float) -> Neighbour:
    return Neighbour(
        collection=library.sources[pilot],
        example=library.examples[pilot],
        similarity=round(similarity, 4),
        gains=_finite(library.experts, library.gains[pilot]),
    )


def _finite(names: Sequence[str], values: Any) -> dict[str, float]:
    """Return rounded values by name, without those that were not measured or cannot be chosen."""
    finite = {}
    for name, value in zip(names, values, strict=True):
        if np.isfinite(value):
            finite[name] = round(float(value), 4)
    return finite


def _reason(
    policy: RoutingPolicy, expert: str, gains: Mapping[str, float], score: float, weight: float
) -> str:
    space = policy.router.space
    if weight == 0:
        why = f"out of domain (in-domain score {score:.2f}, below the reject threshold {space.reject_threshold:.2f})"
        if expert == BASE:
            return f"{why}: falls back to the base"
        return f"{why}: falls back to {expert} with weight {policy.fallback_weight:.0%}"
    if not policy.router.knows_base and expert == BASE:
        return "no expert has a pilot"
    if not policy.router.knows_base:
        return f"{expert} has the highest {policy.router.name} similarity ({gains[expert]:.3f})"
    if expert == BASE:
        return _base_reason(policy.margin)
    predicted = f"{expert} is predicted to gain {100 * gains[expert]:+.1f} nDCG@10 points over the base"
    if weight == 1:
        return predicted
    doubt = f"in-domain score {score:.2f}, below the trust threshold {space.trust_threshold:.2f}"
    return f"{predicted}; applied with weight {weight:.0%} ({doubt})"


def _base_reason(margin: float) -> str:
    if margin == 0:
        return "no expert is predicted to beat the base"
    return f"no expert is predicted to beat the base by more than {100 * margin:g} nDCG@10 points"
