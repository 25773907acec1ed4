"""A document, and the one check of what can be stored of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from routerretriever.errors import CollectionError

_NO_TEXT = "it holds half of a surrogate pair (such as \\ud800), which is no character. Remove it."
_ID_COLUMNS = ("_id", "id", "doc_id")


@dataclass(frozen=True, slots=True)
class Document:
    """One retrievable text; ``metadata`` holds scalar fields to filter by."""

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """What is encoded: title and text, BEIR's convention."""
        return f"{self.title} {self.text}".strip()


def content_hash(document: Document) -> bytes:
    """16 bytes of everything that is stored of a document; another content has others."""
    content = [document.id, document.title, document.text, sorted(document.metadata.items())]
    return hashlib.blake2b(json.dumps(content, ensure_ascii=False).encode(), digest_size=16).digest()


def as_document(record: Mapping[str, Any], where: str) -> Document:
    """A record's id, title, text and scalar fields; ``where`` it stands is for the error.

    Raises:
        CollectionError: it has no id or no text, or a value that cannot be stored.
    """
    document_id = identifier(record, where)
    if not isinstance(record.get("text"), str):
        raise CollectionError(f"{where}: the record has no field 'text'. Every document needs one.")
    title = str(record.get("title") or "")
    document = Document(document_id, record["text"], title, metadata_of(record, where))
    if fault := fault_of(document):
        raise CollectionError(f"{where}: {fault}")
    return document


def identifier(record: Mapping[str, Any], where: str) -> str:
    """Return the record's id, or raise naming ``where``."""
    for key in _ID_COLUMNS:
        if record.get(key) is not None:
            return str(record[key])
    raise CollectionError(f"{where}: the record has no field '_id'. Every record needs one.")


def metadata_of(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the fields of a record that are metadata: its own, and those below ``metadata``."""
    own = {"text", "title", "metadata", *_ID_COLUMNS}
    given = record.get("metadata") or {}
    if not isinstance(given, Mapping):
        raise CollectionError(f"{where}: 'metadata' is {type(given).__name__}. Make it an object of fields.")
    fields = {key: value for key, value in record.items() if key not in own} | dict(given)
    return {key: value for key, value in fields.items() if isinstance(value, str | int | float | bool)}


def fault_of(document: Document) -> str | None:
    """What keeps a document from being stored; None if nothing does."""
    fields = document.metadata
    texts = (document.id, document.title, document.text, *fields, *fields.values())
    if not all(_is_text(text) for text in texts if isinstance(text, str)):
        return _NO_TEXT
    for name, value in fields.items():
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return f"the field '{name}' is beyond 64 bits. Write it as a text or as a float."
    return None


def _is_text(value: str) -> bool:
    """JSON can spell half of a surrogate pair, which nothing can store or show."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def sound_text(text: str, where: str) -> str:
    """Return the text, or raise naming ``where`` if it cannot be stored."""
    if not _is_text(text):
        raise CollectionError(f"{where}: {_NO_TEXT}")
    return text
