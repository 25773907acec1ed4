import asyncio
import ctypes
import os
import platform
import subprocess
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


HEAPS = """
import ctypes, sys, threading
from routerretriever.server import memory
if sys.argv[2] == "shared":
    memory.share_heaps(1)
start = threading.Barrier(40)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def work():
    start.wait()
    libc.malloc(100)  # each thread takes a heap when it first allocates
    start.wait()
threads = [threading.Thread(target=work) for _ in range(40)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
import pyarrow
print(pyarrow.default_memory_pool().backend_name)
"""


@glibc
@pytest.mark.parametrize(
    ("variables", "heaps", "pool"), [({}, 2, "system"), ({"MALLOC_ARENA_MAX": "3"}, 3, "system")]
)
def test_threads_share_heaps(tmp_path: Path, variables: dict[str, str], heaps: int, pool: str) -> None:
    def said(how: str) -> tuple[int, str]:
        command = [sys.executable, "-c", HEAPS, str(tmp_path / how), how]
        given = {key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"} | variables
        done = subprocess.run(command, env=given, check=True, capture_output=True, text=True)
        return (tmp_path / how).read_text().count("<heap nr="), done.stdout.strip()

    assert said("shared") == (heaps, pool)
    assert said("own")[0] > 2


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
