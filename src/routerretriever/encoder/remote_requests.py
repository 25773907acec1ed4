"""Vectors from an OpenAI-compatible ``/v1/embeddings``: batches, attempts, and what an answer must be."""

from __future__ import annotations

import asyncio
import json
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from routerretriever.endpoint import KEY_VARIABLE, LONGEST_ORDER, FaultError, JsonEndpoint
from routerretriever.errors import ModelError
from routerretriever.kernels.vectors import Vectors

BATCH = 64
"""Most texts of a request."""
BATCH_CHARACTERS = 200_000
"""Most characters of a request that has more than one text."""
AT_ONCE = 4
"""Requests under way at a time."""
ATTEMPTS = 6
"""Tries of a request before it is given up."""
TIMEOUT = 60.0
"""Seconds for a whole answer."""
BACKOFF = 1.0
"""Most seconds before the second try; each further one may take twice as long."""
_LARGEST_BODY = 2**26

Keep = Callable[[list[str], Vectors], None]
"""Is given texts and their vectors (n, d)."""


class _Background:
    """A thread with an event loop, and a client whose connections stay open in it."""

    def __init__(self, url: str) -> None:
        self.endpoint = JsonEndpoint(url, timeout=TIMEOUT, largest=_LARGEST_BODY)
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, daemon=True, name="embeddings").start()

    def close(self) -> None:
        """Let connections, loop and thread end.

        Nothing is waited for: the garbage collector may call this in any thread, also in that of
        another endpoint and while a lock is held that this one's end needs.
        """
        with suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(self._end)

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def _end(self) -> None:
        ending = self.loop.create_task(self.endpoint.__aexit__())
        ending.add_done_callback(lambda _: self.loop.stop())


class EmbeddingRequests:
    """Asks one model of an endpoint for vectors, from any thread, over connections that are kept."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model
        self._lock = threading.Lock()
        self._background: _Background | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return EmbeddingRequests, (self.url, self.model)  # a copy makes its own connections

    def vectors(
        self, texts: Sequence[str], dimension: int | None = None, keep: Keep | None = None
    ) -> Vectors:
        """Return the vectors of texts (n, d), float32.

        Args:
            texts: any number of them, at least one.
            dimension: that the vectors must have; ``None`` takes what comes.
            keep: is given the texts that were answered, with their vectors, if others were not.

        Raises:
            ModelError: the endpoint does not answer, refuses, or answers with something else than
                one finite vector of this dimension for each text.
        """
        background = self._started()
        # In a thread of its own, since this one may have an event loop already.
        work = self._all(background.endpoint, list(texts), dimension, keep)
        return asyncio.run_coroutine_threadsafe(work, background.loop).result()

    def _started(self) -> _Background:
        with self._lock:
            if self._background is None:
                self._background = _Background(f"{self.url}/embeddings")
                weakref.finalize(self, self._background.close)
            return self._background

    async def _all(
        self, endpoint: JsonEndpoint, texts: list[str], dimension: int | None, keep: Keep | None
    ) -> Vectors:
        limit = asyncio.Semaphore(AT_ONCE)
        batches = list(_batches(texts))
        outcomes = await asyncio.gather(
            *(self._batch(endpoint, part, dimension, limit) for part in batches), return_exceptions=True
        )
        faults = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        answered = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        if not faults:
            return np.concatenate(answered)
        for part, outcome in zip(batches, outcomes, strict=True):
            if keep is not None and not isinstance(outcome, BaseException):
                keep(part, outcome)
        raise faults[0]

    async def _batch(
        self, endpoint: JsonEndpoint, texts: list[str], dimension: int | None, limit: asyncio.Semaphore
    ) -> Vectors:
        body = {"model": self.model, "input": texts, "encoding_format": "float"}
        async with limit:
            for attempt in range(ATTEMPTS):
                try:
                    return _read(await endpoint.post(body), len(texts), dimension)
                except FaultError as fault:
                    pause = fault.pause(attempt, BACKOFF)
                    if fault.hopeless or fault.final or pause > LONGEST_ORDER or attempt == ATTEMPTS - 1:
                        raise self._given_up(fault, attempt + 1) from None
                    await asyncio.sleep(pause)
        raise AssertionError

    def _given_up(self, fault: FaultError, attempts: int) -> ModelError:
        if fault.hopeless:
            return ModelError(
                f"{self.url} refuses every request for '{self.model}' ({fault}). Check the endpoint, the name of the "
                f"model, and the key in {KEY_VARIABLE}."
            )
        return ModelError(
            f"{self.url} gave no vectors of '{self.model}' after {attempts} attempts: {fault}. What it had answered "
            "before is kept. Fix it and rerun the command."
        )


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and (len(batch) == BATCH or characters + len(text) > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch


def _read(content: bytes, count: int, dimension: int | None) -> Vectors:
    """Return the vectors of an answer in the order of the texts.

    Raises:
        FaultError: it is no such answer.
    """
    try:
        rows = json.loads(content)["data"]
        # Some servers leave out the places.
        ordered = sorted(rows, key=lambda row: row.get("index", 0))
        found = [np.asarray(row["embedding"], np.float32) for row in ordered]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FaultError(
            f"an answer that is not a list of vectors ({type(error).__name__}: {error})"
        ) from None
    if len(found) != count:
        raise FaultError(f"{len(found)} vectors for {count} texts")
    sizes = {vector.shape for vector in found}
    wanted = dimension or found[0].size
    if sizes != {(wanted,)} or not wanted:
        seen = ", ".join(sorted(str(size[0]) if len(size) == 1 else "no list" for size in sizes))
        raise FaultError(f"vectors of {seen} numbers instead of {wanted}", final=True)
    vectors = np.stack(found)
    if not np.isfinite(vectors).all():
        raise FaultError("vectors with numbers that are not finite")
    return vectors
