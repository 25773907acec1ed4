"""Compare routed queries with an expert and without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from routerretriever.data.collection import Collection
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.errors import ExpertError, LibraryError
from routerretriever.evaluation.statistics import paired_p_value
from routerretriever.experts.cross_validated_weights import cross_validated_weights
from routerretriever.experts.harm_queries import HarmQueries
from routerretriever.experts.harm_report import Effect, HarmReport
from routerretriever.progress import Progress, Silent
from routerretriever.routing.form_pilots import extend_library, without_stale
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy

MARGIN = 0.005
"""Mean nDCG@10 that a collection may lose. In the project's own studies, splitting nine experts into
twenty cost no collection more than 0.003: half a point is beyond what good additions cost."""


def check_expert(
    model: RoutedModel,
    name: str,
    collections: Sequence[Collection],
    *,
    margin: float = MARGIN,
    partial: bool = False,
    progress: Progress | None = None,
) -> HarmReport:
    """Compare routed queries with an expert and without it, on the held-out queries of every collection.

    The queries are those that the library is made of, never a test split. A query is routed by a
    library that does not hold it: a fifth of the pilots, in blocks, is left out at a time. (The
    paper's rules have centroids of many queries as pilots; those stay.) The vectors compared are the
    ones that routing would give, with partial adapter weights and the merged expert.

    Args:
        model: holds the expert; it is not changed.
        name: of the expert.
        collections: the data of all collections in the library. Others count as coming with the
            expert: without it their pilots are missing, and they cannot be harmed.
        margin: see :attr:`HarmReport.harmed`.
        partial: go on where collections of the library are missing.
        progress: where to report.

    Raises:
        ExpertError: there is no such expert, or it is the only one.
        LibraryError: there is no library, collections of it are missing, or one is not what was
            measured.
    """
    progress, state = progress or Silent(), model.state
    column, policy, experts = state.column(name) - 2, state.required_policy(), tuple(state.experts)
    if column < 0 or len(experts) < 2:
        raise ExpertError(f"'{name}' is not one of several experts, so there is nothing to compare it with.")
    library = without_stale(policy.library, state.versions).with_experts(experts)
    given = {collection.name: collection for collection in collections}
    unchecked = _missing(library, given, name, partial)

    cases = [HarmQueries.prepare(model, collection, library, progress) for collection in given.values()]
    before, after = _libraries(policy, library, cases, column)
    others = [place for place in range(len(experts)) if place != column]
    weights_before = cross_validated_weights(policy, before, cases, others, len(experts))
    weights_after = cross_validated_weights(policy, after, cases, range(len(experts)), len(experts))

    effects = []
    with progress.task(f"route with and without {name}", len(cases)) as task:
        for case, old, new in zip(cases, weights_before, weights_after, strict=True):
            effects.append(_effect(model, case, old, new, column=column, library=library))
            task.advance(1, case.collection.name)
    return HarmReport(
        expert=name,
        margin=margin,
        effects=tuple(effects),
        unchecked=unchecked,
        library=replace(after, versions=state.versions),
    )


def _missing(
    library: PilotLibrary, given: Mapping[str, Collection], name: str, partial: bool
) -> tuple[str, ...]:
    """Return the collections of the library whose data was not given."""
    missing = tuple(collection for collection in library.collections() if collection not in given)
    if missing and not (partial and given):
        raise LibraryError(
            f"Whether '{name}' harms cannot be measured without the data of the library's collections "
            f"{', '.join(missing)}. Name them (--collection), or pass force=True (--force) to do without."
        )
    return missing


def _libraries(
    policy: RoutingPolicy, library: PilotLibrary, cases: Sequence[HarmQueries], column: int
) -> tuple[PilotLibrary, PilotLibrary]:
    """Return the library to route by without the expert in a column, and the one with it."""
    partition = "cluster" if policy.router.knows_base else "best-expert"
    others = tuple(name for place, name in enumerate(library.experts) if place != column)
    after = extend_library(library, [case.measured for case in cases], partition=partition)

    in_library = [case for case in cases if case.collection.name in library.collections()]
    if len(in_library) == len(cases) and policy.router.knows_base:
        return after.with_experts(others), after  # the same pilots, so that nothing is prepared twice
    measured = [case.measured.without_expert(column) for case in in_library]
    return extend_library(library.with_experts(others), measured, partition=partition), after


def _effect(
    model: RoutedModel,
    case: HarmQueries,
    weights_before: Tensor,
    weights_after: Tensor,
    *,
    column: int,
    library: PilotLibrary,
) -> Effect:
    before, after = case.scores(model, weights_before), case.scores(model, weights_after)
    leads = 2 * weights_after[:, column] > weights_after.sum(dim=1)
    return Effect(
        collection=case.collection.name,
        in_library=case.collection.name in library.collections(),
        queries=len(case),
        base=float(case.base_scores(model).mean()),
        before=float(before.mean()),
        after=float(after.mean()),
        routed_to_it=float(leads.float().mean()),
        p_value=paired_p_value(after, before),
    )
