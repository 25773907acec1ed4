"""Trying again what failed for a reason that passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def retrying(
    work: Callable[[], T],
    *,
    if_passing: Callable[[Exception], bool],
    attempts: int = 6,
    first_wait: float = 0.1,
) -> T:
    """Return what ``work`` returns, trying again after errors that pass.

    Args:
        work: leaves everything as it was when it fails.
        if_passing: tells whether an error is worth another attempt.
        attempts: made at most; the error of the last one is raised.
        first_wait: seconds before the second attempt; doubled before each further one.
    """
    for attempt in range(attempts - 1):
        try:
            return work()
        except Exception as error:
            if not if_passing(error):
                raise
        time.sleep(first_wait * 2**attempt)
    return work()
