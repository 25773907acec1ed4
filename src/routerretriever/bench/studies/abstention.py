"""Thresholds of partial abstention, on held-out queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from routerretriever.bench.runner import Bench
from routerretriever.bench.studies.study import Point, StudyResult
from routerretriever.bench.studies.unseen_queries import IN_DOMAIN, OUT_OF_DOMAIN, unseen_queries
from routerretriever.bench.study_settings import CautionSettings

Gains = dict[str, list[NDArray[np.float64]]]
"""Collection → gains over base of its queries, part by part."""


def caution_study(bench: Bench, seed: int, settings: CautionSettings) -> StudyResult:
    """Compare thresholds, set by fractions of in-domain queries; see :mod:`.unseen_queries`."""
    gains: dict[tuple[float, float], dict[str, Gains]] = {}
    for fractions in settings.settings:
        gains[fractions] = {IN_DOMAIN: {}, OUT_OF_DOMAIN: {}}
    for unseen in unseen_queries(bench, seed):
        for fractions, situations in gains.items():
            collected = situations[unseen.situation].setdefault(unseen.queries.name, [])
            collected.append(unseen.gains(fractions))

    points = []
    for (reject, trust), situations in gains.items():
        means = {situation: _means(own) for situation, own in situations.items()}
        figures = {}
        for situation, own in means.items():
            figures[f"{situation}, over base"] = float(np.mean(own))
        figures["out of domain, worst collection"] = min(means[OUT_OF_DOMAIN])
        points.append(Point(f"{reject:g} / {trust:g}", figures))
    return StudyResult(
        name="caution",
        title="Partial abstention, on held-out queries",
        axis="fraction below the reject / trust threshold at most",
        points=tuple(points),
    )


def _means(gains: Mapping[str, Sequence[NDArray[np.float64]]]) -> list[float]:
    """Return the mean gain of each collection."""
    return [float(np.concatenate(parts).mean()) for parts in gains.values()]
