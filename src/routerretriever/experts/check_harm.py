"""What a new expert changes for routed queries of every collection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.query_batch import EncodedQueries
from routerretriever.errors import ExpertError, LibraryError
from routerretriever.evaluation.gains import measure_gains
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.evaluation.statistics import paired_p_value
from routerretriever.kernels.exact_search import Vectors
from routerretriever.progress import Progress, Silent
from routerretriever.routing.folds import contiguous_folds
from routerretriever.routing.form_pilots import Measurement, extend_library, without_stale
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever


MARGIN = 0.005
"""Mean nDCG@10 that a collection may lose. In the project's own studies, splitting nine experts into twenty cost no
collection more than 0.003: half a point is beyond what good additions cost."""
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Effect:
    """What an expert's presence changes on the held-out queries of one collection.

    Attributes:
        collection: its name.
        known: it stands in the library already; the others come with the expert.
        queries: how many were asked.
        base: mean nDCG@10 of the base.
        before, after: mean nDCG@10 of routed queries without the expert and with it.
        share: of the queries that the router gives to it.
        p_value: two-sided paired randomisation test of the change.
    """

    collection: str
    known: bool
    queries: int
    base: float
    before: float
    after: float
    share: float
    p_value: float

    @property
    def change(self) -> float:
        """Mean nDCG@10 gained, negative where the expert harms."""
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class HarmReport:
    """The effects of an expert on every collection.

    Attributes:
        expert: its name.
        margin: what a collection may lose (nDCG@10).
        effects: one a collection.
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
        """The known collections that lose more than the margin, worst first."""
        lost = [effect for effect in self.effects if effect.known and -effect.change > self.margin]
        return tuple(sorted(lost, key=lambda effect: effect.change))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "expert": self.expert,
            "margin": self.margin,
            "effects": [asdict(effect) | {"change": effect.change} for effect in self.effects],
            "harmed": [effect.collection for effect in self.harmed],
            "unchecked": list(self.unchecked),
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    """A collection's held-out queries, ready to be routed in different ways."""

    collection: Collection
    split: Split
    documents: Vectors
    queries: EncodedQueries
    measured: Measurement


def check_expert(
    model: RouterRetriever,
    name: str,
    collections: Sequence[Collection],
    *,
    margin: float = MARGIN,
    partial: bool = False,
    progress: Progress | None = None,
) -> HarmReport:
    """Compare routed queries with an expert and without it, on the held-out queries of every collection.

    The queries are those that the library is made of, never a test split. A query is routed by a library that does
    not hold it: a fifth of the pilots, in blocks, is left out at a time. (The paper's rules have centroids
    of many queries as pilots; those stay.) The vectors compared are the ones that routing would give, held back and
    merged shares included.

    Args:
        model: holds the expert; it is not changed.
        name: of the expert.
        collections: the data of all collections in the library. Others count as coming with the expert: without it
            their pilots are not there, and they cannot be harmed.
        margin: see :attr:`HarmReport.harmed`.
        partial: go on where collections of the library are missing.
        progress: where to report.

    Raises:
        ExpertError: there is no such expert, or it is the only one.
        LibraryError: there is no library, collections of it are missing, or one is not what was measured.
    """
    progress, column = progress or Silent(), model.state.column(name) - 2
    policy, others = model.state.required_policy(), tuple(other for other in model.experts if other != name)
    if column < 0 or not others:
        raise ExpertError(f"'{name}' is not one of several experts, so there is nothing to compare it with.")
    library = without_stale(policy.library, model.state.versions).with_experts(tuple(model.experts))
    given = {collection.name: collection for collection in collections}
    missing = tuple(known for known in library.collections() if known not in given)
    if missing and not (partial and given):
        raise LibraryError(
            f"Whether '{name}' harms cannot be measured without the data of the library's collections "
            f"{', '.join(missing)}. Name them (--collection), or pass force=True (--force) to do without."
        )
    cases = [_case(model, collection, library, progress) for collection in given.values()]
    partition = "cluster" if policy.router.knows_base else "best-expert"
    after = extend_library(library, [case.measured for case in cases], partition=partition)
    known = [case for case in cases if case.collection.name in library.collections()]
    if len(known) == len(cases) and policy.router.knows_base:
        before = after.with_experts(others)  # the same pilots, so that nothing is prepared twice
    else:
        measured = [_without(case.measured, column) for case in known]
        before = extend_library(library.with_experts(others), measured, partition=partition)
    places = [place for place in range(len(model.experts)) if place != column]
    shares_before = _shares(policy, before, cases, places)
    shares_after = _shares(policy, after, cases, [*range(len(model.experts))])
    effects = []
    with progress.task(f"route with and without {name}", 2 * len(cases)) as task:
        for case, old, new in zip(cases, shares_before, shares_after, strict=True):
            scores = []
            for shares in (old, new):
                scores.append(_routed(model, case, shares))
                task.advance(1, case.collection.name)
            leads = 2 * new[:, column] > new.sum(dim=1)
            effects.append(_effect(model, case, scores, case in known, leads))
    return HarmReport(name, margin, tuple(effects), missing, replace(after, versions=model.state.versions))


