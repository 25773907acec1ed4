"""What is known of an expert and of a base besides their weights."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from routerretriever.errors import ExpertError

RESERVED_NAMES = ("base", "merged", "routed")


@dataclass(frozen=True, slots=True)
class ExpertInfo:
    """What is known of an expert besides its weights.

    Attributes:
        collection: what it was trained on; empty for an imported one.
        queries: number of training queries.
        held_out: number of queries the gain was measured on.
        base_ndcg, expert_ndcg: mean nDCG@10 on those.
        config: how it was trained.
        generated: way → training queries that were made in this way instead of asked by somebody.
        data_licence: of what it was trained on, as hubs abbreviate it; empty where nobody stated it.
        source: the collections whose documents those queries were made from, where that is known.
        held_out_generated: so many of the held-out queries were made, too; ``None`` where that was not recorded.
    """

    collection: str = ""
    queries: int = 0
    held_out: int = 0
    base_ndcg: float = 0.0
    expert_ndcg: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    generated: dict[str, int] = field(default_factory=dict)
    data_licence: str = ""
    source: str = ""
    held_out_generated: int | None = None

    @property
    def trained_on(self) -> str:
        """What it was trained on, for people."""
        made = f" (queries generated from {self.source})" if self.source else " (generated queries)"
        return f"{self.collection or 'imported'}{made if self.generated else ''}"

    @property
    def gain_on_generated(self) -> bool:
        """Whether its gain was measured on generated queries, or on such among others."""
        return bool(self.generated) if self.held_out_generated is None else self.held_out_generated > 0

    @property
    def gain(self) -> float:
        """Held-out nDCG@10 over the base."""
        return self.expert_ndcg - self.base_ndcg


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """The base's public name, where a local path never stands, and the licence that its own card states."""

    id: str
    revision: str | None = None
    licence: str | None = None


def check_expert_name(name: str) -> str:
    """A name that can be a folder and is not one of the fixed candidates.

    Raises:
        ExpertError: it cannot be used.
    """
    if name in RESERVED_NAMES or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ExpertError(
            f"'{name}' cannot be an expert's name. Use letters, digits, '.', '_' and '-', and none of: "
            f"{', '.join(RESERVED_NAMES)}."
        )
    return name
