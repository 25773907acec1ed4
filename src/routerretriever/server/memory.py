"""Give memory back to the system.

Batches differ in shape, so the C library's heap is soon full of holes: free for the next batch of that size, yet held
by the process. glibc keeps them for ever unless told otherwise; other C libraries need no help.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys

_EVERY = 30.0  # seconds; a trim keeps allocations waiting for some tens of milliseconds


async def keep_trimming() -> None:
    """Trim the heap at intervals, until cancelled."""
    while True:
        await asyncio.sleep(_EVERY)
        await asyncio.to_thread(trim)


def trim() -> bool:
    """Return the heap's free pages to the system; whether there were any."""
    if sys.platform != "linux":
        return False
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
    return bool(give_back(0)) if give_back is not None else False
