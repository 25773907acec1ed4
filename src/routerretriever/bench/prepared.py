"""All queries of one seed, and what routers are fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from routerretriever.bench.query_set import QuerySet
from routerretriever.bench.systems import MULTI_TASK, Known
from routerretriever.kernels.vectors import Vectors


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prepared:
    """Each query of one seed with each candidate.

    Attributes:
        held_out, test: collection → its queries.
        train_sample: collection → route embeddings of some of its training queries.
    """

    held_out: Mapping[str, QuerySet]
    test: Mapping[str, QuerySet]
    train_sample: Mapping[str, Vectors]


def make_known(prepared: Prepared, experts: Sequence[str], **limits: int) -> Known:
    """Return what routers are fitted on; test queries are out of reach.

    Args:
        prepared: queries of one seed.
        experts: those to route among.
        limits: ``pilots`` and ``training_pilots``.
    """
    names = tuple(experts)
    held_out = list(prepared.held_out.values())
    measurements, generalist = [], []
    for queries in held_out:
        measurements.append(queries.measurement(names))
        if MULTI_TASK in queries.candidates:
            generalist.append(queries.measurement((*names, MULTI_TASK)))
    if len(generalist) < len(held_out):
        generalist = []
    return Known(
        experts=names,
        measurements=tuple(measurements),
        generalist=tuple(generalist),
        train_sample=prepared.train_sample,
        **limits,
    )
