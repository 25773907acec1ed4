"""Routers, and the decision above them.

A router scores every candidate (base, merged, each expert) for every query. Everything else is
here once: the choice of the best candidate, the margin, caution with queries that the pilots hardly
know, mixing, and the explanation.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from routerretriever.errors import LibraryError
from routerretriever.familiarity import PilotSpace, familiarity
from routerretriever.pilots import PilotLibrary
from routerretriever.similarity import Points, Similarities
from routerretriever.vectors import Vectors

BASE, MERGED, ROUTED = "base", "merged", "routed"
CAUTION = 2 / 3
"""Share of an expert's update for a query that the pilots hardly know: it keeps most of the gain where the
expert is right and costs little where it is wrong."""
FALLBACK_SHARE = 0.5
"""Share of the merged update for a query that no expert knows: half of it gains as much as all of it where
it helps and costs half as much where it does not."""
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
        strength: share of the expert's update that is applied; below 1 where the pilots hardly know the query.
        gains: predicted score of every candidate; for the gain router in nDCG@10 over base.
        familiarity: how well the pilots know the query; 0 is the average of what they know.
        abstained: no pilot knows the query, so the fallback was taken.
        reason: one sentence.
        pilots: the nearest pilots, nearest first.
    """

    query: str
    expert: str
    strength: float
    gains: Mapping[str, float]
    familiarity: float
    abstained: bool
    reason: str
    pilots: Sequence[Neighbour] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class _Gains(Protocol):
    def to(self, device: torch.device, /) -> Any: ...


class Router(ABC):
    """Scores candidates; subclasses implement :meth:`expert_scores` and nothing else.

    Args:
        library: pilots with measured gains; its columns are the experts, in order.
    """

    name: ClassVar[str]
    knows_base: ClassVar[bool] = True
    """Whether base and fallback are candidates; the paper's rules always choose an expert."""
    gains: _Gains

    def __init__(self, library: PilotLibrary) -> None:
        if not len(library):
            raise LibraryError("The pilot library is empty. Build it: routerretriever library MODEL COLLECTION…")
        self.library, self.space = library, self.make_space(library)
        self.points = Points(self.space.transform(torch.from_numpy(library.centroids)))
        self.density = torch.from_numpy(self.space.density)
        self.log_counts = torch.from_numpy(library.weights).to(torch.float32).log()
        self.gains = self.make_gains(library)

    def over(self, library: PilotLibrary) -> Self:
        """This rule over another library; of one with the same pilots only the gains are prepared anew."""
        if library.centroids is not self.library.centroids or library.space is not self.library.space:
            return type(self)(library, **self.settings())
        other = copy.copy(self)
        other.library, other.gains = library, self.gains_over(library).to(self.density.device)
        return other

    def gains_over(self, library: PilotLibrary) -> _Gains:
        """As :meth:`make_gains`, for another library with the same pilots."""
        return self.make_gains(library)

    @abstractmethod
    def make_gains(self, library: PilotLibrary) -> _Gains:
        """What the pilots say of every expert, in the form that :meth:`expert_scores` wants."""

    def make_space(self, library: PilotLibrary) -> PilotSpace:
        """Where similarities are measured: as a rule, between the raw embeddings."""
        return PilotSpace.plain(*library.centroids.shape)

    def settings(self) -> dict[str, Any]:
        """Arguments besides the library, as plain data."""
        return {}

    @abstractmethod
    def expert_scores(self, similarities: Similarities) -> Tensor:
        """Similarities to the pilots → scores of the experts (n, E)."""

    def similarities(self, route_embeddings: Tensor) -> Similarities:
        """Cosine similarities of route embeddings (n, d) to the pilots."""
        if self.density.device != route_embeddings.device:
            for attribute in ("points", "density", "gains", "log_counts"):
                setattr(self, attribute, getattr(self, attribute).to(route_embeddings.device))
        return Similarities(self.space.transform(route_embeddings), self.points)

    def scores(self, route_embeddings: Tensor) -> Tensor:
        """Route embeddings (n, d) → scores (n, 2 + E) of base, merged and every expert."""
        return self.all_scores(self.similarities(route_embeddings))

    def all_scores(self, similarities: Similarities) -> Tensor:
        """As :meth:`scores`, from the similarities."""
        experts = self.expert_scores(similarities)
        base = 0.0 if self.knows_base else -torch.inf
        scores = experts.new_full((len(experts), 2 + experts.shape[1]), -torch.inf)
        scores[:, 0] = base
        scores[:, 2:] = experts
        return scores


