"""What whoever asks may do: read, write, and within which experts and documents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from routerretriever.index.filters import Condition
from routerretriever.routing.scope import RoutingScope


class Right(StrEnum):
    """What an endpoint asks of a key."""

    READ = "read"
    FEEDBACK = "feedback"
    DOCUMENTS = "documents"
    EXPERTS = "experts"
    FIGURES = "figures"
    """Figures of all keys together: metrics, and what a shadow would have changed."""


READER = frozenset({Right.READ, Right.FEEDBACK, Right.FIGURES})
ADMIN = frozenset(Right)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Access:
    """What one key may do.

    Attributes:
        rights: what it may do at all.
        name: of the key; empty for one of a plain list of keys, or for none.
        scope: experts and collections that exist for it; ``None`` for all.
        filter: condition that documents must satisfy to exist for it.
    """

    rights: frozenset[Right]
    name: str = ""
    scope: RoutingScope | None = None
    filter: Condition | None = None

    @property
    def sees_all_documents(self) -> bool:
        """Whether all documents exist for it."""
        return self.filter is None and (self.scope is None or self.scope.collections is None)

    @property
    def sees_pilots(self) -> bool:
        """Whether queries behind pilots are shown: they may quote documents that a filter hides."""
        return self.filter is None

    def sees_collection(self, name: str) -> bool:
        """Return whether a collection exists for it."""
        scope = self.scope
        return scope is None or scope.collections is None or name in scope.collections

    def seen_collections(self, names: Iterable[str]) -> list[str]:
        """Return those collections that exist for it, in their order."""
        return [name for name in names if self.sees_collection(name)]

    def sees_expert(self, name: str) -> bool:
        """Return whether an expert exists for it."""
        return self.scope is None or self.scope.allows(name)

    def where(self, asked: Condition | None = None) -> Condition | None:
        """Return the condition on documents of a search: what was asked, within what exists."""
        parts: list[Any] = []
        if self.scope is not None and self.scope.collections is not None:
            names = sorted(self.scope.collections)
            parts.append({"collection": {"in": names}} if names else _NOTHING)
        parts += [part for part in (self.filter, asked) if part is not None]
        if len(parts) > 1:
            return {"and": parts}
        return parts[0] if parts else None


_NOTHING = {"and": [{"id": {"exists": True}}, {"id": {"exists": False}}]}
"""A condition that no document satisfies."""

OPEN = Access(rights=READER)
"""Of a server that asks for no key."""
EVERYTHING = Access(rights=ADMIN)
