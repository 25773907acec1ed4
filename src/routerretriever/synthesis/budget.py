"""What was spent, and what requests under way have reserved."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from routerretriever.synthesis.config import Limits


@dataclass(frozen=True, slots=True)
class Totals:
    """Requests, and the tokens that they read and write."""

    requests: int
    tokens_in: int
    tokens_out: int

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.requests + other.requests,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
        )

    def __sub__(self, other: Totals) -> Totals:
        return self + Totals(-other.requests, -other.tokens_in, -other.tokens_out)


class Budget:
    """Lets requests start only if they fit within the limits with all that are under way."""

    def __init__(self, limits: Limits, spent: Totals) -> None:
        self._limits = limits
        self._spent = spent
        self._reserved = Totals(0, 0, 0)
        self._settled = asyncio.Condition()

    async def reserve(self, tokens_in: int, tokens_out: int) -> bool:
        """Wait until a request of at most this size fits; return false if it never will."""
        wanted = Totals(1, tokens_in, tokens_out)
        async with self._settled:
            while not self._fits(wanted):
                if not self._reserved.requests:
                    return False
                # Requests under way may turn out to be cheaper than they could be.
                await self._settled.wait()
            self._reserved += wanted
            return True

    async def settle(self, tokens_in: int, tokens_out: int, spent: tuple[int, int] | None) -> None:
        """Replace a reservation by what was spent; ``None`` if nothing was."""
        async with self._settled:
            self._reserved -= Totals(1, tokens_in, tokens_out)
            if spent is not None:
                self._spent += Totals(1, *spent)
            self._settled.notify_all()

    def _fits(self, wanted: Totals) -> bool:
        total = self._spent + self._reserved + wanted
        limits = self._limits
        tokens = total.tokens_in + total.tokens_out
        cost = limits.price(total.tokens_in, total.tokens_out)
        return (
            (limits.requests is None or total.requests <= limits.requests)
            and (limits.tokens is None or tokens <= limits.tokens)
            and (limits.cost is None or cost <= limits.cost)
        )
