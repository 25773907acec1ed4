"""Experts added, removed and doubled."""

from __future__ import annotations

from routerretriever.bench.prepared import make_known
from routerretriever.bench.runner import Bench
from routerretriever.bench.studies.study import Point, StudyResult, mean_figures
from routerretriever.bench.study_settings import ExpertsSettings, OnSomeCollections, StudySettings


def experts_study(bench: Bench, seed: int, settings: ExpertsSettings) -> StudyResult:
    """Add experts one at a time: what routing gains on collections with and without an expert."""
    model, everyone = bench.model(seed), bench.suite.experts
    points = []
    for count in settings.counts or range(1, len(everyone) + 1):
        names = everyone[:count]
        prepared = bench.prepare_with(model, seed, names)
        without = [name for name in prepared.test if name not in names]
        groups = {"with an expert": names, "without one": without}
        figures = mean_figures(make_known(prepared, names), prepared.test, groups)
        points.append(Point(str(count), figures))
    return StudyResult(
        name="experts",
        title="Experts added one at a time",
        axis="number of experts",
        points=tuple(points),
    )


def leave_one_out_study(bench: Bench, seed: int, settings: StudySettings) -> StudyResult:
    """Remove each expert in turn: its collection becomes unseen, the others must not notice."""
    model, everyone = bench.model(seed), bench.suite.experts
    points = []
    for missing in everyone:
        names = tuple(name for name in everyone if name != missing)
        prepared = bench.prepare_with(model, seed, names)
        groups = {"the removed one": [missing], "the others": names}
        figures = mean_figures(make_known(prepared, names), prepared.test, groups)
        points.append(Point(missing, figures))
    return StudyResult(
        name="leave-one-out",
        title="One expert removed",
        axis="removed expert",
        points=tuple(points),
    )


def second_expert_study(bench: Bench, seed: int, settings: OnSomeCollections) -> StudyResult:
    """Add a second expert of a domain, trained with another seed: is the router confused?"""
    own, names, seeds = bench.prepare(seed), bench.suite.experts, bench.suite.seeds
    following = seeds.index(seed) + 1
    other = seeds[following % len(seeds)]
    figures = mean_figures(make_known(own, names), own.test, {"seen": names})
    points = [Point("none", figures)]

    doubled = settings.collections or names
    # With a single seed there is no second expert to add.
    for name in doubled if other != seed else ():
        twins = bench.model(other).state.experts
        twin = f"{name}-2"
        model = bench.with_adapters(bench.model(seed), {twin: twins[name]})
        prepared = bench.prepare_with(model, seed, (*names, twin))
        known = make_known(prepared, (*names, twin))
        points.append(Point(name, mean_figures(known, prepared.test, {"seen": names})))
    return StudyResult(
        name="second-expert",
        title="A second expert of one domain",
        axis="doubled expert",
        points=tuple(points),
    )
