"""The decision above the routers: the best candidate, the margin, partial abstention, mixing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routerretriever.errors import LibraryError
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.abstention import in_domain_score
from routerretriever.routing.candidates import BASE, MERGED
from routerretriever.routing.nearest_pilots import Similarities, largest
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.routers import Router, make_router, softmax
from routerretriever.routing.search_plan import SearchPlan

PARTIAL_WEIGHT = 2 / 3
"""Weight of an expert for a query between the two thresholds: it keeps most of the gain where the expert
is right and costs little where it is wrong."""
FALLBACK_WEIGHT = 0.5
"""Weight of the merged expert for an out-of-domain query: half of its delta gains as much as all of it
where it helps and costs half as much where it does not."""
MIN_EXPERTS_TO_MERGE = 3
"""With fewer experts the merged expert is hardly an average, and the base is the safer fallback."""

_SAVED_NAMES = {"partial_weight": "caution", "fallback_weight": "fallback_share"}
"""Field → key in saved models, so that the first version can read them, too."""
_NEED_BASE = ("margin", "partial_weight", "fallback_weight", "abstain")
"""Settings that have no effect where the base cannot be chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome for n queries.

    Attributes:
        weights: weight of every candidate's LoRA delta (n, 2 + E); rows sum to 1, and the base has no delta.
        chosen: column of the candidate that leads (n,).
        scores: of every candidate (n, 2 + E).
        in_domain_scores: closeness of each query to the pilots (n,).
        adapter_weights: weight of the leading expert: 1, the policy's ``partial_weight``, or 0 where the
            fallback was chosen (n,).
        groups: the collection that most of the query's neighbourhood comes from (n,); see
            :meth:`routerretriever.routing.plans.Planner.nearest_groups`.
    """

    weights: NDArray[np.float32]
    chosen: NDArray[np.int64]
    scores: NDArray[np.float32]
    in_domain_scores: NDArray[np.float32]
    adapter_weights: NDArray[np.float32]
    groups: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RoutingPolicy:
    """Turns scores into a choice for every query.

    Attributes:
        router: scores the candidates.
        margin: an expert is chosen only if its predicted gain exceeds this (nDCG@10, 0 to 1).
        mix: number of candidates whose deltas are averaged; 1 is a hard choice.
        mix_temperature: softmax temperature of the mixing weights, in nDCG@10.
        partial_weight: weight of the expert for a query whose in-domain score is between the reject and the
            trust threshold.
        fallback_weight: weight of the merged expert for a query below the reject threshold.
        abstain: use the two thresholds; otherwise every query counts as in domain.

    Raises:
        LibraryError: a value is out of its range.
    """

    router: Router
    margin: float = 0.0
    mix: int = 1
    mix_temperature: float = 0.05
    partial_weight: float = PARTIAL_WEIGHT
    fallback_weight: float = FALLBACK_WEIGHT
    abstain: bool = True

    def __post_init__(self) -> None:
        for name in ("margin", "fallback_weight"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise LibraryError(f"{name} must be from 0 to 1, not {getattr(self, name)}.")
        if (
            not 0.0 < self.partial_weight <= 1.0
        ):  # 0 would mean abstaining; that is the reject threshold's job
            raise LibraryError(f"partial_weight must be above 0 and at most 1, not {self.partial_weight}.")
        if not isinstance(self.mix, int) or self.mix < 1:
            raise LibraryError(f"mix must be a whole number of candidates, at least 1, not {self.mix}.")
        if not 0.0 < self.mix_temperature < np.inf:
            raise LibraryError(f"mix_temperature must be above 0, not {self.mix_temperature}.")
        if not isinstance(self.abstain, bool):
            raise LibraryError(f"abstain must be true or false, not {self.abstain!r}.")

    def settings(self) -> dict[str, Any]:
        """Return what :meth:`from_settings` needs, as plain data, with the keys of saved models."""
        own = {}
        for field in fields(self):
            if field.name != "router":
                saved = _SAVED_NAMES.get(field.name, field.name)
                own[saved] = getattr(self, field.name)
        return {"router": self.router.name, "router_settings": self.router.settings(), **own}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], library: PilotLibrary) -> Self:
        """Return the policy that :meth:`settings` describes, over a library.

        Raises:
            LibraryError: there is no such router, or a setting is unknown or out of its range.
        """
        own = dict(settings)
        try:
            router = make_router(own.pop("router"), library, **own.pop("router_settings"))
            for name, saved in _SAVED_NAMES.items():
                if saved in own:
                    own[name] = own.pop(saved)
            return cls(router, **own)
        except (TypeError, KeyError) as error:
            raise LibraryError(
                f"The saved routing policy has other settings than this version knows ({error}). "
                "Upgrade routerretriever, or build the library again: routerretriever library MODEL COLLECTION…"
            ) from error

    def with_settings(self, changes: Mapping[str, Any]) -> Self:
        """Return the policy with other settings.

        Raises:
            LibraryError: a value is out of its range, or the router ignores the setting.
        """
        ignored = [name for name in changes if name in _NEED_BASE and not self.router.knows_base]
        if ignored:
            raise LibraryError(
                f"The router '{self.router.name}' ignores {', '.join(ignored)}, because it always chooses an expert. "
                "Build the library with: routerretriever library MODEL COLLECTION… --router gain"
            )
        return replace(self, **changes)

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
        """Column for out-of-domain queries: merged, or base while there are few experts."""
        return 1 if len(self.library.experts) >= MIN_EXPERTS_TO_MERGE else 0

    def __call__(self, route_embeddings: Vectors) -> NDArray[np.float32]:
        """Return weights (n, 2 + E), each row summing to 1."""
        return self.decide(route_embeddings).weights

    def decide(self, route_embeddings: Vectors) -> Decision:
        """Score the candidates, choose one for each query, and abstain out of domain."""
        return self.decide_by(self.router.similarities(route_embeddings))

    def decide_by(self, similarities: Similarities) -> Decision:
        """Decide as :meth:`decide` does, from similarities to the pilots."""
        scores = self.router.all_scores(similarities)
        in_domain = in_domain_score(similarities, self.router.density)

        adapter_weights = self._adapter_weights(in_domain)
        led = adapter_weights > 0
        chosen = np.where(led, self._best(scores), self.fallback)
        applied = np.where(led, adapter_weights, np.float32(self.fallback_weight))

        weights = np.zeros_like(scores)
        weights[np.arange(len(scores)), chosen] = applied
        if self.mix > 1:
            weights[led] = applied[led, None] * self._mixed(scores)[led]
        weights[:, 0] += 1.0 - applied
        return Decision(
            weights=weights,
            chosen=chosen,
            scores=scores,
            in_domain_scores=in_domain,
            adapter_weights=adapter_weights,
            groups=self.router.planner.nearest_groups(*self.router.neighbourhood(similarities)),
        )

    def plans(self, decision: Decision, columns: NDArray[np.int64] | None = None) -> tuple[SearchPlan, ...]:
        """Return how an index is searched with each query.

        Args:
            decision: of the queries (n).
            columns: the candidates that encode them (n,), where some are pinned; default those chosen.
        """
        if columns is None:
            columns = decision.chosen
        in_domain = decision.in_domain_scores >= self.router.space.reject_threshold
        return self.router.planner.plans(decision.groups, columns, in_domain | (not self.abstain))

    def _adapter_weights(self, in_domain: NDArray[np.float32]) -> NDArray[np.float32]:
        if not (self.abstain and self.router.knows_base):
            return np.ones_like(in_domain)
        space = self.router.space
        rejected = in_domain < space.reject_threshold
        below_trust = np.where(rejected, np.float32(0.0), np.float32(self.partial_weight))
        return np.where(in_domain < space.trust_threshold, below_trust, np.float32(1.0))

    def _best(self, scores: NDArray[np.float32]) -> NDArray[np.int64]:
        best: NDArray[np.int64] = scores.argmax(axis=1)
        if self.router.knows_base:
            best[~(scores.max(axis=1) > self.margin)] = 0
        return best

    def _mixed(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        top = largest(scores, min(self.mix, scores.shape[1]))
        logits = np.full_like(scores, -np.inf)
        np.put_along_axis(logits, top.indices, top.values, axis=1)
        logits[~np.isfinite(logits).any(axis=1), 0] = 0.0  # no expert has a pilot: the base
        return softmax(logits / self.mix_temperature)
