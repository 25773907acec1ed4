"""Routers, and the decision above them.

A router scores every candidate (base, merged, each expert) for every query. Everything else is
here once: the choice of the best candidate, the margin, the fallback for queries that are far from
every pilot, mixing, and the explanation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from routerretriever.errors import LibraryError
from routerretriever.pilots import PilotLibrary

BASE, MERGED = "base", "merged"
MIN_EXPERTS_TO_MERGE = 3
"""With fewer experts the merged expert is hardly an average, and the base is the safer fallback."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A pilot near the query: where it comes from, how similar it is, and what it saw."""

    collection: str
    example: str
    similarity: float
    gains: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Route:
    """Where one query goes, and why.

    Attributes:
        query: the text.
        expert: the chosen candidate: ``base``, ``merged`` or an expert's name.
        gains: predicted score of every candidate; for the gain router in nDCG@10 over base.
        familiarity: mean similarity to the nearest pilots.
        abstained: the query is far from every pilot, so the fallback was taken.
        reason: one sentence.
        pilots: the nearest pilots, nearest first.
    """

    query: str
    expert: str
    gains: Mapping[str, float]
    familiarity: float
    abstained: bool
    reason: str
    pilots: Sequence[Neighbour] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class Router(ABC):
    """Scores candidates; subclasses implement :meth:`expert_scores` and nothing else.

    Args:
        library: pilots with measured gains; its columns are the experts, in order.
    """

    name: ClassVar[str]
    knows_base: ClassVar[bool] = True
    """Whether base and fallback are candidates; the paper's rules always choose an expert."""

    def __init__(self, library: PilotLibrary) -> None:
        if not len(library):
            raise LibraryError("The pilot library is empty. Build it: routerretriever library MODEL COLLECTION…")
        self.library = library
        self.centroids = torch.from_numpy(library.centroids)
        self.gains = torch.from_numpy(np.nan_to_num(library.gains, nan=0.0))
        self.counts = torch.from_numpy(library.counts).to(torch.float32)

    def settings(self) -> dict[str, Any]:
        """Arguments besides the library, as plain data."""
        return {}

    @abstractmethod
    def expert_scores(self, similarities: Tensor) -> Tensor:
        """Similarities to the pilots (n, P) → scores of the experts (n, E)."""

    def similarities(self, route_embeddings: Tensor) -> Tensor:
        """Cosine similarity of route embeddings (n, d) to every pilot (n, P)."""
        if self.centroids.device != route_embeddings.device:
            for attribute in ("centroids", "gains", "counts"):
                setattr(self, attribute, getattr(self, attribute).to(route_embeddings.device))
        return route_embeddings.to(self.centroids.dtype) @ self.centroids.T

    def scores(self, route_embeddings: Tensor) -> Tensor:
        """Route embeddings (n, d) → scores (n, 2 + E) of base, merged and every expert."""
        return self.all_scores(self.similarities(route_embeddings))

    def all_scores(self, similarities: Tensor) -> Tensor:
        """As :meth:`scores`, from similarities (n, P)."""
        experts = self.expert_scores(similarities)
        base = 0.0 if self.knows_base else -torch.inf
        scores = experts.new_full((len(experts), 2 + experts.shape[1]), -torch.inf)
        scores[:, 0] = base
        scores[:, 2:] = experts
        return scores


class GainRouter(Router):
    """Predicts the gain of every expert from the measured gains of the nearest pilots.

    Nadaraya-Watson regression over the ``neighbours`` nearest pilots: their gains weighted by the
    number of queries behind them and by ``exp(similarity / temperature)``. The base gains 0.
    """

    name = "gain"

    def __init__(self, library: PilotLibrary, neighbours: int = 30, temperature: float = 0.05) -> None:
        super().__init__(library)
        self.neighbours, self.temperature = neighbours, temperature

    def settings(self) -> dict[str, Any]:
        return {"neighbours": self.neighbours, "temperature": self.temperature}

    def expert_scores(self, similarities: Tensor) -> Tensor:
        nearest = similarities.topk(min(self.neighbours, similarities.shape[1]), dim=1)
        logits = nearest.values / self.temperature + self.counts[nearest.indices].log()
        weights = logits.softmax(dim=1)
        return torch.einsum("nk,nke->ne", weights, self.gains[nearest.indices])


