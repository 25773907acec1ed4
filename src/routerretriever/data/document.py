"""A document, and the one check of what can be stored of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np

from routerretriever.data.text import HALF_CHARACTER, is_text
from routerretriever.errors import CollectionError

ID_FIELDS = ("_id", "id", "doc_id")
"""Fields that can hold an id, in the order in which they are looked for."""

_OWN_FIELDS = frozenset({"text", "title", "metadata", *ID_FIELDS})
_EMPTY_ID = "the id is empty. Every document and query needs one of its own."
_SCALARS = (str, int, float, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Where a part of a document begins.

    Attributes:
        start: its first character in the document's text, counted from 0.
        heading: that stands above it; empty at the beginning of a page.
        level: of the heading, 1 for the outermost.
        page: of the file that it begins on, counted from 1; ``None`` where nothing changes.
    """

    start: int
    heading: str = ""
    level: int = 1
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One retrievable text; ``metadata`` holds scalar fields to filter by.

    ``sections``, in their order, say where a long text is best cut into passages.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()

    @property
    def content(self) -> str:
        """What is encoded: title and text, BEIR's convention."""
        return f"{self.title} {self.text}".strip()


def as_document(record: Mapping[str, Any], where: str) -> Document:
    """Return the document that a record describes.

    Args:
        record: has an id, ``text``, optionally ``title`` and ``metadata``, and any
            other scalar fields, which become metadata as well.
        where: place of the record, for the error.

    Raises:
        CollectionError: the record has no id or no text, or a value that cannot be
            stored.
    """
    document = Document(
        id=record_id(record, where),
        text=text_of(record, where),
        title=title_of(record, where),
        metadata=metadata_of(record, where),
    )
    check_document(document, where)
    return document


def check_document(document: Document, where: str) -> None:
    """Check that a document can be stored.

    Raises:
        CollectionError: the id is empty, a text is none or holds what is no character,
            or a number is beyond 64 bits.
    """
    if not isinstance(document, Document):
        raise CollectionError(f"{where}: this is {type(document).__name__}. Give a Document.")
    for name, text in (("id", document.id), ("title", document.title), ("text", document.text)):
        if not isinstance(text, str):
            raise CollectionError(f"{where}: '{name}' holds {text!r:.60}. It must be a text.")
    if not isinstance(document.metadata, Mapping) or not all(isinstance(n, str) for n in document.metadata):
        raise CollectionError(f"{where}: the metadata is no mapping from names of fields to values.")
    if not document.id:
        raise CollectionError(f"{where}: {_EMPTY_ID}")
    fields = document.metadata
    values = (document.id, document.title, document.text, *fields, *fields.values())
    if not all(is_text(value) for value in values if isinstance(value, str)):
        raise CollectionError(f"{where}: {HALF_CHARACTER}")

    for name, value in fields.items():
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise CollectionError(
                f"{where}: the field '{name}' is beyond 64 bits. Write it as a text or as a float."
            )


def record_id(record: Mapping[str, Any], where: str) -> str:
    """Return the id of a record.

    Raises:
        CollectionError: there is none, or it is neither a text nor a number.
    """
    for name in ID_FIELDS:
        value = plain(record.get(name))
        if value is None:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise CollectionError(f"{where}: the field '{name}' holds {value}. An id is a text or a number.")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise CollectionError(
                f"{where}: the field '{name}' holds {type(value).__name__}. An id is a text or a number."
            )
        if value == "":
            raise CollectionError(f"{where}: {_EMPTY_ID}")
        return str(value)
    raise CollectionError(f"{where}: the record has no field '_id'. Every record needs one.")


def text_of(record: Mapping[str, Any], where: str) -> str:
    """Return the field ``text`` of a record.

    Raises:
        CollectionError: there is none, or it is not a text.
    """
    text = record.get("text")
    if isinstance(text, str):
        return text
    if "text" in record:
        raise CollectionError(f"{where}: 'text' holds {text!r:.60}. It must be a text.")
    raise CollectionError(f"{where}: the record has no field 'text'. Every record needs one.")


def title_of(record: Mapping[str, Any], where: str) -> str:
    """Return the field ``title`` of a record; a number is written out.

    Raises:
        CollectionError: it is neither a text nor a number.
    """
    title = record.get("title")
    if isinstance(title, str):
        return title
    if not title or (isinstance(title, float) and math.isnan(title)):
        return ""
    if isinstance(title, bool) or not isinstance(title, int | float):
        raise CollectionError(f"{where}: 'title' holds {title!r:.60}. It must be a text.")
    return str(title)


def metadata_of(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the scalar fields of a record that can be filtered by."""
    given = record.get("metadata") or {}
    if not isinstance(given, Mapping):
        raise CollectionError(f"{where}: 'metadata' is {type(given).__name__}. Make it an object of fields.")
    return {name: value for name, value in _fields(record).items() if isinstance(value, _SCALARS)}


def left_out_fields(record: Mapping[str, Any]) -> list[str]:
    """Return the fields of a sound record that are no metadata, since they hold lists or the like.

    A second id is among them: no field can have its name.
    """
    others = [
        name
        for name, value in _fields(record).items()
        if value is not None and not isinstance(value, _SCALARS)
    ]
    used, *more = [name for name in ID_FIELDS if record.get(name) is not None]
    return others + [name for name in more if record[name] != record[used]]


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in record.items() if name not in _OWN_FIELDS}
    fields |= dict(record.get("metadata") or {})
    return {name: plain(value) for name, value in fields.items()}


def plain(value: Any) -> Any:
    """Return a value as a text, a number, or true or false, where it stands for one.

    Dates and times become ISO text, times with a zone in UTC; decimal numbers become
    whole numbers where they have no decimals, and floats otherwise.
    """
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, Decimal):
        has_decimals = not value.is_finite() or int(value.as_tuple().exponent) < 0
        return float(value) if has_decimals else int(value)
    return value.item() if isinstance(value, np.generic) else value


def content_hash(document: Document) -> bytes:
    """Return 16 bytes that differ whenever anything stored of a document differs."""
    fields = sorted(document.metadata.items())
    content: list[Any] = [document.id, document.title, document.text, fields]
    if document.sections:  # others have the hashes that they always had
        content.append([astuple(section) for section in document.sections])
    written = json.dumps(content, ensure_ascii=False).encode()
    return hashlib.blake2b(written, digest_size=16).digest()
