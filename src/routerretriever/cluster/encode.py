"""Documents encoded by the workers of a Ray cluster.

Workers get the model from the driver, so that only the package must be installed on the nodes;
what they write goes to the index's own storage, which every node must reach under the same path
or URI.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.data
import torch

from routerretriever.cluster.connection import connected, working_nodes
from routerretriever.encoder.bulk_documents import encode_documents
from routerretriever.encoder.embedding_cache import encoded_blocks
from routerretriever.errors import BuildError
from routerretriever.index.build.chunk_result import ChunkResult
from routerretriever.index.build.chunks import Chunk
from routerretriever.index.build.worker import Job, Runner, Worker
from routerretriever.index.encoder import Vectors

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever

_ALONE_SECONDS = 120
_LOOK_SECONDS = 10


def encode_on(address: str, model: RouterRetriever, *, workers: int | None = None) -> Runner:
    """Return a runner for :meth:`Index.add` that encodes on a cluster, a model in every worker.

    Args:
        address: of the cluster, or ``local``.
        model: what encodes; it travels to the workers.
        workers: default one for each accelerator, or for each processor where there are none.
    """

    def run(job: Job, chunks: Sequence[Chunk]) -> Iterator[ChunkResult]:
        with connected(address):
            yield from _map_chunks(job, chunks, model, workers)

    return run


def _map_chunks(
    job: Job, chunks: Sequence[Chunk], model: RouterRetriever, workers: int | None
) -> Iterator[ChunkResult]:
    resources = ray.cluster_resources()
    accelerators = int(resources.get("GPU", 0))
    if accelerators and job.precision == "int8":
        raise BuildError(
            "int8 is for processors, and this cluster's workers have accelerators. Choose --precision auto."
        )
    # More workers than there is room for do no harm here: those that fit begin, and the others
    # do when nodes join.
    count = min(workers or accelerators or int(resources["CPU"]), len(chunks))

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A chunk is one block of one row: what a lost node had not recorded is done again, and
    # nothing else.
    rows = [{"chunk": pickle.dumps(chunk)} for chunk in chunks]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Encoder,
        batch_size=1,
        # All workers at once and one chunk each: Ray Data would start them one by one and queue
        # chunks at the first.
        compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
        fn_constructor_args=(job, ray.put(model)),
        num_cpus=0 if accelerators else 1,
        num_gpus=1 if accelerators else None,
    )
    for row in _watched(done.iter_rows()):
        yield pickle.loads(row["result"])  # noqa: S301 - made by our own workers


def _watched(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows as they come.

    Ray Data alone would wait for ever for a cluster that has lost its last node.

    Raises:
        BuildError: there has been no node for two minutes.
    """
    arrived: Queue[dict[str, Any] | BaseException | None] = Queue()

    def wait_for_rows() -> None:
        try:
            for row in rows:
                arrived.put(row)
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)

    threading.Thread(target=wait_for_rows, daemon=True).start()
    seen = time.monotonic()
    while True:
        try:
            row = arrived.get(timeout=_LOOK_SECONDS)
        except Empty:
            if working_nodes():
                seen = time.monotonic()
            if time.monotonic() - seen > _ALONE_SECONDS:
                raise BuildError(
                    "The cluster has lost all its nodes. Nothing that was done is lost: start "
                    "some, then rerun the command."
                ) from None
            continue
        if row is None:
            return
        if isinstance(row, BaseException):
            raise row
        seen = time.monotonic()
        yield row


class _Encoder:
    """A worker's process: one model, one chunk after another."""

    def __init__(self, job: Job, model: Any) -> None:
        if isinstance(model, ray.ObjectRef):
            model = ray.get(model)
        if ray.get_gpu_ids():
            model.to("cuda")
        else:
            torch.set_num_threads(1)
            model.to("cpu")
        self._encode = partial(encode_documents, model.eval(), precision=job.precision)
        self._worker = Worker(job, self._vectors, model.cut)

    def _vectors(self, texts: list[str]) -> Vectors:
        found: dict[str, Vectors] = {}
        for block, vectors in encoded_blocks(texts, self._encode):
            found.update(zip(block, vectors, strict=True))
        return np.stack([found[text] for text in texts])

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        chunks = (pickle.loads(chunk) for chunk in batch["chunk"])  # noqa: S301 - made by our driver
        return {"result": [pickle.dumps(self._worker.process(chunk)) for chunk in chunks]}
