import asyncio
import ctypes
import platform
import sys
from pathlib import Path

import numpy as np
import pytest

from routerretriever.server import memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what was freed")


def resident() -> int:
    """KiB of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


@glibc
def test_trim_gives_back_what_the_heap_keeps() -> None:
    blocks = [
        np.ones(8_000, np.float64) for _ in range(4_000)
    ]  # 64 KB each: below glibc's threshold for mmap
    kept = blocks[::100]  # holes between them
    del blocks
    before = resident()
    assert memory.trim()
    assert before - resident() > 100_000
    assert len(kept) == 40


def test_trim_is_harmless_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.trim()


def test_trim_where_the_c_library_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not memory.trim()


async def trims_until_cancelled(monkeypatch: pytest.MonkeyPatch) -> int:
    calls: list[int] = []
    monkeypatch.setattr(memory, "_EVERY", 0.001)
    monkeypatch.setattr(memory, "trim", lambda: calls.append(1))
    task = asyncio.create_task(memory.keep_trimming())
    while len(calls) < 3:
        await asyncio.sleep(0.001)
    task.cancel()
    return len(calls)


def test_trimming_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asyncio.run(trims_until_cancelled(monkeypatch)) >= 3
