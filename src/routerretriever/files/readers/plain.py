"""Text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from itertools import chain, pairwise

from markdown_it import MarkdownIt

from routerretriever.data.document import Section
from routerretriever.files.content import Builder, Content, UnreadableFileError

_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
_SNIFFED = 8192


def decoded(data: bytes) -> str:
    """Return the text of a file in UTF-8, UTF-16 with a mark, or Windows' Western code page.

    Raises:
        UnreadableFileError: it is no text.
    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    if b"\0" in data[:_SNIFFED]:
        raise UnreadableFileError("it is not text, whatever its name says.")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def read_text(data: bytes) -> Content:
    """Return a text as it is."""
    builder = Builder()
    builder.add(decoded(data).replace("\r\n", "\n"))
    return builder.content()


def read_markdown(data: bytes) -> Content:
    """Return the source of a Markdown page, with its headings as sections."""
    text = decoded(data).replace("\r\n", "\n")
    if not text.strip():
        raise UnreadableFileError("it holds no text.")
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    sections = []
    tokens = MarkdownIt("commonmark").parse(text)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.map and inline.content.strip():
            words = [part.content or " " for part in inline.children or []]
            heading = " ".join("".join(words).split())
            level = int(token.tag.removeprefix("h"))
            sections.append(Section(start=starts[token.map[0]], heading=heading, level=level))
    title = next((section.heading for section in sections if section.level == 1), "")
    return Content(text=text, title=title, sections=tuple(sections))


def read_csv(data: bytes) -> Content:
    """Return the rows of a table, each as a paragraph of names and values."""
    text = decoded(data)
    try:
        dialect: type[csv.Dialect] = csv.Sniffer().sniff(text[:_SNIFFED], ",;\t|")
    except csv.Error:
        dialect = csv.excel
    csv.field_size_limit(1 << 24)
    rows = csv.reader(io.StringIO(text, newline=""), dialect)
    builder = Builder()
    try:
        names = next(rows, [])
        first = next(rows, None)
        if first is None:
            builder.add(", ".join(names))
        for row in chain([] if first is None else [first], rows):
            cells = []
            for place, value in enumerate(row):
                name = names[place] if place < len(names) else ""
                if value.strip():
                    cells.append(f"{name}: {value}" if name else value)
            builder.add("; ".join(cells))
    except csv.Error as error:
        raise UnreadableFileError(f"it is no table ({error}).") from error
    return builder.content()
