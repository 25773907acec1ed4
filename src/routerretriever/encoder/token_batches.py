"""Batches of about as many tokens each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Yield row numbers in batches of similar length, longest first.

    Args:
        lengths: of each row, in tokens.
        tokens: most tokens of a batch, padding included; a longer row is a batch by
            itself.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
