"""What waits in the queue, and what a batch takes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from routerretriever.server.batching.rows import Row


@dataclass(slots=True, kw_only=True, eq=False)
class EncodeRequest:
    """Rows that are encoded in one batch or several.

    Attributes:
        rows: in the order in which their results are wanted.
        accepted: when it came, on :func:`time.perf_counter`'s clock.
        future: gets the results, or the first error.
        results: those that are there.
        taken: how many rows batches have taken.
        encoded: how many rows have a result.
        finished: nothing more is expected of it.
    """

    rows: Sequence[Row]
    accepted: float
    future: Future[list[Any]] = field(default_factory=Future)
    results: list[Any] = field(default_factory=list)
    taken: int = 0
    encoded: int = 0
    finished: bool = False

    def __post_init__(self) -> None:
        self.results = [None] * len(self.rows)

    @property
    def left(self) -> int:
        """How many rows no batch has taken."""
        return len(self.rows) - self.taken

    @property
    def cost(self) -> int:
        """Tokens of all rows, estimated."""
        return sum(row.cost for row in self.rows)

    def outcome(self) -> list[Any]:
        """Return the results.

        Raises:
            Exception: what went wrong with the first row that failed.
        """
        for result in self.results:
            if isinstance(result, Exception):
                raise result
        return self.results


@dataclass(slots=True, kw_only=True, eq=False)
class Change:
    """Something that changes the model, and runs alone."""

    apply: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The rows of one request that are in a batch."""

    request: EncodeRequest
    start: int
    stop: int

    @property
    def rows(self) -> Sequence[Row]:
        """The rows themselves."""
        return self.request.rows[self.start : self.stop]

    def keep(self, results: Sequence[Any]) -> bool:
        """Give the results to the request.

        Returns:
            Whether the request is finished by them: complete, failed or given up.
        """
        request = self.request
        request.results[self.start : self.stop] = results
        request.encoded += len(results)
        if request.finished:
            return False

        complete = request.encoded == len(request.rows)
        failed = any(isinstance(result, Exception) for result in results)
        request.finished = complete or failed or request.future.cancelled()
        return request.finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Shares that are encoded together, one of ``parallel`` batches at a time."""

    shares: Sequence[Share]
    parallel: int
