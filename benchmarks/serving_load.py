"""Clients of a server in one process of its own: they send bodies in turn and note how long each answer took.

    python benchmarks/serving_load.py URL BODIES closed CLIENTS SECONDS
    python benchmarks/serving_load.py URL BODIES open RATE SECONDS

``closed``: every client sends its next body as soon as it has its answer. ``open``: bodies are sent at a fixed rate,
whatever becomes of them, and time counts from when each was due. Prints one JSON object: answers a second, refused and
failed requests, and latencies in milliseconds.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

WARM_UP = 0.15  # share of the time whose answers do not count
CONNECTIONS = 128  # of the open loop, at most


class Load:
    """What was sent and what came back.

    Args:
        url: of the endpoint.
        bodies: JSON, one a line.
        seconds: that it lasts.
    """

    def __init__(self, url: str, bodies: Path, seconds: float) -> None:
        place = urlsplit(url)
        assert place.hostname is not None and place.port is not None
        self._address = (place.hostname, place.port)
        self._requests = itertools.cycle(self._framed(place.path, place.netloc, bodies))
        self._seconds = seconds
        self._taken: list[tuple[float, float, int]] = []  # when it was due, how long it took, status

    @staticmethod
    def _framed(path: str, host: str, bodies: Path) -> Iterator[bytes]:
        for line in bodies.read_bytes().splitlines():
            head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            yield f"{head}Content-Length: {len(line)}\r\n\r\n".encode() + line

    async def closed(self, clients: int) -> None:
        """Keep so many clients busy."""
        end = time.perf_counter() + self._seconds

        async def client() -> None:
            reader, writer = await asyncio.open_connection(*self._address)
            while (due := time.perf_counter()) < end:
                await self._ask(reader, writer, due)
            writer.close()

        await asyncio.gather(*(client() for _ in range(clients)))

    async def opened(self, rate: float) -> None:
        """Send at a fixed rate."""
        started = time.perf_counter()
        waiting: asyncio.Queue[float | None] = asyncio.Queue()

        async def client() -> None:
            reader, writer = await asyncio.open_connection(*self._address)
            while (due := await waiting.get()) is not None:
                await self._ask(reader, writer, due)
            writer.close()

        clients = [asyncio.create_task(client()) for _ in range(CONNECTIONS)]
        for number in range(int(rate * self._seconds)):
            due = started + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            waiting.put_nowait(due)
        for _ in clients:
            waiting.put_nowait(None)
        await asyncio.gather(*clients)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, due: float) -> None:
        writer.write(next(self._requests))
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        self._taken.append((due, time.perf_counter() - due, int(lines[0].split()[1])))

    def result(self) -> dict[str, float]:
        """Return what is printed."""
        first = min(due for due, _, _ in self._taken)
        counted = [one for one in self._taken if one[0] - first >= WARM_UP * self._seconds]
        answered = np.array([took for _, took, status in counted if status == 200])
        statuses = [status for _, _, status in counted]
        last = max(due + took for due, took, _ in counted)
        seconds = last - first - WARM_UP * self._seconds
        found = {"per second": round(len(answered) / seconds, 1)}
        for percent in (50, 95, 99):
            found[f"p{percent} ms"] = round(1e3 * float(np.percentile(answered, percent)), 2)
        refused = statuses.count(429)
        return found | {"refused": refused, "failed": len(statuses) - refused - len(answered)}


def main() -> None:
    """Send, and print what came back."""
    url, bodies, mode, amount, seconds = sys.argv[1:]
    load = Load(url, Path(bodies), float(seconds))
    work = load.closed(int(amount)) if mode == "closed" else load.opened(float(amount))
    asyncio.run(work)
    print(json.dumps(load.result()))


if __name__ == "__main__":
    main()
