"""Concurrent requests share forward passes, and changes of the experts wait their turn among them.

A few threads encode. Requests are cut into rows; a batch takes rows from all waiting requests in
turn, so that a small one never waits for more than the batches in progress and a part of the next.
A change is a barrier: what was accepted before it runs before it, what came later runs after it,
and it runs alone.
"""

from routerretriever.server.batching.batcher import Batcher, Closed
from routerretriever.server.batching.queue import Overloaded
from routerretriever.server.batching.rows import BatchFacts, Row

__all__ = ["BatchFacts", "Batcher", "Closed", "Overloaded", "Row"]
