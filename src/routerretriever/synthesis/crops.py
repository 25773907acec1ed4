"""Pseudo-queries by independent cropping: random spans of the passage, with words left out.

After Contriever (Izacard et al. 2022, arXiv 2112.09118, section 3.1), which crops query and
passage independently and deletes a tenth of the words. Here documents are frozen, so the
passage is always whole. The span is as long as queries are, and more of its words are
deleted, because a literal span is found too easily to teach anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from routerretriever.synthesis.passages import Passage
from routerretriever.synthesis.queries import Generated

SHORTEST = 4
LONGEST = 24
"""Words of a span; lengths in between are drawn evenly on a logarithmic scale."""

LARGEST_SHARE = 0.5
"""Largest share of a passage that a span takes."""

DELETED = 0.2
"""Share of a span's words that is left out."""


def crops(passages: Sequence[Passage], per_passage: int, seed: int) -> Iterator[Generated]:
    """Yield ``per_passage`` crops of every passage."""
    for passage in passages:
        generator = passage.random(seed, "crops")
        words = passage.content.split()
        longest = min(LONGEST, max(SHORTEST, int(LARGEST_SHARE * len(words))))
        for _ in range(per_passage):
            # Evenly on a logarithmic scale, as lengths of queries are.
            drawn = generator.uniform(math.log(SHORTEST), math.log(longest))
            length = round(math.exp(drawn))
            start = generator.randrange(max(1, len(words) - length + 1))
            span = words[start : start + length]
            kept = [word for word in span if generator.random() >= DELETED] or span
            yield Generated(passage, " ".join(kept), "crops")