class _PilotRule(Router):
    """Rules of the paper: a pilot belongs to the expert that is best there; the base is no choice."""

    knows_base = False

    def __init__(self, library: PilotLibrary) -> None:
        super().__init__(library)
        owner = self.gains.argmax(dim=1)
        self.members = torch.nn.functional.one_hot(owner, len(library.experts)).bool()

    def _similarity_by_expert(self, similarities: Tensor) -> Tensor:
        """(n, P, E), NaN where the pilot is another expert's."""
        members = self.members.to(similarities.device)
        return torch.where(members[None], similarities[:, :, None], torch.nan)


class PilotMeanRouter(_PilotRule):
    """The paper's rule (arXiv 2409.02685, section 3): highest mean similarity to an expert's pilots."""

    name = "pilot-mean"

    def expert_scores(self, similarities: Tensor) -> Tensor:
        return self._similarity_by_expert(similarities).nanmean(dim=1).nan_to_num(-torch.inf)


class PilotMaxRouter(_PilotRule):
    """The official code's rule: the expert of the single most similar pilot."""

    name = "pilot-max"

    def expert_scores(self, similarities: Tensor) -> Tensor:
        return self._similarity_by_expert(similarities).nan_to_num(-torch.inf).amax(dim=1)


ROUTERS: dict[str, type[Router]] = {r.name: r for r in (GainRouter, PilotMeanRouter, PilotMaxRouter)}


