"""Telling a commit that lost against another writer's from one that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lance.commit import CommitConflictError

from routerretriever.storage.retries import retrying

T = TypeVar("T")

_CONFLICTS = (
    "Retryable commit conflict",
    "Commit conflict",
    "Incompatible transaction",
    "Too many concurrent writers",
)


def is_conflict(error: BaseException) -> bool:
    """Return whether Lance refused a commit because another one came between.

    Only the type and the beginning of the message decide: what follows may hold paths.
    """
    if isinstance(error, CommitConflictError):
        return True
    if not isinstance(error, OSError | RuntimeError):
        return False
    return str(error).startswith(_CONFLICTS)


def retrying_conflicts(work: Callable[[], T]) -> T:
    """Run, and run again if another writer came between; Lance then leaves everything as it was."""
    return retrying(work, if_passing=is_conflict)
