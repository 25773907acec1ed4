"""Routers: rules that score every candidate for every query."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from routerretriever.errors import LibraryError
from routerretriever.routing.abstention import PilotSpace
from routerretriever.routing.nearest_pilots import PilotVectors, Similarities
from routerretriever.routing.pilot_library import PilotLibrary


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
            raise LibraryError(
                "The pilot library is empty. Build it: routerretriever library MODEL COLLECTION…"
            )
        self.library = library
        self.space = self.make_space(library)
        self.vectors = PilotVectors(self.space.transform(torch.from_numpy(library.centroids)))
        self.density = torch.from_numpy(self.space.density)
        self.log_counts = torch.from_numpy(library.weights).to(torch.float32).log()
        self.gains = self.make_gains(library)

    def over(self, library: PilotLibrary) -> Self:
        """Return this rule over another library; where the pilots are the same, only the gains are prepared again."""
        if library.centroids is not self.library.centroids or library.space is not self.library.space:
            return type(self)(library, **self.settings())
        other = copy.copy(self)
        other.library, other.gains = library, self.gains_over(library).to(self.density.device)
        return other

    def gains_over(self, library: PilotLibrary) -> _Gains:
        """Prepare the gains as :meth:`make_gains` does, for another library with the same pilots."""
        return self.make_gains(library)

    @abstractmethod
    def make_gains(self, library: PilotLibrary) -> _Gains:
        """Return the gains of the pilots in the form that :meth:`expert_scores` needs."""

    def make_space(self, library: PilotLibrary) -> PilotSpace:
        """Return the space in which similarities are computed; by default that of the raw embeddings."""
        return PilotSpace.plain(*library.centroids.shape)

    def settings(self) -> dict[str, Any]:
        """Return the arguments besides the library, as plain data."""
        return {}

    @abstractmethod
    def expert_scores(self, similarities: Similarities) -> Tensor:
        """Return the scores of the experts (n, E) from similarities to the pilots."""

    def similarities(self, route_embeddings: Tensor) -> Similarities:
        """Return the cosine similarities of route embeddings (n, d) to the pilots."""
        if self.density.device != route_embeddings.device:
            for attribute in ("vectors", "density", "gains", "log_counts"):
                setattr(self, attribute, getattr(self, attribute).to(route_embeddings.device))
        return Similarities(self.space.transform(route_embeddings), self.vectors)

    def scores(self, route_embeddings: Tensor) -> Tensor:
        """Return the scores (n, 2 + E) of base, merged and every expert for route embeddings (n, d)."""
        return self.all_scores(self.similarities(route_embeddings))

    def all_scores(self, similarities: Similarities) -> Tensor:
        """Return the scores as :meth:`scores` does, from similarities to the pilots."""
        experts = self.expert_scores(similarities)
        base = 0.0 if self.knows_base else -torch.inf
        scores = experts.new_full((len(experts), 2 + experts.shape[1]), -torch.inf)
        scores[:, 0] = base
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

    own: Tensor
    means: Tensor
    collections: Tensor
    locality: float

    @classmethod
    def of(cls, library: PilotLibrary, locality: float) -> Self:
        """Return those of a library's pilots."""
        means = np.nan_to_num(np.stack(list(library.mean_gains().values()))).astype(np.float32)
        return cls(
            own=torch.from_numpy(library.gains),
            means=torch.from_numpy(means),
            collections=torch.from_numpy(library.group_numbers()),
            locality=locality,
        )

    def widened(self, library: PilotLibrary) -> Self:
        """Return those of a library that :meth:`only adds <PilotLibrary.only_adds_to>` experts to this one's."""
        added = len(library.experts) - self.means.shape[1]
        return replace(self, own=torch.from_numpy(library.gains), means=F.pad(self.means, (0, added)))

    def to(self, device: torch.device) -> Self:
        """Return the same gains on another device."""
        return replace(
            self,
            own=self.own.to(device),
            means=self.means.to(device),
            collections=self.collections.to(device),
        )

    def at(self, pilots: Tensor) -> Tensor:
        """Return the gains (n, k, E) at pilots (n, k)."""
        expected = F.embedding(self.collections[pilots], self.means)
        surprise = F.embedding(pilots, self.own).sub_(expected).nan_to_num_(0.0)
        return expected.add_(surprise, alpha=self.locality)


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

    def expert_scores(self, similarities: Similarities) -> Tensor:
        nearest = similarities.nearest(self.neighbours)
        logits = nearest.values / self.temperature + self.log_counts[nearest.indices]
        weights = logits.softmax(dim=1)
        return torch.bmm(weights[:, None], self.gains.at(nearest.indices))[:, 0]


class _PilotRule(Router):
    """Rules of the paper: a pilot belongs to the expert that is best there; the base cannot be chosen."""

    knows_base = False
    gains: Tensor

    def make_gains(self, library: PilotLibrary) -> Tensor:
        gains = torch.from_numpy(np.nan_to_num(library.gains, nan=0.0))
        owner = torch.nn.functional.one_hot(gains.argmax(dim=1), len(library.experts)).bool()
        return owner & torch.from_numpy(library.measured)[:, None]

    def _similarity_by_expert(self, similarities: Similarities) -> Tensor:
        """Return similarities (n, P, E), NaN where the pilot belongs to another expert."""
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
    """Return a router by name.

    Raises:
        LibraryError: there is no such router, or the library has no pilots.
    """
    if name not in ROUTERS:
        raise LibraryError(f"There is no router '{name}'. Choose one of: {', '.join(ROUTERS)}.")
    return ROUTERS[name](library, **settings)
