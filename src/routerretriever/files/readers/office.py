"""Word and PowerPoint files."""

from __future__ import annotations

import io
import re
import zipfile

import docx
import pptx
from docx.table import Table
from docx.text.paragraph import Paragraph

from routerretriever.files.content import Builder, Content, UnreadableFileError

MOST_UNPACKED = 256 << 20
"""Bytes that a file may unpack to."""

_OLD_FORMAT = b"\xd0\xcf\x11\xe0"
_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)


def read_docx(data: bytes) -> Content:
    """Return paragraphs, headings and tables of a Word file in their order."""
    _check_archive(data)
    document = docx.Document(io.BytesIO(data))
    builder = Builder()
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            for row in block.rows:
                builder.add(" | ".join(cell.text.strip() for cell in row.cells))
            continue
        level = _level(block)
        if level:
            builder.heading(block.text, level)
        else:
            builder.add(block.text)
    return builder.content(document.core_properties.title or "")


def read_pptx(data: bytes) -> Content:
    """Return the texts of all slides, with their titles as headings and their notes."""
    _check_archive(data)
    presentation = pptx.Presentation(io.BytesIO(data))
    builder = Builder()
    for number, slide in enumerate(presentation.slides, start=1):
        builder.page(number)
        title = slide.shapes.title
        if title is not None:
            builder.heading(title.text_frame.text, 1, number)
        for shape in slide.shapes:
            if title is not None and shape.shape_id == title.shape_id:
                continue
            if shape.has_text_frame:
                builder.add(shape.text_frame.text)
            if shape.has_table:
                for row in shape.table.rows:
                    builder.add(" | ".join(cell.text.strip() for cell in row.cells))
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            builder.add(slide.notes_slide.notes_text_frame.text)
    return builder.content(presentation.core_properties.title or "")


def _level(paragraph: Paragraph) -> int:
    name = paragraph.style.name if paragraph.style is not None else ""
    if name == "Title":
        return 1
    found = _HEADING.fullmatch(name or "")
    return int(found[1]) if found else 0


def _check_archive(data: bytes) -> None:
    if data.startswith(_OLD_FORMAT):
        raise UnreadableFileError(
            "it is encrypted, or of a format before 2007. Save it without a password in the present format."
        )
    if not data.startswith(b"PK"):
        raise UnreadableFileError("it is not an Office file, whatever its name says.")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > MOST_UNPACKED:
        raise UnreadableFileError(
            f"it unpacks to {unpacked >> 20} MiB, over the limit of {MOST_UNPACKED >> 20} MiB."
        )
