"""What a study yields, and the figures that most of them take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from routerretriever.bench.oracles import DatasetOracle
from routerretriever.bench.outcome import outcome
from routerretriever.bench.query_set import QuerySet
from routerretriever.bench.systems import Known, Routed
from routerretriever.routing.candidates import BASE


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of a study.

    Attributes:
        setting: what was varied, as the axis shows it.
        figures: label → mean nDCG@10.
    """

    setting: str
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StudyResult:
    """All points of one study, in order."""

    name: str
    title: str
    axis: str
    points: tuple[Point, ...]


def mean_figures(
    known: Known, test: Mapping[str, QuerySet], groups: Mapping[str, Iterable[str]]
) -> dict[str, float]:
    """Return the mean nDCG@10 of base, routed and DatasetOracle over groups of collections.

    Args:
        known: what the systems are fitted on.
        test: collection → test queries.
        groups: label → names of collections; those without test queries are left out.
    """
    systems = {"routed": Routed(), "DatasetOracle": DatasetOracle()}
    for system in systems.values():
        system.fit(known)
    figures = {}
    for label, names in groups.items():
        present = [test[name] for name in names if name in test]
        if not present:
            continue
        base = [queries.candidates[BASE].ndcg.mean() for queries in present]
        figures[f"base, {label}"] = float(np.mean(base))
        for title, system in systems.items():
            values = [outcome(system, queries).ndcg.mean() for queries in present]
            figures[f"{title}, {label}"] = float(np.mean(values))
    return figures
