"""What is read of a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

from routerretriever.data.document import Section

READER_VERSION = 1
"""Raised whenever readers give another text for the same file."""


class UnreadableFileError(Exception):
    """A file cannot be read; the message is the reason, as it is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The text of a file.

    Attributes:
        text: all of it.
        title: of the document; empty if it has none.
        sections: where headings stand and pages begin.
    """

    text: str
    title: str = ""
    sections: tuple[Section, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Return what :meth:`to_dict` wrote."""
        sections = tuple(Section(**section) for section in content["sections"])
        return cls(text=content["text"], title=content["title"], sections=sections)


class Builder:
    """Puts a text together, block by block, and notes where sections begin."""

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._length = 0
        self._sections: list[Section] = []

    def add(self, block: str) -> None:
        """Add a paragraph; an empty one adds nothing."""
        block = block.strip()
        if block:
            self._blocks.append(block)
            self._length += len(block) + len(_BREAK)

    def heading(self, text: str, level: int, page: int | None = None) -> None:
        """Add a heading, which begins a section."""
        heading = " ".join(text.split())
        if heading:
            section = Section(start=self._length, heading=heading[:_LONGEST_HEADING], level=level, page=page)
            self._sections.append(section)
            self.add(heading)

    def page(self, number: int) -> None:
        """Begin a page, counted from 1."""
        self._sections.append(Section(start=self._length, page=number))

    def content(self, title: str = "") -> Content:
        """Return what was put together.

        Raises:
            UnreadableFileError: it is empty.
        """
        if not self._blocks:
            raise UnreadableFileError("it holds no text.")
        text = _BREAK.join(self._blocks)
        kept = [section for section in self._sections if section.start < len(text)]
        return Content(text=text, title=" ".join(title.split()), sections=tuple(kept))


_BREAK = "\n\n"
_LONGEST_HEADING = 200
