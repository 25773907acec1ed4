"""Threads of numpy's products beside those of torch."""

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
    numpy's BLAS would compete with them for the same cores.
    """
    limited: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limited
