"""Vector indexes built and searched by the nodes of a Ray cluster, with lance-ray.

Each node has a part of the index.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lance
import lance_ray
import ray

from routerretriever.cluster.connection import connected, worker_count
from routerretriever.errors import VectorIndexError
from routerretriever.index.best_passages import first_of_each
from routerretriever.index.connection import dataset_uri
from routerretriever.index.encoder import Vectors
from routerretriever.index.filters import Condition, as_sql
from routerretriever.index.index import Index
from routerretriever.index.kinds import ENGINE_KINDS, engine_options, partitions
from routerretriever.index.lance_errors import reason_of
from routerretriever.index.lance_view import approximation, record_of
from routerretriever.index.maintenance import Builder
from routerretriever.index.parameters import SearchParameters
from routerretriever.index.schema import PLACE_COLUMNS, SHOWN_COLUMNS, holds_passages, metadata_columns
from routerretriever.index.search import Hit, hit_of
from routerretriever.index.table import IndexTable
from routerretriever.passages.grouping import WIDER

_KINDS = ("ivf_flat", "ivf_pq", "ivf_rq")  # that lance-ray builds
_NAME = "vector_idx"
_MOST_SAMPLED_ROWS = 256  # for each centre that is to be found, where there are this many
_PQ_CENTRES = 256


def build_index_on(address: str, *, workers: int | None = None) -> Builder:
    """Return a builder for :meth:`Index.build_index`: each worker builds one segment.

    Args:
        address: of the cluster, or ``local``.
        workers: default one for each processor.
    """

    def build(table: IndexTable, kind: str) -> None:
        if kind not in _KINDS:
            raise VectorIndexError(
                f"A cluster builds {', '.join(_KINDS)}, not '{kind}'. Leave out --cluster to build it here."
            )
        with connected(address), _quiet():
            lance_ray.create_index(
                table.dataset_uri,
                "vector",
                ENGINE_KINDS[kind],
                _NAME,
                num_workers=worker_count(workers),
                metric=table.metric,
                # As in one process, so that the same settings find as much.
                num_partitions=partitions(table.rows),
                sample_rate=_sampled_rows(table.rows),
                **engine_options(kind, table.dimension),
            )

    return build


def _sampled_rows(rows: int) -> int:
    return max(1, min(_MOST_SAMPLED_ROWS, rows // _PQ_CENTRES))


@dataclass(frozen=True, slots=True)
class ShardedSearch:
    """Searches whose segments are spread over the workers of a cluster; make one with :func:`searching`."""

    index: Index
    workers: int

    def search_vectors(
        self,
        vectors: Vectors,
        k: int = 10,
        *,
        where: str | Condition | None = None,
        parameters: SearchParameters | None = None,
    ) -> list[list[Hit]]:
        """Return the documents most similar to query vectors (n, d).

        They are the same as :meth:`Index.search_vectors` finds.
        """
        dataset = lance.dataset(dataset_uri(self.index.uri))
        where = as_sql(where, dataset.schema)
        given = parameters or SearchParameters()
        how = approximation(given, k * max(1, given.refine), filtered=where is not None)
        if given.refine:
            how["refine_factor"] = given.refine
        nearest = {"column": "vector", "metric": self.index.metric, **how}
        metadata = metadata_columns(dataset.schema)
        found = []
        for vector in self.index.compared(vectors):
            rows = self._documents(dataset, {**nearest, "q": vector}, where, k)
            hits = [
                hit_of(record_of(row, metadata), 1.0 - float(row["_distance"])) for row in rows.to_pylist()
            ]
            found.append(hits[:k])
        return found

    def _documents(self, dataset: Any, nearest: Mapping[str, Any], where: str | None, k: int) -> Any:
        """Return the best row of each of k documents, nearest first."""
        pool = k
        while True:
            rows = self._search(dataset, {**nearest, "k": pool}, where)
            best = first_of_each(rows)
            if len(best) >= k or len(rows) < pool:
                return best
            pool *= WIDER

    def _search(self, dataset: Any, nearest: Mapping[str, Any], where: str | None) -> Any:
        own = [*SHOWN_COLUMNS, *(PLACE_COLUMNS if holds_passages(dataset.schema) else ())]
        try:
            return lance_ray.vector_search(
                dataset,
                nearest=dict(nearest),
                columns=[*own, *metadata_columns(dataset.schema), "_distance"],
                filter=where,
                num_workers=self.workers,
                scanner_options={"prefilter": True},
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise VectorIndexError(f"The search failed: {reason_of(error)}") from error


@contextmanager
def searching(index: Index, address: str, *, workers: int | None = None) -> Iterator[ShardedSearch]:
    """Keep workers on a cluster that search an index together.

    Args:
        index: whose storage every node reaches; :func:`build_index_on` makes segments for them.
        address: of the cluster, or ``local``.
        workers: default one for each processor.
    """
    with connected(address), _quiet():
        count = workers or int(ray.cluster_resources()["CPU"])
        lance_ray.init_global_pool(count)
        try:
            yield ShardedSearch(index, count)
        finally:
            lance_ray.clear_global_pool(close=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings of the engines about what is meant here, such as forked workers."""
    logging.getLogger("lance_ray").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
