"""Cut documents that a base does not read whole, at headings, paragraphs and sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from semantic_text_splitter import TextSplitter

from routerretriever.data.document import Document
from routerretriever.passages.passage import Passage, Place
from routerretriever.passages.sections import Span, spans_of

MOST_TOKENS = 512
"""Longest passage, whatever the base reads: of one of many pages a reader would not see what matched."""

OVERLAP_TOKENS = 32
"""Tokens that a passage repeats of the one before it, at most."""

_CHARACTERS_PER_TOKEN = 32  # text with fewer characters a token is not counted to its end
_SHORTEST = 8  # tokens that are left for the text, however long title and headings are
_SMALL = 4  # a section below a quarter of a passage is joined with the next


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts documents into passages that a base reads whole.

    Attributes:
        count: returns the tokens of a text, without special ones.
        limit: tokens that the base reads, special ones and prompt not counted; ``None`` for any
            number.
    """

    count: Callable[[str], int]
    limit: int | None

    def cut(self, document: Document) -> list[Passage]:
        """Return the passages of a document in order: one if the base reads it whole."""
        if self.limit is None or self.reads_whole(document):
            return [Passage.whole(document)]
        passages = list(self._passages(document, min(self.limit, MOST_TOKENS)))
        return passages if len(passages) > 1 else [Passage.whole(document)]

    def reads_whole(self, document: Document) -> bool:
        """Return whether the base reads a document to its end."""
        return self.limit is None or not self._is_longer(document.content, self.limit)

    def _is_longer(self, text: str, limit: int) -> bool:
        # A token has at least one byte, so that most short texts need not be counted.
        if len(text) <= limit and len(text.encode(errors="replace")) <= limit:
            return False
        beginning = text[: _CHARACTERS_PER_TOKEN * limit]
        if self.count(beginning) > limit:
            return True
        return len(beginning) < len(text) and self.count(text) > limit

    def _passages(self, document: Document, limit: int) -> Iterator[Passage]:
        number = 0
        for span in self._joined(spans_of(document), document, limit):
            prefix = self._prefix(document, span, limit)
            room = max(_SHORTEST, limit - self.count(prefix))
            splitter = TextSplitter.from_callback(self.count, room, overlap=min(OVERLAP_TOKENS, room // 4))
            for start, text in splitter.chunk_indices(document.text[span.start : span.stop]):
                begin = span.start + start
                place = Place(
                    number=number,
                    start=begin,
                    stop=begin + len(text),
                    heading=span.heading,
                    page=span.page,
                )
                yield Passage(text=text, content=f"{prefix} {text}".strip(), place=place)
                number += 1

    def _joined(self, spans: Iterable[Span], document: Document, limit: int) -> Iterator[Span]:
        """Join small sections, such as a heading by itself, with what follows them."""
        small: Span | None = None
        for span in spans:
            if small is not None:
                longer = max(small, span, key=lambda part: part.stop - part.start)
                span = replace(longer, start=small.start, stop=span.stop, page=small.page)
            text = document.text[span.start : span.stop]
            small = None if self._is_longer(text, limit // _SMALL) else span
            if small is None:
                yield span
        if small is not None:
            yield small

    def _prefix(self, document: Document, span: Span, limit: int) -> str:
        """Return title and headings, without the last ones where they would take half of the room."""
        prefix = f"{document.title} {span.heading}".strip()
        while prefix and self.count(prefix) > limit // 2:
            prefix = prefix[: len(prefix) // 2]
        return prefix
