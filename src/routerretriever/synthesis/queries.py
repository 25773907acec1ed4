"""Generated queries, before and after the filter."""

from __future__ import annotations

from dataclasses import dataclass

from routerretriever.synthesis.passages import Passage


@dataclass(frozen=True, slots=True)
class Generated:
    """A query somebody or something made up for a passage.

    Attributes:
        passage: what it should find.
        text: the query.
        way: how it was made: ``crops``, ``titles``, ``doc2query`` or ``llm``.
    """

    passage: Passage
    text: str
    way: str