def _case(model: RouterRetriever, collection: Collection, library: PilotLibrary, progress: Progress) -> _Case:
    split = collection.train_and_held_out()[1]
    texts = list(split.queries.values())
    pilots = zip(library.sources, library.examples, library.measured, strict=True)
    if strange := {text for source, text, counts in pilots if source == collection.name and counts} - set(texts):
        raise LibraryError(
            f"The library's pilots of '{collection.name}' are not this collection's held-out queries: {len(strange)} "
            f"of them are not there, such as '{min(strange)[:80]}'. Give the data it was measured on, or measure it "
            "again: routerretriever library MODEL COLLECTION…"
        )
    queries = EncodedQueries.of(model.encoder, texts, model.query_prompt)
    measured = measure_gains(model, collection, queries=queries, progress=progress)
    return _Case(collection, split, model.embed_collection(collection), queries, measured)


def _without(measured: Measurement, column: int) -> Measurement:
    return replace(measured, gains=np.delete(measured.gains, column, axis=1))


def _shares(
    policy: RoutingPolicy, library: PilotLibrary, cases: Sequence[_Case], places: Sequence[int]
) -> list[Tensor]:
    """Shares of every expert's update (n, E) for each case's queries, the merged expert's spread over its parts.

    ``places`` are the columns of the library's experts among all of the model's.
    """
    found = [torch.zeros(len(case.queries), max(places) + 1) for case in cases]
    width = 1 + max(places)
    for left_out, kept in _folds(library, cases):
        router = policy.router.over(library.only(kept))
        fold = replace(policy, router=router)
        for case, rows, shares in zip(cases, left_out, found, strict=True):
            if not len(rows):
                continue
            weights = fold.decide(torch.from_numpy(case.measured.embeddings[rows])).weights
            own = weights[:, 2:] + weights[:, 1:2] / len(places)
            shares[rows] = torch.zeros(len(rows), width).index_copy_(1, torch.tensor(places), own)
    return found


def _folds(
    library: PilotLibrary, cases: Sequence[_Case]
) -> Iterator[tuple[list[NDArray[np.int64]], NDArray[np.bool_]]]:
    """Rows of every case that are asked together, and the pilots that may answer them."""
    owner = np.repeat(np.arange(len(cases)), [len(case.queries) for case in cases])
    single = library.counts == 1
    for fold in contiguous_folds(owner, _FOLDS):
        rows = [np.flatnonzero(fold[owner == number]) for number in range(len(cases))]
        asked = {
            (case.collection.name, case.measured.queries[row])
            for case, chosen in zip(cases, rows, strict=True)
            for row in chosen
        }
        own = [pilot in asked for pilot in zip(library.sources, library.examples, strict=True)]
        yield rows, ~(np.array(own, bool) & single)


def _routed(model: RouterRetriever, case: _Case, shares: Tensor) -> NDArray[np.float64]:
    """nDCG@10 of every query under shares of the experts' updates (n, E or fewer)."""
    full = torch.zeros(len(shares), len(model.experts), device=model.device)
    full[:, : shares.shape[1]] = shares.to(model.device)
    vectors = case.queries.vectors_by(lambda rows: model.encoder.mixed_plan(full[rows]))
    return ndcg_at_10(vectors, case.split, case.documents, case.collection, model.similarity_fn_name)


def _effect(
    model: RouterRetriever, case: _Case, scores: Sequence[NDArray[np.float64]], known: bool, leads: Tensor
) -> Effect:
    base = case.queries.vectors(None)
    values = ndcg_at_10(base, case.split, case.documents, case.collection, model.similarity_fn_name)
    before, after = scores
    return Effect(
        case.collection.name,
        known,
        len(case.queries),
        float(values.mean()),
        float(before.mean()),
        float(after.mean()),
        float(leads.float().mean()),
        paired_p_value(after, before),
    )


def harm(report: HarmReport) -> str:
    """Return the message that says what the expert harms."""
    losses = ", ".join(
        f"{effect.collection} {100 * effect.change:+.1f} ({100 * effect.before:.1f} → {100 * effect.after:.1f} on "
        f"{effect.queries} queries)"
        for effect in report.harmed
    )
    return (
        f"With '{report.expert}' there, routed queries lose over {100 * report.margin:g} nDCG@10 points: {losses}. "
        "It was not added. Allow more (--margin), or add it all the same with force=True (--force)."
    )
