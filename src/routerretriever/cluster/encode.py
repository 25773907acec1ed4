"""Work for a Ray cluster: documents encoded by many machines, vector indexes built and searched by them.

Workers get the model from the driver, so that only the package must be installed on the nodes; what they write goes
to the index's own storage, which every node must reach under the same path or URI.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

import numpy as np

from routerretriever.encoder.bulk_documents import encode_documents
from routerretriever.encoder.embedding_cache import encoded_blocks
from routerretriever.errors import BuildError, MissingExtraError
from routerretriever.index.build.shards import Piece
from routerretriever.index.build.worker import Job, Record, Worker
from routerretriever.kernels.exact_search import Vectors
from routerretriever.version import __version__

# Threads of Ray Data outlive a job that is stopped; what they ask for would start another cluster behind its back.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
try:
    import ray
except ImportError as error:
    raise MissingExtraError("ray", "ray") from error

if TYPE_CHECKING:
    from routerretriever.index.build.settings import Run
    from routerretriever.model import RouterRetriever

LOCAL = "local"
_REPORT_SECONDS = 60
_KNOCK_SECONDS = 10
_ALONE_SECONDS = 120


@contextmanager
def connected(address: str, *, processors: int = 0) -> Iterator[None]:
    """Hold a connection to a cluster; ``local`` starts one on this machine and ends it after use.

    Args:
        address: of the cluster.
        processors: that ``local`` offers at least, however few this machine has.

    Raises:
        BuildError: there is no cluster, or its nodes have another version of this package.
    """
    mine = not ray.is_initialized()
    if mine:
        try:
            _knock(address)
            ray.init(
                address=address,  # "local" is Ray's word too: None would join whatever cluster runs here
                num_cpus=max(processors, os.cpu_count() or 1) if address == LOCAL else None,
                include_dashboard=False if address == LOCAL else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise BuildError(
                f"There is no Ray cluster at '{address}' ({error}). Start one: ray start --head"
            ) from error
    try:
        _check_versions()
        yield
    finally:
        if mine:
            ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself tries for minutes to reach a host where nothing listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()


def _check_versions() -> None:
    """All nodes must have this version of the package.

    Raises:
        BuildError: names the node and both versions.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = _working_nodes()
    if not alive:
        raise BuildError("The cluster has no node with a processor to work on. Add one: ray start --address …")
    asked = {
        _version.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node
        for node in alive
    }
    for reference, node in asked.items():
        try:
            found = ray.get(reference, timeout=_REPORT_SECONDS)
        except ray.exceptions.RayError as error:
            raise BuildError(
                f"The node {node['NodeManagerAddress']} cannot run this package: {_last_line(error)} Install "
                f"routerretriever {__version__} there."
            ) from error
        if found != __version__:
            raise BuildError(
                f"The node {node['NodeManagerAddress']} has routerretriever {found}, this machine has "
                f"{__version__}. Install the same version on both."
            )


def _working_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


@ray.remote(num_cpus=0)
def _version() -> str:
    return __version__


def worker_count(asked: int | None) -> int:
    """How many workers to start that all must be there at once: as many as were asked for, or one for each processor.

    Raises:
        BuildError: there is no room for so many; Ray would wait for it for ever.
    """
    there = int(ray.cluster_resources()["CPU"])
    if asked is not None and asked > there:
        raise BuildError(f"{asked} workers were asked for, but the cluster has {there} processors. Ask for fewer.")
    return asked or there


# -- encoding --------------------------------------------------------------------------------------


def run_on(address: str, model: RouterRetriever, *, precision: str, workers: int | None) -> Run:
    """Do the pieces of a build on a cluster, a model in every worker.

    Args:
        address: of the cluster, or ``local``.
        model: what encodes; it travels to the workers.
        precision: ``fp32``, ``bf16`` or ``int8``.
        workers: default one for each accelerator, or for each processor where there are none.
    """

    def run(job: Job, pieces: Sequence[Piece]) -> Iterator[Record]:
        with connected(address):
            yield from _map_pieces(job, pieces, model, precision, workers)

    return run


def _map_pieces(
    job: Job, pieces: Sequence[Piece], model: RouterRetriever, precision: str, workers: int | None
) -> Iterator[Record]:
    import ray.data

    resources = ray.cluster_resources()
    accelerators = int(resources.get("GPU", 0))
    if accelerators and precision == "int8":
        raise BuildError(
            "int8 is for processors, and this cluster's workers have accelerators. Choose --precision auto."
        )
    # More than there is room for do no harm here: those that fit begin, and the others do when nodes join.
    count = min(workers or accelerators or int(resources["CPU"]), len(pieces))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A piece is one block of one row: what a lost node had not recorded is done again, and nothing else.
    rows = [{"piece": pickle.dumps(piece)} for piece in pieces]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Encoder,
        batch_size=1,
        # All workers at once and one piece each: Ray Data would start them one by one and queue pieces at the first.
        compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
        fn_constructor_args=(job, ray.put(model), precision),
        num_cpus=0 if accelerators else 1,
        num_gpus=1 if accelerators else None,
    )
    for row in _watched(done.iter_rows()):
        yield pickle.loads(row["record"])  # noqa: S301 - made by our own workers


def _watched(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows as they come; Ray Data alone would wait for ever for a cluster that has lost its last node.

    Raises:
        BuildError: no node has been there for two minutes.
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
            row = arrived.get(timeout=_KNOCK_SECONDS)
        except Empty:
            seen = time.monotonic() if _working_nodes() else seen
            if time.monotonic() - seen > _ALONE_SECONDS:
                raise BuildError(
                    "The cluster has lost all its nodes. Nothing that was done is lost: start some, then the same "
                    "command goes on."
                ) from None
            continue
        if row is None:
            return
        if isinstance(row, BaseException):
            raise row
        seen = time.monotonic()
        yield row


class _Encoder:
    """A worker's process: one model, one piece after another."""

    def __init__(self, job: Job, model: Any, precision: str) -> None:
        import torch

        device = "cuda" if ray.get_gpu_ids() else "cpu"
        if device == "cpu":
            torch.set_num_threads(1)
        loaded = ray.get(model) if isinstance(model, ray.ObjectRef) else model
        loaded.to(device).eval()
        self._encode = partial(encode_documents, loaded, precision=precision)
        self._worker = Worker(job, self._vectors)

    def _vectors(self, texts: list[str]) -> Vectors:
        found = {
            text: vector
            for block, vectors in encoded_blocks(texts, self._encode)
            for text, vector in zip(block, vectors, strict=True)
        }
        return np.stack([found[text] for text in texts])

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        pieces = (pickle.loads(piece) for piece in batch["piece"])  # noqa: S301 - made by our own driver
        return {"record": [pickle.dumps(self._worker.process(piece)) for piece in pieces]}