def make_router(name: str, library: PilotLibrary, **settings: Any) -> Router:
    """A router by name.

    Raises:
        LibraryError: there is no such router, or the library has no pilots.
    """
    if name not in ROUTERS:
        raise LibraryError(f"There is no router '{name}'. Choose one of: {', '.join(ROUTERS)}.")
    return ROUTERS[name](library, **settings)


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for n queries: weights (n, 2 + E), scores (n, 2 + E), familiarity (n,), abstained (n,)."""

    weights: Tensor
    scores: Tensor
    familiarity: Tensor
    abstained: Tensor


@dataclass(slots=True)
class RoutingPolicy:
    """Turns scores into a choice for every query.

    Attributes:
        router: scores the candidates.
        margin: an expert is taken only if its predicted gain exceeds this (nDCG@10).
        mix: number of candidates whose vectors are averaged; 1 is a hard choice.
        mix_temperature: softmax temperature of the mixing weights, in nDCG@10.
        abstain: fall back where the query is far from every pilot.
        familiarity_neighbours: pilots whose mean similarity is the familiarity.
    """

    router: Router
    margin: float = 0.0
    mix: int = 1
    mix_temperature: float = 0.05
    abstain: bool = True
    familiarity_neighbours: int = 10

    def settings(self) -> dict[str, Any]:
        """What :func:`make_router` and this class need to be built again, as plain data."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "router"}
        return {"router": self.router.name, "router_settings": self.router.settings(), **own}

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the score columns."""
        return (BASE, MERGED, *self.router.library.experts)

    @property
    def fallback(self) -> int:
        """Column for queries that no expert knows: merged, or base while there are few experts."""
        return 1 if len(self.router.library.experts) >= MIN_EXPERTS_TO_MERGE else 0

    def __call__(self, route_embeddings: Tensor) -> Tensor:
        """Weights (n, 2 + E), each row summing to 1."""
        return self.decide(route_embeddings).weights

    def decide(self, route_embeddings: Tensor) -> Decision:
        """Score, choose and, where the query is unfamiliar, abstain."""
        similarities = self.router.similarities(route_embeddings)
        scores = self.router.all_scores(similarities)
        nearest = similarities.topk(min(self.familiarity_neighbours, similarities.shape[1]), dim=1)
        familiarity = nearest.values.mean(dim=1)
        abstained = torch.zeros_like(familiarity, dtype=torch.bool)
        if self.abstain and self.router.knows_base:
            abstained = familiarity < self.router.library.familiarity_threshold
        weights = self._mixed(scores) if self.mix > 1 else self._hard(scores)
        weights[abstained] = 0.0
        weights[abstained, self.fallback] = 1.0
        return Decision(weights, scores, familiarity, abstained)

    def _hard(self, scores: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(self._best(scores), scores.shape[1]).to(scores.dtype)

    def _best(self, scores: Tensor) -> Tensor:
        best = scores.argmax(dim=1)
        if not self.router.knows_base:
            return best
        return torch.where(scores.amax(dim=1) > self.margin, best, 0)

    def _mixed(self, scores: Tensor) -> Tensor:
        top = scores.topk(min(self.mix, scores.shape[1]), dim=1)
        logits = torch.full_like(scores, -torch.inf).scatter(1, top.indices, top.values)
        return (logits / self.mix_temperature).softmax(dim=1)

    def explain(self, queries: Sequence[str], route_embeddings: Tensor, n_pilots: int = 5) -> list[Route]:
        """One :class:`Route` for every query, with its nearest pilots."""
        decision = self.decide(route_embeddings)
        nearest = self.router.similarities(route_embeddings).topk(min(n_pilots, len(self.router.library)), dim=1)
        routes = []
        for row, query in enumerate(queries):
            scores = {
                name: round(float(score), 4)
                for name, score in zip(self.candidates, decision.scores[row], strict=True)
                if torch.isfinite(score)
            }
            chosen = self.candidates[int(decision.weights[row].argmax())]
            familiarity, abstained = float(decision.familiarity[row]), bool(decision.abstained[row])
            pilots = tuple(
                self._neighbour(int(column), float(value))
                for value, column in zip(nearest.values[row], nearest.indices[row], strict=True)
            )
            reason = self._reason(chosen, scores, familiarity, abstained)
            routes.append(Route(query, chosen, scores, round(familiarity, 4), abstained, reason, pilots))
        return routes

    def _neighbour(self, pilot: int, similarity: float) -> Neighbour:
        library = self.router.library
        gains = {
            name: round(float(gain), 4)
            for name, gain in zip(library.experts, library.gains[pilot], strict=True)
            if np.isfinite(gain)
        }
        return Neighbour(library.sources[pilot], library.examples[pilot], round(similarity, 4), gains)

    def _reason(self, chosen: str, scores: Mapping[str, float], familiarity: float, abstained: bool) -> str:
        if abstained:
            limit = self.router.library.familiarity_threshold
            return f"far from every pilot (familiarity {familiarity:.2f} < {limit:.2f}): {chosen} is the fallback"
        if not self.router.knows_base:
            return f"{chosen} has the highest {self.router.name} similarity ({scores[chosen]:.3f})"
        if chosen == BASE:
            return "no expert is predicted to beat the base here"
        return f"{chosen} is predicted to gain {100 * scores[chosen]:+.1f} nDCG@10 points over the base"


def calibrate_familiarity(library: PilotLibrary, neighbours: int = 10) -> float:
    """The familiarity below which a query is taken to be known to no expert.

    Each pilot is looked at twice: among all other pilots, as a query of a known domain, and among
    the pilots of the other collections only, as a query of a domain nobody trained for. The
    threshold separates the two with the highest balanced accuracy, every collection counting the
    same. With a single collection it is the 5th percentile of the known case.
    """
    sources = np.array(library.sources)
    similarities = library.centroids @ library.centroids.T
    np.fill_diagonal(similarities, -np.inf)
    known = _mean_of_top(similarities, neighbours)
    names = library.collections()
    if len(names) < 2:
        return float(np.quantile(known, 0.05)) if len(library) > 1 else -1.0
    unknown = _mean_of_top(np.where(sources[:, None] == sources[None], -np.inf, similarities), neighbours)
    share = np.zeros(len(library))
    for name in names:
        share[sources == name] = 1.0 / (len(names) * (sources == name).sum())
    limits = np.quantile(np.concatenate([known, unknown]), np.linspace(0.0, 1.0, 401))
    accuracy = [share[known >= limit].sum() + share[unknown < limit].sum() for limit in limits]
    return float(limits[int(np.argmax(accuracy))])


def _mean_of_top(similarities: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    top = -np.sort(-similarities, axis=1)[:, :k]
    finite = np.isfinite(top)
    return np.asarray(np.where(finite, top, 0.0).sum(1) / np.maximum(finite.sum(1), 1))
