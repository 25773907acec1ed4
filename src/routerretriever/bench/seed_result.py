"""What the systems of one seed did, and how the default router chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from routerretriever.bench.prepared import Prepared
from routerretriever.bench.query_set import Candidate
from routerretriever.bench.systems import Known, Routed


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SeedResult:
    """What the systems of one seed did.

    Attributes:
        outcomes: system → collection → ranking and values.
        chosen: collection → candidate of the default router → number of queries.
        predicted, measured: predicted and measured gain of every query sent to an expert.
        in_domain_scores: collection → in-domain score of each of its test queries.
    """

    outcomes: Mapping[str, Mapping[str, Candidate]]
    chosen: Mapping[str, Mapping[str, int]]
    predicted: np.ndarray[tuple[int], np.dtype[np.float64]]
    measured: np.ndarray[tuple[int], np.dtype[np.float64]]
    in_domain_scores: Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]]


def routing_facts(known: Known, prepared: Prepared) -> dict[str, Any]:
    """Return what the default router chose, and how its predictions compare with measured gains."""
    router = Routed()
    router.fit(known)
    names = router.policy.candidates
    chosen: dict[str, dict[str, int]] = {}
    in_domain_scores, predicted, measured = {}, [], []
    for name, queries in prepared.test.items():
        decision = router.decision(queries.queries)
        columns = decision.chosen
        counts = np.bincount(columns, minlength=len(names))
        chosen[name] = {}
        for column in np.argsort(-counts):
            if counts[column]:
                chosen[name][names[column]] = int(counts[column])
        in_domain_scores[name] = decision.in_domain_scores.astype(float)
        rows = np.flatnonzero((columns >= 2) & (decision.adapter_weights >= 1))
        gains = queries.measurement(known.experts).gains
        predicted.append(decision.scores[rows, columns[rows]])
        measured.append(gains[rows, columns[rows] - 2])
    return {
        "chosen": chosen,
        "in_domain_scores": in_domain_scores,
        "predicted": np.concatenate(predicted).astype(float),
        "measured": np.concatenate(measured).astype(float),
    }
