"""Group texts of like length, where the padding saved is worth another forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_PASS_COST = 200  # what a forward pass costs besides its tokens, in tokens


def by_length(rows: Sequence[int], cost: Callable[[int], int]) -> list[list[int]]:
    """Return the rows in groups of like length, shortest first."""
    if not rows:
        return []
    return _divided(sorted(rows, key=cost), cost)


def _divided(part: list[int], cost: Callable[[int], int]) -> list[list[int]]:
    """Return the part as one group, or cut where that saves most."""
    longest = cost(part[-1])
    padded = {cut: cut * cost(part[cut - 1]) + (len(part) - cut) * longest for cut in range(1, len(part))}
    best = min(padded, key=padded.__getitem__, default=0)
    if best == 0 or padded[best] + _PASS_COST >= len(part) * longest:
        return [part]
    return _divided(part[:best], cost) + _divided(part[best:], cost)
