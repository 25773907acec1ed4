"""Where a query goes, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


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