@dataclass(frozen=True, slots=True, eq=False)
class ShrunkGains:
    """Gains of pilots, shrunk towards those of their collections (after James and Stein 1961).

    They are put together for the pilots that are asked for: a table of all has as many numbers as the library itself.

    Attributes:
        own: measured at each pilot (P, E); NaN where not.
        means: of each collection (C, E); 0 where not measured.
        collections: row of each pilot's among ``means`` (P,).
        locality: what a pilot's own gain counts.
    """

    own: Tensor
    means: Tensor
    collections: Tensor
    locality: float

    @classmethod
    def of(cls, library: PilotLibrary, locality: float) -> Self:
        """Those of a library's pilots."""
        means = np.nan_to_num(np.stack(list(library.mean_gains().values()))).astype(np.float32)
        own, collections = torch.from_numpy(library.gains), torch.from_numpy(library.group_numbers())
        return cls(own, torch.from_numpy(means), collections, locality)

    def widened(self, library: PilotLibrary) -> Self:
        """Those of a library that :meth:`only adds <PilotLibrary.only_adds_to>` experts to the one these are of."""
        added = len(library.experts) - self.means.shape[1]
        return replace(self, own=torch.from_numpy(library.gains), means=F.pad(self.means, (0, added)))

    def to(self, device: torch.device) -> Self:
        """The same elsewhere."""
        return replace(
            self, own=self.own.to(device), means=self.means.to(device), collections=self.collections.to(device)
        )

    def at(self, pilots: Tensor) -> Tensor:
        """Pilots (n, k) → their gains (n, k, E)."""
        expected = F.embedding(self.collections[pilots], self.means)
        surprise = F.embedding(pilots, self.own).sub_(expected).nan_to_num_(0.0)
        return expected.add_(surprise, alpha=self.locality)


class GainRouter(Router):
    """Predicts the gain of every expert from the measured gains of the nearest pilots.

    Nadaraya-Watson regression over the ``neighbours`` nearest pilots: their gains weighted by the
    number of queries behind them and by ``exp(similarity / temperature)``. The base gains 0. One
    query's nDCG is mostly noise, so a pilot counts for its own gain only by the share ``locality`` and
    for the mean of its collection by the rest. A training query, which has no gain of its own, counts for that mean
    alone.
    """

    name = "gain"
    gains: ShrunkGains

    def __init__(
        self, library: PilotLibrary, neighbours: int = 30, temperature: float = 0.1, locality: float = 0.3
    ) -> None:
        self.neighbours, self.temperature, self.locality = neighbours, temperature, locality
        super().__init__(library)

    def make_gains(self, library: PilotLibrary) -> ShrunkGains:
        return ShrunkGains.of(library, self.locality)

    def gains_over(self, library: PilotLibrary) -> ShrunkGains:
        # On a processor, an expert more then costs the same however many there are.
        return self.gains.widened(library) if library.only_adds_to(self.library) else self.make_gains(library)

    def make_space(self, library: PilotLibrary) -> PilotSpace:
        return library.space or PilotSpace.fit(library.centroids, library.sources, library.measured)

    def settings(self) -> dict[str, Any]:
        return {"neighbours": self.neighbours, "temperature": self.temperature, "locality": self.locality}

    def expert_scores(self, similarities: Similarities) -> Tensor:
        nearest = similarities.nearest(self.neighbours)
        logits = nearest.values / self.temperature + self.log_counts[nearest.indices]
        weights = logits.softmax(dim=1)
        return torch.bmm(weights[:, None], self.gains.at(nearest.indices))[:, 0]


class _PilotRule(Router):
    """Rules of the paper: a pilot belongs to the expert that is best there; the base is no choice."""

    knows_base = False
    gains: Tensor

    def make_gains(self, library: PilotLibrary) -> Tensor:
        gains = torch.from_numpy(np.nan_to_num(library.gains, nan=0.0))
        owner = torch.nn.functional.one_hot(gains.argmax(dim=1), len(library.experts)).bool()
        return owner & torch.from_numpy(library.measured)[:, None]

    def _similarity_by_expert(self, similarities: Similarities) -> Tensor:
        """(n, P, E), NaN where the pilot is another expert's."""
        values = similarities.all()
        return torch.where(self.gains[None], values[:, :, None], torch.nan)


class PilotMeanRouter(_PilotRule):
    """The paper's rule (arXiv 2409.02685, section 3): highest mean similarity to an expert's pilots."""

    name = "pilot-mean"

    def expert_scores(self, similarities: Similarities) -> Tensor:
        return self._similarity_by_expert(similarities).nanmean(dim=1).nan_to_num(-torch.inf)


class PilotMaxRouter(_PilotRule):
    """The official code's rule: the expert of the single most similar pilot."""

    name = "pilot-max"

    def expert_scores(self, similarities: Similarities) -> Tensor:
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
class RoutedVectors:
    """Query vectors, and what encoded each of them.

    Attributes:
        vectors: sentence embeddings (n, d).
        experts: the candidate that leads each row (n,).
        tokens: how many the encoder read of each row (n,).
        decision: what the policy said of all rows, pinned ones too; ``None`` without a pilot library.
        route_embeddings: what the router read (n, d_route).
        policy: the policy that decided.
    """

    vectors: Vectors
    experts: tuple[str, ...]
    tokens: NDArray[np.int64]
    decision: Decision | None
    route_embeddings: Tensor
    policy: RoutingPolicy | None


@dataclass(slots=True)
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
        library = self.router.library
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


def present_policy(policy: RoutingPolicy | None) -> RoutingPolicy:
    """The policy of a model that must have one.

    Raises:
        LibraryError: its pilot library has not been built.
    """
    if policy is None:
        raise LibraryError("The model has no pilot library. Build it: routerretriever library MODEL COLLECTION…")
    return policy
