"""The weights that routing gives to experts, for queries that the library does not hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from routerretriever.experts.harm_queries import HarmQueries
from routerretriever.routing.folds import contiguous_folds
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy

_FOLDS = 5


def cross_validated_weights(
    policy: RoutingPolicy,
    library: PilotLibrary,
    cases: Sequence[HarmQueries],
    columns: Sequence[int],
    n_experts: int,
) -> list[Tensor]:
    """Return the weight of every expert's delta (n, E) for each case's queries.

    A query is routed by the pilots that are not made of its fold. What goes to the merged expert
    counts for the experts that it is the mean of.

    Args:
        policy: the rule; its library does not count.
        library: to route by.
        cases: the queries.
        columns: the place of each of the library's experts among those of the model.
        n_experts: of the model.
    """
    found = [torch.zeros(len(case), n_experts) for case in cases]
    places = torch.tensor(columns)
    for left_out, kept in folds(library, cases):
        fold = replace(policy, router=policy.router.over(library.only(kept)))
        for case, rows, weights in zip(cases, left_out, found, strict=True):
            if not len(rows):
                continue
            decided = torch.from_numpy(fold.decide(case.embeddings(rows)).weights)
            own = decided[:, 2:] + decided[:, 1:2] / len(columns)
            weights[rows] = torch.zeros(len(rows), n_experts).index_copy_(1, places, own)
    return found


def folds(
    library: PilotLibrary, cases: Sequence[HarmQueries]
) -> Iterator[tuple[list[NDArray[np.int64]], NDArray[np.bool_]]]:
    """Yield the rows of every case that are routed together, and the pilots that may route them."""
    starts = np.cumsum([0, *map(len, cases)])
    groups = np.repeat(np.arange(len(cases)), list(map(len, cases)))
    single = library.counts == 1
    keys = [key for case in cases for key in case.collection.division_keys(case.split)]
    for chosen in contiguous_folds(groups, _FOLDS, copies=keys):
        rows = [np.flatnonzero(chosen[start:end]) for start, end in pairwise(starts.tolist())]
        asked = {
            (case.collection.name, case.measured.queries[row])
            for case, own in zip(cases, rows, strict=True)
            for row in own
        }
        pilots = zip(library.sources, library.examples, strict=True)
        of_fold = np.array([pilot in asked for pilot in pilots], bool)
        yield rows, ~(of_fold & single)
