"""Pseudo-queries from a passage's own headings, sentences, salient phrases, and keywords."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from routerretriever.passages.short_texts import short_texts
from routerretriever.passages.word_statistics import WordStatistics
from routerretriever.synthesis.passages import Passage
from routerretriever.synthesis.queries import Generated


def titles(
    passages: Sequence[Passage], per_passage: int, seed: int, corpus: Sequence[Passage] | None = None
) -> Iterator[Generated]:
    """Yield up to ``per_passage`` queries for every passage.

    Args:
        passages: to make queries for.
        per_passage: fewer where a passage has no more to offer.
        seed: decides which are drawn.
        corpus: frequencies are counted on these; default ``passages``.
    """
    statistics = WordStatistics.of(passage.content for passage in corpus or passages)
    for passage in passages:
        generator = passage.random(seed, "titles")
        for text in short_texts(passage.title, passage.text, per_passage, statistics, generator):
            yield Generated(passage, text, "titles")
