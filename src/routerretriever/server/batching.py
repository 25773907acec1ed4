"""Concurrent requests share forward passes, and changes of the experts wait their turn among them.

One thread owns the model. Requests are cut into rows; a batch takes rows from all waiting requests in turn, so
that a small one never waits for more than the batch in progress and a share in the next. A change is a
barrier: what was accepted before it runs before it, what came later runs after it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import Any, Protocol

from routerretriever.server.settings import Batching, Limits


@dataclass(frozen=True, slots=True)
class Row:
    """One text to be encoded.

    Attributes:
        text: what stands in it.
        kind: ``query`` or ``document``.
        expert: a candidate that is pinned; ``None`` routes a query.
        cost: its tokens, estimated.
    """

    text: str
    kind: str
    expert: str | None
    cost: int


class Encode(Protocol):
    """Encodes one batch: a result, or what went wrong, for every row."""

    def __call__(self, rows: Sequence[Row]) -> Sequence[Any]: ...


class Overloaded(Exception):
    """Too much is waiting already."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"busy; try again in {seconds:.1f} s")
        self.seconds = seconds


class Closed(Exception):
    """The server is going down."""


@dataclass(slots=True)
class _Request:
    rows: Sequence[Row]
    future: Future[list[Any]]
    accepted: float
    begun: float | None = None
    taken: int = 0
    results: list[Any] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.rows) - self.taken


