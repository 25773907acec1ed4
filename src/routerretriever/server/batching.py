"""Concurrent requests share forward passes, and changes of the experts wait their turn among them.

A few threads encode. Requests are cut into rows; a batch takes rows from all waiting requests in turn, so
that a small one never waits for more than the batches in progress and a share in the next. A change is a
barrier: what was accepted before it runs before it, what came later runs after it, and it runs alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
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
    """Encodes one batch, one of ``parallel`` at a time: a result, or what went wrong, for every row."""

    def __call__(self, rows: Sequence[Row], parallel: int) -> Sequence[Any]: ...


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
    results: list[Any]
    taken: int = 0
    encoded: int = 0
    finished: bool = False

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


@dataclass(frozen=True, slots=True)
class _Share:
    """The rows of one request that stand in a batch."""

    request: _Request
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Batch:
    shares: Sequence[_Share]
    parallel: int


class Batcher:
    """The threads that encode, and the queue before them.

    Args:
        encode: runs in those threads, with several batches at a time.
        batching, limits: sizes and bounds.
        workers: how many threads.
        observe: is told of every batch, in its thread.
    """

    def __init__(
        self,
        encode: Encode,
        batching: Batching,
        workers: int,
        limits: Limits,
        observe: Callable[[BatchFacts], None],
    ) -> None:
        self._encode, self._batching, self._limits, self._observe = encode, batching, limits, observe
        self._workers = workers
        self._waiting: deque[_Request | _Change] = deque()  # what has rows that no batch took yet
        self._unfinished = 0
        self._tokens = 0
        self._speed = 2000.0  # tokens a second, measured as batches go by
        self._busy, self._changing = 0, False
        self._crowded = False
        self._closed = False
        self._ready = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, name=f"encoder-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

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
            if self._closed:
                raise Closed
            if self._unfinished >= self._limits.waiting_requests or self._tokens > self._limits.waiting_tokens:
                raise Overloaded(max(1.0, self._tokens / self._speed))
            self._tokens += cost
            self._accept(_Request(rows, future, time.perf_counter(), [None] * len(rows)))
        return future

    def change(self, apply: Callable[[], Any]) -> Future[Any]:
        """Run something that changes the model, between what was accepted before and what comes later.

        Raises:
            Closed: the server is going down.
        """
        future: Future[Any] = Future()
        with self._ready:
            if self._closed:
                raise Closed
            self._accept(_Change(apply, future))
        return future

    def _accept(self, entry: _Request | _Change) -> None:
        self._waiting.append(entry)
        self._unfinished += 1
        self._ready.notify()

    @property
    def waiting(self) -> int:
        """Requests that are not finished."""
        return self._unfinished

    def close(self) -> None:
        """Finish what was accepted, and stop."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    # -- in the threads of its own -----------------------------------------------------------------

    def _run(self) -> None:
        while (work := self._next()) is not None:
            if isinstance(work, _Change):
                _fulfil(work.future, work.apply)
            else:
                self._run_batch(work)
            with self._ready:
                self._busy -= 1
                if isinstance(work, _Change):
                    self._changing, self._unfinished = False, self._unfinished - 1
                self._ready.notify_all()

    def _next(self) -> _Change | _Batch | None:
        """A change, a batch, or nothing at the end."""
        with self._ready:
            if not self._wait_for_work():
                return None
            self._busy += 1
            if isinstance(self._waiting[0], _Change):
                self._changing = True
                change = self._waiting.popleft()
                assert isinstance(change, _Change)
                return change
            shares = self._take()
            if self._waiting:
                self._ready.notify()
            return _Batch(shares, min(self._workers, self._busy + bool(self._waiting)))

    def _wait_for_work(self) -> bool:
        """Wait for something that may be begun, a little longer for its company; whether there is any."""
        patient = True
        while True:
            if self._closed and not self._waiting:
                return False
            if not self._may_begin():
                self._ready.wait()
            elif patient and self._crowded and len(self._waiting) == 1 and isinstance(self._waiting[0], _Request):
                self._ready.wait(self._batching.wait)
                patient = False
            else:
                return True

    def _may_begin(self) -> bool:
        if self._changing or not self._waiting:
            return False
        return isinstance(self._waiting[0], _Request) or self._busy == 0

    def _take(self) -> list[_Share]:
        """An even share of the next batch for every request before the first change."""
        ahead: list[_Request] = []
        for entry in self._waiting:
            if isinstance(entry, _Change):
                break
            ahead.append(entry)
        counts = self._counts(ahead)
        # Who has a part in this batch stands behind those who have none, and leaves when nothing is left.
        served = {id(request) for request, _ in counts}
        behind = list(self._waiting)[len(ahead) :]
        shares = []
        for request, count in counts:
            shares.append(_Share(request, request.taken, request.taken + count))
            request.taken += count
        left = sorted((request for request in ahead if request.left), key=lambda request: id(request) in served)
        self._waiting = deque([*left, *behind])
        return shares

    def _counts(self, requests: Sequence[_Request]) -> list[tuple[_Request, int]]:
        """How many rows of each request go into the next batch; what is left over goes to the first."""
        self._crowded = len(requests) > 1
        rows, tokens = self._most_rows(requests), float(self._batching.tokens)
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

    def _most_rows(self, requests: Sequence[_Request]) -> int:
        """Idle threads get their part, unless there is too little to divide."""
        idle = self._workers - self._busy + 1  # this one is counted busy already
        even = -(-sum(request.left for request in requests) // idle)
        return min(self._batching.rows, max(even, self._batching.divided))

    def _run_batch(self, batch: _Batch) -> None:
        started = time.perf_counter()
        rows = [row for share in batch.shares for row in share.request.rows[share.start : share.stop]]
        waited = tuple(started - share.request.accepted for share in batch.shares if share.start == 0)
        try:
            results = self._encode(rows, batch.parallel)
        except Exception as error:  # the thread must outlive any batch; each request learns of it
            results = [error] * len(rows)
        seconds = time.perf_counter() - started
        self._hand_out(batch.shares, results)
        tokens = sum(row.cost for row in rows) * batch.parallel
        self._speed += 0.2 * (tokens / max(seconds, 1e-6) - self._speed)
        self._observe(BatchFacts(len(rows), seconds, waited))

    def _hand_out(self, shares: Sequence[_Share], results: Sequence[Any]) -> None:
        remaining = iter(results)
        with self._ready:
            finished = [share.request for share in shares if self._note(share, remaining)]
            gone = {id(request) for request in finished}
            self._waiting = deque(entry for entry in self._waiting if id(entry) not in gone)
            self._unfinished -= len(finished)
            self._tokens -= sum(row.cost for request in finished for row in request.rows)
        for request in finished:
            _fulfil(request.future, partial(_all_or_error, request.results))

    def _note(self, share: _Share, results: Iterator[Any]) -> bool:
        """Keep a share's results; whether its request is finished by them: complete, failed or given up."""
        request, own = share.request, list(islice(results, share.stop - share.start))
        request.results[share.start : share.stop] = own
        request.encoded += len(own)
        over = (
            request.encoded == len(request.rows)
            or any(isinstance(result, Exception) for result in own)
            or request.future.cancelled()
        )
        first, request.finished = over and not request.finished, request.finished or over
        return first


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
