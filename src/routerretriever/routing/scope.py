"""Route among some of the experts: as if the model had no others, and no pilots of other collections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy

_BASE_COLUMN = 0


@dataclass(frozen=True, slots=True)
class RoutingScope:
    """What a query may be routed among, and by which pilots.

    Attributes:
        experts: their names; ``None`` for all, also those that come later. The base is always allowed, the
            merged expert only with all, because it is the mean of all.
        collections: whose pilots are read; ``None`` for all. Pilots of feedback come from the queries of
            everybody, so they are read only with all.
    """

    experts: frozenset[str] | None = None
    collections: frozenset[str] | None = None

    def allows(self, expert: str) -> bool:
        """Return whether an expert may be used."""
        return self.experts is None or expert in self.experts

    def allowed(self, experts: Sequence[str]) -> tuple[str, ...]:
        """Return those experts that may be used, in their order."""
        return tuple(name for name in experts if self.allows(name))


@dataclass(frozen=True, slots=True, eq=False)
class SubsetPolicy(RoutingPolicy):
    """The same rule among some of the experts; out of domain it falls back to the base."""

    @property
    def fallback(self) -> int:
        """Column of the base: the merged expert is made of other experts, too."""
        return _BASE_COLUMN


def scoped_policy(policy: RoutingPolicy, scope: RoutingScope) -> RoutingPolicy | None:
    """Return a policy that knows nothing beyond a scope; ``None`` if no pilot or no expert is within it.

    Thresholds and the space of the pilots stay those that were fitted to all pilots.
    """
    library = policy.library
    experts = scope.allowed(library.experts)
    if not experts:
        return None
    if scope.collections is not None:
        kept = np.array([source in scope.collections for source in library.sources], bool)
        if not kept.any():
            return None
        library = library.only(kept)
    if scope.experts is None:
        return policy.over(library)
    return _subset(policy, library.with_experts(experts))


def _subset(policy: RoutingPolicy, library: PilotLibrary) -> SubsetPolicy:
    settings = {field.name: getattr(policy, field.name) for field in fields(policy)}
    return SubsetPolicy(**settings | {"router": policy.router.over(library)})
