"""The decision above the routers: the best candidate, the margin, partial abstention, mixing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from routerretriever.routing.abstention import familiarity
from routerretriever.routing.candidates import BASE, MERGED
from routerretriever.routing.explain import Neighbour, Route
from routerretriever.routing.nearest_pilots import Similarities
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.routers import Router

CAUTION = 2 / 3
"""Share of an expert's update for a query that the pilots hardly know: it keeps most of the gain where the
expert is right and costs little where it is wrong."""
FALLBACK_SHARE = 0.5
"""Share of the merged update for a query that no expert knows: half of it gains as much as all of it where
it helps and costs half as much where it does not."""
MIN_EXPERTS_TO_MERGE = 3
"""With fewer experts the merged expert is hardly an average, and the base is the safer fallback."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for n queries.

    Attributes:
        weights: share of every candidate's update (n, 2 + E); rows sum to 1, the base's share changes nothing.
        chosen: column of the candidate that leads (n,).
        scores: of every candidate (n, 2 + E).
        familiarity: how well the pilots know each query (n,).
        strength: share of the leading expert's update: 1, the policy's ``caution``, or 0 for the fallback (n,).
    """

    weights: Tensor
    chosen: Tensor
    scores: Tensor
    familiarity: Tensor
    strength: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class RoutingPolicy:
    """Turns scores into a choice for every query.

    Attributes:
        router: scores the candidates.
        margin: an expert is taken only if its predicted gain exceeds this (nDCG@10).
        mix: number of candidates whose updates are averaged; 1 is a hard choice.
        mix_temperature: softmax temperature of the mixing weights, in nDCG@10.
        caution: share of the expert's update applied to a query that the pilots hardly know.
        fallback_share: share of the merged update applied to a query that they do not know.
        abstain: heed the familiarity; without it every query is taken to be known.
    """

    router: Router
    margin: float = 0.0
    mix: int = 1
    mix_temperature: float = 0.05
    caution: float = CAUTION
    fallback_share: float = FALLBACK_SHARE
    abstain: bool = True

    def settings(self) -> dict[str, Any]:
        """What :func:`make_router` and this class need to be built again, as plain data."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "router"}
        return {"router": self.router.name, "router_settings": self.router.settings(), **own}

    @property
    def library(self) -> PilotLibrary:
        """The pilots that the router reads."""
        return self.router.library

    def over(self, library: PilotLibrary) -> RoutingPolicy:
        """Return the same policy over another library."""
        return replace(self, router=self.router.over(library))

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the score columns."""
        return (BASE, MERGED, *self.library.experts)

    @property
    def fallback(self) -> int:
        """Column for queries that no expert knows: merged, or base while there are few experts."""
        return 1 if len(self.library.experts) >= MIN_EXPERTS_TO_MERGE else 0

    def __call__(self, route_embeddings: Tensor) -> Tensor:
        """Weights (n, 2 + E), each row summing to 1."""
        return self.decide(route_embeddings).weights

    def decide(self, route_embeddings: Tensor) -> Decision:
        """Score, choose, and hold back where the pilots do not know the query."""
        return self._decide(self.router.similarities(route_embeddings))

    def _decide(self, similarities: Similarities) -> Decision:
        scores = self.router.all_scores(similarities)
        known = familiarity(similarities, self.router.density)
        # Small numbers: numpy takes a fifth of torch's time for them, and the encoder wants the weights there.
        values, strength = scores.cpu().numpy(), self._strength(known.cpu().numpy())
        led = strength > 0
        chosen = np.where(led, self._best(values), self.fallback)
        share = np.where(led, strength, np.float32(self.fallback_share))
        weights = np.zeros_like(values)
        weights[np.arange(len(values)), chosen] = share
        if self.mix > 1:
            weights[led] = share[led, None] * self._mixed(scores).cpu().numpy()[led]
        weights[:, 0] += 1.0 - share
        as_tensor = partial(torch.as_tensor, device=scores.device)
        return Decision(as_tensor(weights), as_tensor(chosen), scores, known, as_tensor(strength))

    def _strength(self, known: NDArray[np.float32]) -> NDArray[np.float32]:
        if not (self.abstain and self.router.knows_base):
            return np.ones_like(known)
        space = self.router.space
        doubtful = np.where(known < space.unsure, np.float32(0.0), np.float32(self.caution))
        return np.where(known < space.sure, doubtful, np.float32(1.0))

    def _best(self, scores: NDArray[np.float32]) -> NDArray[np.int64]:
        best: NDArray[np.int64] = scores.argmax(axis=1)
        if self.router.knows_base:
            best[~(scores.max(axis=1) > self.margin)] = 0
        return best

    def _mixed(self, scores: Tensor) -> Tensor:
        top = scores.topk(min(self.mix, scores.shape[1]), dim=1)
        logits = torch.full_like(scores, -torch.inf).scatter(1, top.indices, top.values)
        return (logits / self.mix_temperature).softmax(dim=1)

    def explain(self, queries: Sequence[str], route_embeddings: Tensor, n_pilots: int = 5) -> list[Route]:
        """One :class:`Route` for every query, with its nearest pilots."""
        similarities = self.router.similarities(route_embeddings)
        decision, nearest = self._decide(similarities), similarities.nearest(n_pilots)
        routes = []
        for row, query in enumerate(queries):
            scores = {
                name: round(float(score), 4)
                for name, score in zip(self.candidates, decision.scores[row], strict=True)
                if torch.isfinite(score)
            }
            column = int(decision.chosen[row])
            chosen = self.candidates[column]
            known, strength = float(decision.familiarity[row]), float(decision.strength[row])
            pilots = tuple(
                self._neighbour(int(pilot), float(value))
                for value, pilot in zip(nearest.values[row], nearest.indices[row], strict=True)
            )
            reason = self._reason(chosen, scores, known, strength)
            applied = 1.0 if column == 0 else strength or self.fallback_share
            route = Route(query, chosen, applied, scores, round(known, 4), strength == 0, reason, pilots)
            routes.append(route)
        return routes

    def _neighbour(self, pilot: int, similarity: float) -> Neighbour:
        library = self.library
        gains = {
            name: round(float(gain), 4)
            for name, gain in zip(library.experts, library.gains[pilot], strict=True)
            if np.isfinite(gain)
        }
        return Neighbour(library.sources[pilot], library.examples[pilot], round(similarity, 4), gains)

    def _reason(self, chosen: str, scores: Mapping[str, float], known: float, strength: float) -> str:
        space = self.router.space
        if strength == 0:
            part = f", {self.fallback_share:.0%} of its update" if chosen == MERGED else ""
            stranger = f"no pilot knows this query (familiarity {known:.2f} < {space.unsure:.2f})"
            return f"{stranger}: {chosen} is the fallback{part}"
        if not self.router.knows_base:
            return f"{chosen} has the highest {self.router.name} similarity ({scores[chosen]:.3f})"
        if chosen == BASE:
            return "no expert is predicted to beat the base here"
        predicted = f"{chosen} is predicted to gain {100 * scores[chosen]:+.1f} nDCG@10 points over the base"
        if strength == 1:
            return predicted
        doubt = f"the pilots hardly know this query (familiarity {known:.2f} < {space.sure:.2f})"
        return f"{predicted}, but {doubt}: {strength:.0%} of its update is applied"
