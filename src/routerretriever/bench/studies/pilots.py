"""How many pilots each collection gets."""

from __future__ import annotations

from routerretriever.bench.prepared import make_known
from routerretriever.bench.runner import Bench
from routerretriever.bench.studies.study import Point, StudyResult, mean_figures
from routerretriever.bench.study_settings import PilotsSettings


def pilots_study(bench: Bench, seed: int, settings: PilotsSettings) -> StudyResult:
    """Vary the pilots of each collection, from one centroid to one for each held-out query."""
    prepared, names = bench.prepare(seed), bench.suite.experts
    groups = {"seen": names, "unseen": bench.suite.unseen}
    limits: dict[str, dict[str, int]] = {}
    for count in settings.counts:
        limits[str(count)] = {"pilots": count, "training_pilots": 0}
    limits["all, and training queries"] = {}

    points = []
    for label, limit in limits.items():
        figures = mean_figures(make_known(prepared, names, **limit), prepared.test, groups)
        points.append(Point(label, figures))
    return StudyResult(
        name="pilots",
        title="Pilots of each collection",
        axis="pilots a collection (at most)",
        points=tuple(points),
    )
