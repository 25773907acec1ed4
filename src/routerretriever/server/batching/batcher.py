"""The threads that encode, and run changes between two batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from itertools import islice
from typing import Any

from routerretriever.server.batching.queue import WorkQueue
from routerretriever.server.batching.requests import Batch, Change, EncodeRequest, Share
from routerretriever.server.batching.rows import BatchFacts, Encode, Row
from routerretriever.server.batching.sharing import divide
from routerretriever.server.settings import Batching, Limits


class Closed(Exception):
    """The server is going down."""


class Batcher:
    """The threads that encode, and the queue before them.

    Args:
        encode: runs in those threads, with several batches at a time.
        batching: sizes of batches.
        limits: how much may wait.
        workers: how many threads.
        observe: is told of every batch, in its thread.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        batching: Batching,
        limits: Limits,
        workers: int,
        observe: Callable[[BatchFacts], None],
    ) -> None:
        self._encode = encode
        self._batching = batching
        self._observe = observe
        self._workers = workers
        self.queue = WorkQueue(limits)

        self._ready = threading.Condition()  # guards all that follows, and the queue
        self._busy = 0
        self._changing = False
        self._crowded = False  # the last batch had several requests
        self._closed = False

        names = [f"encoder-{number}" for number in range(workers)]
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    # -- from any thread ---------------------------------------------------------------------------

    def submit(self, rows: Sequence[Row]) -> Future[list[Any]]:
        """Ask for rows to be encoded; their results come in order.

        Raises:
            Overloaded: too much is waiting.
            Closed: the server is going down.
        """
        request = EncodeRequest(rows=rows, accepted=time.perf_counter())
        self._accept(request)
        return request.future

    def change(self, apply: Callable[[], Any]) -> Future[Any]:
        """Run something that changes the model, between what was accepted before and what comes later.

        Raises:
            Closed: the server is going down.
        """
        change = Change(apply=apply)
        self._accept(change)
        return change.future

    def _accept(self, entry: EncodeRequest | Change) -> None:
        with self._ready:
            if self._closed:
                raise Closed
            self.queue.add(entry)
            self._ready.notify()

    @property
    def waiting(self) -> int:
        """Requests that are not finished."""
        return self.queue.unfinished

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
            if isinstance(work, Change):
                _fulfil(work.future, work.apply)
            else:
                self._run_batch(work)
            with self._ready:
                self._busy -= 1
                if isinstance(work, Change):
                    self._changing = False
                    self.queue.unfinished -= 1
                self._ready.notify_all()

    def _next(self) -> Change | Batch | None:
        """Return a change, a batch, or nothing at the end."""
        with self._ready:
            if not self._wait_for_work():
                return None
            self._busy += 1
            if self.queue.begins_with_change:
                self._changing = True
                return self.queue.take_change()

            requests = self.queue.requests()
            self._crowded = len(requests) > 1
            shares = divide(requests, rows=self._most_rows(requests), tokens=self._batching.tokens)
            self.queue.take(shares)
            if self.queue:
                self._ready.notify()
            parallel = min(self._workers, self._busy + bool(self.queue))
            return Batch(shares=shares, parallel=parallel)

    def _wait_for_work(self) -> bool:
        """Wait for something that may begin, a little longer for its company.

        Returns:
            Whether there is anything.
        """
        patient = True
        while True:
            if self._closed and not self.queue:
                return False
            if not self._may_begin():
                self._ready.wait()
            elif patient and self._may_have_company():
                self._ready.wait(self._batching.wait)
                patient = False
            else:
                return True

    def _may_begin(self) -> bool:
        if self._changing or not self.queue:
            return False
        return not self.queue.begins_with_change or self._busy == 0

    def _may_have_company(self) -> bool:
        return self._crowded and len(self.queue) == 1 and not self.queue.begins_with_change

    def _most_rows(self, requests: Sequence[EncodeRequest]) -> int:
        """Return how many rows leave idle threads their part, unless there is too little to divide."""
        idle = self._workers - self._busy + 1  # this one is counted busy already
        even = -(-sum(request.left for request in requests) // idle)
        return min(self._batching.rows, max(even, self._batching.divided))

    def _run_batch(self, batch: Batch) -> None:
        started = time.perf_counter()
        results = self._encode_shares(batch.shares, batch.parallel)
        seconds = time.perf_counter() - started

        rows = [row for share in batch.shares for row in share.rows]
        self._hand_out(batch.shares, results)
        self.queue.measure(sum(row.cost for row in rows) * batch.parallel, seconds)
        accepted = [share.request.accepted for share in batch.shares if share.start == 0]
        waited = tuple(started - moment for moment in accepted)
        self._observe(BatchFacts(rows=len(rows), seconds=seconds, waited=waited))

    def _encode_shares(self, shares: Sequence[Share], parallel: int) -> list[list[Any]]:
        """Return results, or what went wrong, for the rows of each share."""
        rows = [row for share in shares for row in share.rows]
        try:
            results = iter(self._encode(rows, parallel))
            return [list(islice(results, len(share.rows))) for share in shares]
        except Exception as error:  # the thread must outlive any batch
            if len(shares) == 1:
                return [[error] * len(rows)]
        # One text that cannot be encoded must not fail the requests of others.
        return [self._encode_shares([share], parallel)[0] for share in shares]

    def _hand_out(self, shares: Sequence[Share], results: Sequence[list[Any]]) -> None:
        with self._ready:
            pairs = zip(shares, results, strict=True)
            finished = [share.request for share, own in pairs if share.keep(own)]
            self.queue.finish(finished)
        for request in finished:
            _fulfil(request.future, request.outcome)


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
