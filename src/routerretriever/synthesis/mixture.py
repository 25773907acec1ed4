"""Crops and titles evenly."""

from __future__ import annotations

from collections.abc import Sequence

from routerretriever.data.text import stable_hash
from routerretriever.synthesis.crops import crops
from routerretriever.synthesis.passages import Passage
from routerretriever.synthesis.queries import Generated
from routerretriever.synthesis.titles import titles


def mixture(
    passages: Sequence[Passage], per_passage: int, seed: int, corpus: Sequence[Passage]
) -> list[Generated]:
    """Return up to ``per_passage`` queries for every passage, half crops and half titles.

    Of an odd number, chance decides which are one more.
    """
    fewer = per_passage // 2
    more = per_passage - fewer
    sides: tuple[list[Passage], list[Passage]] = ([], [])
    for passage in passages:
        draw = int(stable_hash(f"{seed}:mixture:{passage.key}"), 16)
        sides[draw % 2].append(passage)

    made: list[Generated] = []
    for side, crop_count, title_count in ((sides[0], fewer, more), (sides[1], more, fewer)):
        if crop_count:
            made += crops(side, crop_count, seed)
        if title_count:
            made += titles(side, title_count, seed, corpus)
    return made
