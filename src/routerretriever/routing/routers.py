"""Routers: rules that score every candidate for every query."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routerretriever.errors import LibraryError
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.abstention import PilotSpace
from routerretriever.routing.nearest_pilots import PilotVectors, Similarities
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.plans import Planner


class Router(ABC):
    """Scores candidates; subclasses implement :meth:`expert_scores` and nothing else.

    Args:
        library: pilots with measured gains; its columns are the experts, in order.
    """

    name: ClassVar[str]
    knows_base: ClassVar[bool] = True
    """Whether base and fallback are candidates; the paper's rules always choose an expert."""
    gains: Any

    def __init__(self, library: PilotLibrary) -> None:
        if not len(library):
            raise LibraryError(
                "The pilot library is empty. Build it: routerretriever library MODEL COLLECTION…"
            )
        self.library = library
        self.space = self.make_space(library)
        self.vectors = PilotVectors(self.space.transform(library.centroids))
        self.density = self.space.density
        self.log_counts = np.log(library.weights.astype(np.float32))
        self.gains = self.make_gains(library)
        self.planner = Planner.of(library)

    def over(self, library: PilotLibrary) -> Self:
        """Return this rule over another library; where the pilots are the same, only the gains are prepared again."""
        if library.centroids is not self.library.centroids or library.space is not self.library.space:
            return type(self)(library, **self.settings())
        other = copy.copy(self)
        other.library = library
        other.planner = self.planner.over(library)
        other.gains = self.gains_over(library)
        return other

    def gains_over(self, library: PilotLibrary) -> Any:
        """Prepare the gains as :meth:`make_gains` does, for another library with the same pilots."""
        return self.make_gains(library)

    @abstractmethod
    def make_gains(self, library: PilotLibrary) -> Any:
        """Return the gains of the pilots in the form that :meth:`expert_scores` needs."""

    def make_space(self, library: PilotLibrary) -> PilotSpace:
        """Return the space in which similarities are computed; by default that of the raw embeddings."""
        return PilotSpace.plain(*library.centroids.shape)

    def settings(self) -> dict[str, Any]:
        """Return the arguments besides the library, as plain data."""
        return {}

    @abstractmethod
    def expert_scores(self, similarities: Similarities) -> NDArray[np.float32]:
        """Return the scores of the experts (n, E) from similarities to the pilots."""

    def neighbourhood(self, similarities: Similarities) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the pilots near each query, and their weights, whose rows sum to 1; both (n, k)."""
        nearest = similarities.nearest(1)
        return nearest.indices, np.ones_like(nearest.values)

    def similarities(self, route_embeddings: Vectors) -> Similarities:
        """Return the cosine similarities of route embeddings (n, d) to the pilots."""
        return Similarities(self.space.transform(route_embeddings), self.vectors)

    def scores(self, route_embeddings: Vectors) -> NDArray[np.float32]:
        """Return the scores (n, 2 + E) of base, merged and every expert for route embeddings (n, d)."""
        return self.all_scores(self.similarities(route_embeddings))

    def all_scores(self, similarities: Similarities) -> NDArray[np.float32]:
        """Return the scores as :meth:`scores` does, from similarities to the pilots."""
        experts = self.expert_scores(similarities)
        scores = np.full((len(experts), 2 + experts.shape[1]), -np.inf, np.float32)
        if self.knows_base:
            scores[:, 0] = 0.0
        scores[:, 2:] = experts
        return scores


@dataclass(frozen=True, slots=True, eq=False)
class ShrunkGains:
    """Gains of pilots, shrunk towards those of their collections (after James and Stein 1961).

    They are computed only for the pilots at hand: a table of all would be as large as the library itself.

    Attributes:
        own: gain at each pilot (P, E); NaN where it was not measured.
        means: mean gain of each collection (C, E); 0 where it was not measured.
        collections: row of each pilot's collection in ``means`` (P,).
        locality: weight of a pilot's own gain, from 0 to 1; the mean of its collection has the rest.
    """

    own: NDArray[np.float32]
    means: NDArray[np.float32]
    collections: NDArray[np.int64]
    locality: float

    @classmethod
    def of(cls, library: PilotLibrary, locality: float) -> Self:
        """Return those of a library's pilots."""
        means = np.nan_to_num(np.stack(list(library.mean_gains().values()))).astype(np.float32)
        return cls(
            own=library.gains,
            means=means,
            collections=library.group_numbers(),
            locality=locality,
        )

    def widened(self, library: PilotLibrary) -> Self:
        """Return those of a library that :meth:`only adds <PilotLibrary.only_adds_to>` experts to this one's."""
        added = len(library.experts) - self.means.shape[1]
        return replace(self, own=library.gains, means=np.pad(self.means, ((0, 0), (0, added))))

    def at(self, pilots: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the gains (n, k, E) at pilots (n, k)."""
        expected = self.means[self.collections[pilots]]
        surprise = self.own[pilots]
        surprise -= expected
        np.copyto(surprise, 0.0, where=np.isnan(surprise))
        surprise *= self.locality
        expected += surprise
        return expected


class GainRouter(Router):
    """Predicts the gain of every expert from the measured gains of the nearest pilots.

    Nadaraya-Watson regression over the ``neighbours`` nearest pilots: their gains weighted by the
    number of queries behind them and by ``exp(similarity / temperature)``. The base gains 0. One
    query's nDCG is mostly noise, so a pilot's own gain has only the weight ``locality``, and the mean of its
    collection has the rest. A training query has no gain of its own and stands for that mean alone.
    """

    name = "gain"
    gains: ShrunkGains

    def __init__(
        self, library: PilotLibrary, neighbours: int = 30, temperature: float = 0.1, locality: float = 0.3
    ) -> None:
        self.neighbours = neighbours
        self.temperature = temperature
        self.locality = locality
        super().__init__(library)

    def make_gains(self, library: PilotLibrary) -> ShrunkGains:
        return ShrunkGains.of(library, self.locality)

    def gains_over(self, library: PilotLibrary) -> ShrunkGains:
        # On a CPU, adding an expert then takes the same time however many there are.
        if library.only_adds_to(self.library):
            return self.gains.widened(library)
        return self.make_gains(library)

    def make_space(self, library: PilotLibrary) -> PilotSpace:
        return library.space or PilotSpace.fit(library.centroids, library.sources, library.measured)

    def settings(self) -> dict[str, Any]:
        return {"neighbours": self.neighbours, "temperature": self.temperature, "locality": self.locality}

    def expert_scores(self, similarities: Similarities) -> NDArray[np.float32]:
        pilots, weights = self.neighbourhood(similarities)
        scores: NDArray[np.float32] = (weights[:, None] @ self.gains.at(pilots))[:, 0]
        return scores

    def neighbourhood(self, similarities: Similarities) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        nearest = similarities.nearest(self.neighbours)
        return nearest.indices, softmax(nearest.values / self.temperature + self.log_counts[nearest.indices])


class _PilotRule(Router):
    """Rules of the paper: a pilot belongs to the expert that is best there; the base cannot be chosen."""

    knows_base = False
    gains: NDArray[np.bool_]

    def make_gains(self, library: PilotLibrary) -> NDArray[np.bool_]:
        best = np.nan_to_num(library.gains, nan=0.0).argmax(axis=1)
        owner = best[:, None] == np.arange(len(library.experts))
        return np.asarray(owner & library.measured[:, None])


class PilotMeanRouter(_PilotRule):
    """The paper's rule (arXiv 2409.02685, section 3): highest mean similarity to an expert's pilots."""

    name = "pilot-mean"

    def expert_scores(self, similarities: Similarities) -> NDArray[np.float32]:
        sums = similarities.all() @ self.gains.astype(np.float32)
        counts = self.gains.sum(axis=0, dtype=np.float32)
        means = np.full_like(sums, -np.inf)
        np.divide(sums, counts, out=means, where=counts > 0)
        return means


class PilotMaxRouter(_PilotRule):
    """The official code's rule: the expert of the single most similar pilot."""

    name = "pilot-max"

    def expert_scores(self, similarities: Similarities) -> NDArray[np.float32]:
        values = similarities.all()[:, :, None]
        scores: NDArray[np.float32] = np.where(self.gains, values, np.float32(-np.inf)).max(axis=1)
        return scores


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return weights (n, k) in proportion to ``exp(logits)``, each row summing to 1."""
    weights: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


ROUTERS: dict[str, type[Router]] = {r.name: r for r in (GainRouter, PilotMeanRouter, PilotMaxRouter)}


def make_router(name: str, library: PilotLibrary, **settings: Any) -> Router:
    """Return a router by name.

    Raises:
        LibraryError: there is no such router, or the library has no pilots.
    """
    if name not in ROUTERS:
        raise LibraryError(f"There is no router '{name}'. Choose one of: {', '.join(ROUTERS)}.")
    return ROUTERS[name](library, **settings)
