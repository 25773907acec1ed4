"""What an expert's presence changes for routed queries, collection by collection."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from routerretriever.routing.pilot_library import PilotLibrary


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What an expert's presence changes on the held-out queries of one collection.

    Attributes:
        collection: its name.
        in_library: whether it is in the library; the others come with the expert.
        queries: number of queries.
        base: mean nDCG@10 of the base.
        before, after: mean nDCG@10 of routed queries without the expert and with it.
        routed_to_it: part of the queries that the router gives to the expert, 0 to 1.
        p_value: two-sided paired randomisation test of the change.
    """

    collection: str
    in_library: bool
    queries: int
    base: float
    before: float
    after: float
    routed_to_it: float
    p_value: float

    @property
    def change(self) -> float:
        """Mean nDCG@10 gained, negative where the expert harms."""
        return self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmReport:
    """The effects of an expert on every collection.

    Attributes:
        expert: its name.
        margin: mean nDCG@10 that a collection may lose.
        effects: one for each collection.
        unchecked: collections of the library whose data was not given.
        library: with the gains that were measured for this.
    """

    expert: str
    margin: float
    effects: tuple[Effect, ...]
    unchecked: tuple[str, ...]
    library: PilotLibrary = field(repr=False, compare=False)

    @property
    def harmed(self) -> tuple[Effect, ...]:
        """The collections of the library that lose more than the margin, worst first."""
        lost = [effect for effect in self.effects if effect.in_library and -effect.change > self.margin]
        return tuple(sorted(lost, key=lambda effect: effect.change))

    @property
    def refusal(self) -> str:
        """Why the expert is not added."""
        losses = ", ".join(map(_loss, self.harmed))
        return (
            f"With '{self.expert}' in the model, routed queries lose over {100 * self.margin:g} nDCG@10 "
            f"points: {losses}. It was not added. Allow more (--margin), or add it all the same with "
            "force=True (--force)."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "expert": self.expert,
            "margin": self.margin,
            "effects": [asdict(effect) | {"change": effect.change} for effect in self.effects],
            "harmed": [effect.collection for effect in self.harmed],
            "unchecked": list(self.unchecked),
        }


def _loss(effect: Effect) -> str:
    return (
        f"{effect.collection} {100 * effect.change:+.1f} ({100 * effect.before:.1f} → "
        f"{100 * effect.after:.1f} on {effect.queries} queries)"
    )
