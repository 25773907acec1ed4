"""Threads of numpy's products beside those of an encoder."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from routerretriever.kernels.vectors import Vectors

_WORTH = 100_000_000
"""Multiplications from which on a product is divided among the cores: a millisecond or two of one."""


def available_threads() -> int:
    """Return how many threads compute at a time: one a core, or fewer if ``OMP_NUM_THREADS`` says so."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else cores


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_blas_thread() -> AbstractContextManager[Any]:
    """Let numpy's products use one thread meanwhile.

    Between two layers of an encoder torch's threads wait for their next part of the work, and those of
    numpy's BLAS would compete with them for the same cores. After a product they spin for a while: beside
    the graphs of an engine, a lone query took twice the processor's time.
    """
    limited: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limited


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(available_threads(), thread_name_prefix="product")


if hasattr(os, "register_at_fork"):  # a forked process has no threads but the one that forked
    os.register_at_fork(after_in_child=_pool.cache_clear)


def by_all_cores(rows: Vectors, columns: Vectors) -> Vectors:
    """Return a product (n, m) of rows (n, d) and columns (d, m), computed by threads that do not spin afterwards."""
    parts = min(available_threads(), rows.shape[0] * columns.size // _WORTH)
    if parts < 2:
        product: Vectors = rows @ columns
        return product
    found = np.empty((len(rows), columns.shape[1]), np.float32)
    pairs = zip(np.array_split(rows, parts), np.array_split(found, parts), strict=True)
    with one_blas_thread():
        list(_pool().map(lambda pair: np.matmul(pair[0], columns, out=pair[1]), pairs))
    return found
