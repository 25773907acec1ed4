"""A part of a document that is encoded and searched by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from routerretriever.data.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a passage is in its document.

    Attributes:
        number: of the passage, counted from 0.
        start: first character in the document's text, counted from 0.
        stop: character after the last.
        heading: headings above it, outermost first, joined by `` › ``; empty if there are none.
        page: of the file that it begins on, counted from 1; ``None`` where there are no pages.
    """

    number: int
    start: int
    stop: int
    heading: str = ""
    page: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A part of a document, or all of it.

    Attributes:
        text: this part of the document's text.
        content: what is encoded: title, headings and text.
        place: where it is; ``None`` if it is the whole document.
    """

    text: str
    content: str
    place: Place | None = None

    @classmethod
    def whole(cls, document: Document) -> Self:
        """Return a document as its only passage."""
        return cls(text=document.text, content=document.content)


def place_values(place: Place | None) -> tuple[Any, ...]:
    """Return number, start, stop, heading and page of a place, all ``None`` for a whole document."""
    if place is None:
        return (None,) * 5
    return place.number, place.start, place.stop, place.heading or None, place.page
