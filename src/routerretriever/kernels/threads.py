"""Threads of numpy's products beside those of an encoder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


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
