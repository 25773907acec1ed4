"""Generated queries, before and after the filter."""

from __future__ import annotations

from dataclasses import dataclass

from routerretriever.synthesis.passages import Passage


@dataclass(frozen=True, slots=True)
class Generated:
    """A query as it was made, for one passage.

    Attributes:
        passage: what it should find.
        text: the query.
        method: how it was made: ``crops``, ``titles``, ``doc2query`` or ``llm``.
    """

    passage: Passage
    text: str
    method: str


@dataclass(frozen=True, slots=True)
class Query:
    """A query that passed the filter, with every passage it was made for.

    Attributes:
        id: decided by its text.
        text: as it was first made.
        method: how it was made.
        passages: what it should find, in the order of their keys.
    """

    id: str
    text: str
    method: str
    passages: tuple[Passage, ...]

    @property
    def documents(self) -> list[str]:
        """The ids of all relevant documents."""
        return sorted({document for passage in self.passages for document in passage.documents})

    @property
    def passage_numbers(self) -> dict[str, int]:
        """Id of each relevant document that was cut → number of the passage that the query was made from."""
        numbers: dict[str, int] = {}
        for passage in self.passages:
            for document, place in passage.places.items():
                numbers.setdefault(document, place.number)
        return numbers
