"""Divide the next batch among the requests that wait."""

from __future__ import annotations

from collections.abc import Sequence

from routerretriever.server.batching.requests import EncodeRequest, Share
from routerretriever.server.batching.rows import Row


def divide(requests: Sequence[EncodeRequest], *, rows: int, tokens: int) -> list[Share]:
    """Return an even share of the next batch for every request.

    Args:
        requests: those that have rows left, in the order in which they are served.
        rows: at most this many in the batch.
        tokens: at most this many, estimated; the first row always goes, however long it is.
    """
    counts = _counts(requests, rows, float(tokens))
    return [
        Share(request=request, start=request.taken, stop=request.taken + count)
        for request, count in zip(requests, counts, strict=True)
        if count
    ]


def _counts(requests: Sequence[EncodeRequest], rows: int, tokens: float) -> list[int]:
    """Return how many rows of each request go; what is left over goes to the first."""
    counts = [0] * len(requests)
    for part in (1 / len(requests), 1.0):
        most = max(1, int(rows * part))
        budget = tokens * part
        for number, request in enumerate(requests):
            start = request.taken + counts[number]
            following = request.rows[start : start + min(most, rows)]
            # The first row of a batch always goes, however long it is.
            room = tokens if sum(counts) else max(tokens, following[0].cost)
            count, spent = _fitting(following, budget, room)
            counts[number] += count
            rows -= count
            tokens = max(0.0, tokens - spent)
    return counts


def _fitting(rows: Sequence[Row], budget: float, room: float) -> tuple[int, int]:
    """Return how many of the first rows fit, and their cost.

    One fits if there is room for it, more fit within the budget.
    """
    spent = 0
    limit = room
    for count, row in enumerate(rows):
        if spent + row.cost > limit:
            return count, spent
        spent += row.cost
        limit = min(budget, room)
    return len(rows), spent
