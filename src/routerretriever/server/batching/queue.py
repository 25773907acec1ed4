"""The queue before the encoder, and how much may wait in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import TypeGuard

from routerretriever.server.batching.requests import Change, EncodeRequest, Share
from routerretriever.server.settings import Limits

_FIRST_SPEED = 2000.0  # tokens a second, until batches have been measured
_NEW_MEASUREMENT = 0.2  # weight of the newest batch in the speed


class Overloaded(Exception):
    """Too much is waiting already."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"busy; try again in {seconds:.1f} s")
        self.seconds = seconds


class WorkQueue:
    """Requests that have rows left, and changes, in the order in which they are served.

    It has no lock of its own; its callers hold the batcher's.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.unfinished = 0
        self._entries: deque[EncodeRequest | Change] = deque()
        self._tokens = 0
        self._speed = _FIRST_SPEED

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def begins_with_change(self) -> bool:
        """Whether a change is next."""
        return bool(self._entries) and isinstance(self._entries[0], Change)

    def add(self, entry: EncodeRequest | Change) -> None:
        """Put something at the end.

        Raises:
            Overloaded: too much is waiting for another request.
        """
        if isinstance(entry, EncodeRequest):
            self._check_room()
            self._tokens += entry.cost
        self._entries.append(entry)
        self.unfinished += 1

    def _check_room(self) -> None:
        requests = self.unfinished >= self.limits.waiting_requests
        if requests or self._tokens > self.limits.waiting_tokens:
            raise Overloaded(max(1.0, self._tokens / self._speed))

    def requests(self) -> list[EncodeRequest]:
        """Return the requests before the first change."""
        return list(takewhile(_is_request, self._entries))  # type: ignore[arg-type]

    def take_change(self) -> Change:
        """Remove the change that is next, and return it."""
        change = self._entries.popleft()
        assert isinstance(change, Change)
        return change

    def take(self, shares: Sequence[Share]) -> None:
        """Note which rows a batch has taken.

        A request that has a share goes behind those that have none, and leaves when nothing is left.
        """
        ahead = self.requests()
        behind = list(self._entries)[len(ahead) :]
        for share in shares:
            share.request.taken = share.stop
        served = {id(share.request) for share in shares}
        left = [request for request in ahead if request.left]
        left.sort(key=lambda request: id(request) in served)
        self._entries = deque([*left, *behind])

    def finish(self, requests: Sequence[EncodeRequest]) -> None:
        """Remove requests of which nothing more is expected."""
        gone = {id(request) for request in requests}
        self._entries = deque(entry for entry in self._entries if id(entry) not in gone)
        self._tokens -= sum(request.cost for request in requests)
        self.unfinished -= len(requests)

    def measure(self, tokens: int, seconds: float) -> None:
        """Take the speed of a batch into account."""
        speed = tokens / max(seconds, 1e-6)
        self._speed += _NEW_MEASUREMENT * (speed - self._speed)


def _is_request(entry: EncodeRequest | Change) -> TypeGuard[EncodeRequest]:
    return isinstance(entry, EncodeRequest)