@dataclass(slots=True)
class _Change:
    apply: Callable[[], Any]
    future: Future[Any]


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What one batch was: its rows, how long it ran, how long its new requests had waited (seconds)."""

    rows: int
    seconds: float
    waited: tuple[float, ...]


class Batcher:
    """The thread that owns the model, and the queue before it.

    Args:
        encode: runs in that thread.
        batching, limits: sizes and bounds.
        observe: is told of every batch, in that thread.
    """

    def __init__(
        self, encode: Encode, batching: Batching, limits: Limits, observe: Callable[[BatchFacts], None]
    ) -> None:
        self._encode, self._batching, self._limits, self._observe = encode, batching, limits, observe
        self._waiting: deque[_Request | _Change] = deque()
        self._tokens = 0
        self._speed = 2000.0  # tokens a second, measured as batches go by
        self._crowded = False
        self._closed = False
        self._ready = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    # -- from any thread ---------------------------------------------------------------------------

    def submit(self, rows: Sequence[Row]) -> Future[list[Any]]:
        """Ask for rows to be encoded; their results come in order.

        Raises:
            Overloaded: too much is waiting.
            Closed: the server is going down.
        """
        future: Future[list[Any]] = Future()
        cost = sum(row.cost for row in rows)
        with self._ready:
            self._check_open()
            if len(self._waiting) >= self._limits.waiting_requests or self._tokens > self._limits.waiting_tokens:
                raise Overloaded(max(1.0, self._tokens / self._speed))
            self._tokens += cost
            self._waiting.append(_Request(rows, future, time.perf_counter()))
            self._ready.notify()
        return future

    def change(self, apply: Callable[[], Any]) -> Future[Any]:
        """Run something that changes the model, between what was accepted before and what comes later.

        Raises:
            Closed: the server is going down.
        """
        future: Future[Any] = Future()
        with self._ready:
            self._check_open()
            self._waiting.append(_Change(apply, future))
            self._ready.notify()
        return future

    @property
    def waiting(self) -> int:
        """Requests that are not finished."""
        return len(self._waiting)

    def close(self) -> None:
        """Finish what was accepted, and stop."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed

    # -- in the thread of its own ------------------------------------------------------------------

    def _run(self) -> None:
        while (work := self._next()) is not None:
            if isinstance(work, _Change):
                _fulfil(work.future, work.apply)
            else:
                self._run_batch(work)

    def _next(self) -> _Change | list[tuple[_Request, int]] | None:
        """A change, the requests of the next batch with how many rows of each, or nothing at the end."""
        with self._ready:
            while not self._waiting:
                if self._closed:
                    return None
                self._ready.wait()
            if self._crowded and len(self._waiting) == 1 and isinstance(self._waiting[0], _Request):
                self._ready.wait(self._batching.wait)
            first = self._waiting[0]
            if isinstance(first, _Change):
                self._waiting.popleft()
                return first
            ahead = list(takewhile(lambda entry: isinstance(entry, _Request), self._waiting))
            return self._shares([entry for entry in ahead if isinstance(entry, _Request)])

    def _shares(self, requests: Sequence[_Request]) -> list[tuple[_Request, int]]:
        """An even share of the batch for every request, and what is left over to the first."""
        self._crowded = len(requests) > 1
        rows, tokens = self._batching.rows, float(self._batching.tokens)
        counts = [0] * len(requests)
        for share in (1 / len(requests), 1.0):
            most, budget = max(1, int(rows * share)), tokens * share
            for number, request in enumerate(requests):
                following = request.rows[request.taken + counts[number] :][: min(most, rows)]
                # The first row of a batch always goes, however long it is.
                room = tokens if sum(counts) else max(tokens, following[0].cost)
                count, spent = _fitting(following, budget, room)
                counts[number] += count
                rows, tokens = rows - count, max(0.0, tokens - spent)
        return [(request, count) for request, count in zip(requests, counts, strict=True) if count]

    def _run_batch(self, shares: Sequence[tuple[_Request, int]]) -> None:
        started = time.perf_counter()
        rows = [row for request, count in shares for row in request.rows[request.taken : request.taken + count]]
        waited = tuple(started - request.accepted for request, _ in shares if request.begun is None)
        try:
            results = self._encode(rows)
        except Exception as error:  # the thread must outlive any batch; each request learns of it
            results = [error] * len(rows)
        seconds = time.perf_counter() - started
        tokens = sum(row.cost for row in rows)
        self._speed += 0.2 * (tokens / max(seconds, 1e-6) - self._speed)
        self._hand_out(shares, results, started)
        self._observe(BatchFacts(len(rows), seconds, waited))

    def _hand_out(self, shares: Sequence[tuple[_Request, int]], results: Sequence[Any], started: float) -> None:
        at = 0
        finished = []
        for request, count in shares:
            request.results += results[at : at + count]
            request.begun = request.begun or started
            request.taken += count
            at += count
            failed = any(isinstance(result, Exception) for result in request.results)
            if request.left == 0 or failed or request.future.cancelled():
                finished.append(request)
        with self._ready:
            self._tokens -= sum(row.cost for request in finished for row in request.rows)
            gone = {id(request) for request in finished}
            self._waiting = deque(entry for entry in self._waiting if id(entry) not in gone)
            # Who had a part in this batch stands behind those who had none.
            served = {id(request) for request, _ in shares}
            self._rotate(served)
        for request in finished:
            _fulfil(request.future, partial(_all_or_error, request.results))

    def _rotate(self, served: set[int]) -> None:
        """Put the requests that were just served behind the others, up to the first change."""
        entries = list(self._waiting)
        barrier = next((at for at, entry in enumerate(entries) if isinstance(entry, _Change)), len(entries))
        ahead = sorted(entries[:barrier], key=lambda entry: id(entry) in served)
        self._waiting = deque(ahead + entries[barrier:])


def _fitting(rows: Sequence[Row], budget: float, room: float) -> tuple[int, int]:
    """How many of the first rows fit, and their cost: one if there is room for it, more within the budget."""
    spent = 0
    for count, row in enumerate(rows):
        if spent + row.cost > (min(budget, room) if count else room):
            return count, spent
        spent += row.cost
    return len(rows), spent


def _all_or_error(results: list[Any]) -> list[Any]:
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def _fulfil(future: Future[Any], work: Callable[[], Any]) -> None:
    """Run something and give its outcome to a future, unless nobody waits for it any more."""
    try:
        result = work()
    except Exception as error:
        with suppress(InvalidStateError):
            future.set_exception(error)
        return
    with suppress(InvalidStateError):
        future.set_result(result)
