"""Vector indexes built and searched by the nodes of a Ray cluster, each a part of it, with lance-ray."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import ray

from routerretriever.cluster.encode import connected, worker_count
from routerretriever.errors import MissingExtraError, VectorIndexError
from routerretriever.index.connection import dataset_uri
from routerretriever.index.filters import Condition, to_sql
from routerretriever.index.kinds import Metric, partitions, pq_parts
from routerretriever.index.schema import SHOWN_COLUMNS, metadata_columns
from routerretriever.index.search import Hit, SearchParameters, approximation, hit_of, similarity

try:
    import lance_ray
except ImportError as error:
    raise MissingExtraError("ray", "lance-ray") from error

if TYPE_CHECKING:
    from routerretriever.index.index import Index
    from routerretriever.kernels.exact_search import Vectors

_ENGINE_KINDS = {"ivf_flat": "IVF_FLAT", "ivf_pq": "IVF_PQ", "ivf_rq": "IVF_RQ"}
_NAME = "vector_idx"
_SAMPLED_ROWS = 256  # for each centre that is to be found, where there are so many
_PQ_CENTRES = 256


def index_maker(table: Any, uri: str, metric: Metric, address: str, workers: int | None) -> Callable[[str], None]:
    """What builds a vector index of a kind on a cluster: one segment for each worker.

    Args:
        table: of LanceDB.
        uri: of the index, whose storage every node reaches.
        metric: of the vectors.
        address: of the cluster, or ``local``.
        workers: default one for each processor.

    Raises:
        VectorIndexError: the kind cannot be built by several workers.
    """

    def make(kind: str) -> None:
        if kind not in _ENGINE_KINDS:
            known = ", ".join(_ENGINE_KINDS)
            raise VectorIndexError(f"A cluster builds {known}, not '{kind}'. Leave out --cluster to build it here.")
        dimension = table.schema.field("vector").type.list_size
        options: dict[str, dict[str, Any]] = {
            "ivf_pq": {"num_sub_vectors": pq_parts(dimension)},
            "ivf_rq": {"num_bits": 1},  # unsaid, lance-ray's workers and its driver disagree about it
        }
        rows = int(table.count_rows())
        sampled = max(1, min(_SAMPLED_ROWS, rows // _PQ_CENTRES))
        with connected(address), _quiet():
            lance_ray.create_index(
                dataset_uri(uri),
                "vector",
                _ENGINE_KINDS[kind],
                _NAME,
                num_workers=worker_count(workers),
                metric=metric,
                num_partitions=partitions(rows),  # as in one process, so that the same settings find as much
                sample_rate=sampled,
                **options.get(kind, {}),
            )

    return make


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
        """The documents most similar to query vectors (n, d): the same as :meth:`Index.search_vectors` finds."""
        dataset = lance.dataset(dataset_uri(self.index.uri))
        if isinstance(where, Mapping):
            where = to_sql(where, dataset.schema)
        metadata = metadata_columns(dataset.schema)
        given = parameters or SearchParameters()
        return [self._search(dataset, vector, k, where, given, metadata) for vector in np.atleast_2d(vectors)]

    def _search(
        self,
        dataset: Any,
        vector: Vectors,
        k: int,
        where: str | None,
        parameters: SearchParameters,
        metadata: Sequence[str],
    ) -> list[Hit]:
        how = approximation(parameters, k, filtered=where is not None)
        nearest = {"column": "vector", "q": vector, "k": k, "metric": self.index.metric, **how}
        try:
            found: Any = lance_ray.vector_search(
                dataset,
                nearest=nearest,
                columns=[*SHOWN_COLUMNS, *metadata, "_distance"],
                filter=where,
                num_workers=self.workers,
                scanner_options={"prefilter": True},
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise VectorIndexError(f"The search failed: {str(error).splitlines()[0]}") from error
        return [hit_of(row, similarity(row), metadata) for row in found.to_pylist()]


@contextmanager
def searching(index: Index, address: str, *, workers: int | None = None) -> Iterator[ShardedSearch]:
    """Keep workers on a cluster that search an index together.

    Args:
        index: whose storage every node reaches; :meth:`Index.build_index` with a cluster makes segments for them.
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
    """The engines warn of what is meant here, such as workers that are forked."""
    logging.getLogger("lance_ray").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
