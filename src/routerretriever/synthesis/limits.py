"""What a generation may take: the limits, and the budget that requests on their way reserve from."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from routerretriever.errors import SynthesisError


@dataclass(frozen=True, slots=True)
class Limits:
    """What a generation may take, all its runs together; ``None`` is no limit.

    Attributes:
        requests: those that were answered, and those that may be billed although no usable answer came back.
        tokens: read and written ones.
        cost: in the currency of the prices.
        price_in, price_out: of a million tokens read and written.

    Raises:
        SynthesisError: a cost without prices.
    """

    requests: int | None = None
    tokens: int | None = None
    cost: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self) -> None:
        if self.cost is not None and not self.price_in and not self.price_out:
            raise SynthesisError(
                "A limit of cost needs prices of a million tokens: price_in and price_out (--price-in, --price-out)."
            )

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


class Budget:
    """What was spent and what is reserved by requests on their way."""

    def __init__(self, limits: Limits, requests: int, tokens_in: int, tokens_out: int) -> None:
        self.limits, self._reserved, self._under_way = limits, [0, 0, 0], 0
        self._spent = [requests, tokens_in, tokens_out]
        self._settled = asyncio.Condition()

    async def reserve(self, tokens_in: int, tokens_out: int) -> bool:
        """Wait until a request of at most so many tokens fits; false if it never will."""
        wanted = [1, tokens_in, tokens_out]
        async with self._settled:
            while not self._fits(wanted):
                if not self._under_way:
                    return False
                await self._settled.wait()  # requests under way may turn out to be cheaper than they could be
            self._reserved = [a + b for a, b in zip(self._reserved, wanted, strict=True)]
            self._under_way += 1
            return True

    async def settle(self, tokens_in: int, tokens_out: int, spent: tuple[int, int] | None) -> None:
        """Replace a reservation by what was spent; ``None`` if nothing was."""
        async with self._settled:
            self._reserved = [a - b for a, b in zip(self._reserved, [1, tokens_in, tokens_out], strict=True)]
            if spent is not None:
                self._spent = [a + b for a, b in zip(self._spent, [1, *spent], strict=True)]
            self._under_way -= 1
            self._settled.notify_all()

    def _fits(self, wanted: list[int]) -> bool:
        requests, tokens_in, tokens_out = (sum(part) for part in zip(self._spent, self._reserved, wanted, strict=True))
        limits = self.limits
        return (
            (limits.requests is None or requests <= limits.requests)
            and (limits.tokens is None or tokens_in + tokens_out <= limits.tokens)
            and (limits.cost is None or limits.price(tokens_in, tokens_out) <= limits.cost)
        )
