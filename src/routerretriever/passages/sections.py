"""Where the sections of a document begin and end, and the headings above each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from routerretriever.data.document import Document, Section

JOINT = " › "
"""Between the headings of a path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Characters of a text under the same headings and on the same page.

    Attributes:
        start: first character, counted from 0.
        stop: character after the last.
        heading: headings above it, outermost first.
        page: counted from 1; ``None`` where there are no pages.
    """

    start: int
    stop: int
    heading: str = ""
    page: int | None = None


def spans_of(document: Document) -> Iterator[Span]:
    """Yield the sections of a document in order; together they are its whole text."""
    end = Section(start=len(document.text))
    path: list[Section] = []
    page = None
    for section, following in pairwise([Section(start=0), *document.sections, end]):
        page = section.page or page
        if section.heading:
            path = [above for above in path if above.level < section.level]
            path.append(section)
        if following.start > section.start:
            heading = JOINT.join(above.heading for above in path)
            yield Span(start=section.start, stop=following.start, heading=heading, page=page)
