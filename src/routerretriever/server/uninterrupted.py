"""Work that must not stop halfway."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await work that is finished even if the client who asked for it has gone away."""
    return await asyncio.shield(asyncio.ensure_future(work))
