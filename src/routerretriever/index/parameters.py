"""How hard an index is searched, and how both sides are fused."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

from routerretriever.errors import VectorIndexError


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number, of Python or numpy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_share(value: object) -> bool:
    """Return whether a value is a number within 0..1."""
    return isinstance(value, Real) and 0.0 <= float(value) <= 1.0


@dataclass(frozen=True, slots=True)
class SearchParameters:
    """How hard an approximate index is searched, and how both sides are fused.

    Attributes:
        nprobes: partitions searched for every query; more find more and take longer. Where
            there is a filter, all are searched.
        refine: candidates re-scored with their full vectors for every wanted result; 0 keeps
            the index's scores (mode ``vector``).
        ef: nodes kept while searching a graph (``hnsw`` only), at least as many as are
            re-scored; ``None`` leaves it to Lance.
        vector_weight: weight of the vectors in mode ``hybrid``, 0..1; ``None`` takes the weight
            that the model's routing gives to each query.
    """

    nprobes: int = 40
    refine: int = 10
    ef: int | None = None
    vector_weight: float | None = None

    def __post_init__(self) -> None:
        least = {"nprobes": (self.nprobes, 1), "refine": (self.refine, 0)}
        if self.ef is not None:
            least["ef"] = (self.ef, 1)
        for name, (value, smallest) in least.items():
            if not is_whole(value) or value < smallest:
                raise VectorIndexError(
                    f"{name} must be at least {smallest}, and a whole number, but is {value!r}."
                )
        if self.vector_weight is not None and not is_share(self.vector_weight):
            raise VectorIndexError(f"vector_weight must be within 0..1, but is {self.vector_weight!r}.")
