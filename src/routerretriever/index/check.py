"""The one check of documents before they are written, whichever way they came."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from routerretriever.data.document import Document, check_document
from routerretriever.data.text import is_text
from routerretriever.errors import CollectionError
from routerretriever.index.fields import fits, is_missing, name_fault, new_fields, value_type


@dataclass(frozen=True, slots=True)
class DocumentCheck:
    """Tells which documents the index can hold.

    Attributes:
        columns: types of the metadata columns that exist or are about to be added.
        about_new_fields: what to do about a field without a column, for the error.
    """

    columns: Mapping[str, pa.DataType]
    about_new_fields: str = ""

    def check(self, document: Document, where: str) -> None:
        """Check one document.

        Raises:
            CollectionError: the document cannot be stored; the message begins with
                ``where``.
        """
        check_fields(document, where)
        for name, value in document.metadata.items():
            fault = None if is_missing(value) else self._column_fault(name, value)
            if fault is not None:
                raise CollectionError(f"{where}: {fault}")

    def _column_fault(self, name: str, value: Any) -> str | None:
        column = self.columns.get(name)
        if column is None:
            known = ", ".join(sorted(self.columns)) or "it has none"
            return f"the field '{name}' is not one of the index's: {known}. {self.about_new_fields}"
        if not fits(value, column):
            return (
                f"the field '{name}' is {type(value).__name__} here and {column} in the index. "
                "Use one type for a field."
            )
        return None


def check_fields(document: Document, where: str) -> None:
    """Check what no index could hold, whatever its columns.

    Raises:
        CollectionError: a text, the name of a field or its value cannot be stored.
    """
    check_document(document, where)
    for name, value in document.metadata.items():
        if value is None:  # as in a file, the document does not have the field
            continue
        fault = name_fault(name)
        if fault is None and not is_missing(value) and value_type(value) is None:
            fault = f"the field '{name}' holds {type(value).__name__}. Use a text, a number, true or false."
        if fault is not None:
            raise CollectionError(f"{where}: {fault}")


def checked_fields(
    documents: Sequence[Document],
    present: Mapping[str, pa.DataType],
    check_of: Callable[[Mapping[str, pa.DataType]], DocumentCheck],
) -> dict[str, pa.DataType]:
    """Check all documents of a call, and return the columns that they need beside those present.

    Args:
        documents: in the order in which errors number them.
        present: metadata columns that there are.
        check_of: returns the check of the store, given the new columns.

    Raises:
        CollectionError: a document cannot be stored, or two have the same id.
    """
    for number, document in enumerate(documents, start=1):
        check_fields(document, f"Document {number}")
    check_ids(documents)
    fields = new_fields(documents, present)
    check = check_of(fields)
    for number, document in enumerate(documents, start=1):
        check.check(document, f"Document {number}")
    return fields


def checked_ids(ids: Iterable[str]) -> list[str]:
    """Return ids of documents that are to be found.

    Raises:
        CollectionError: they are one text, whose characters would be the ids, or one is
            no text.
    """
    if isinstance(ids, str):
        raise CollectionError(f"{ids!r:.60} is one text. Give a list of ids.")
    found = list(ids)
    for document_id in found:
        if not isinstance(document_id, str) or not is_text(document_id):
            raise CollectionError(f"An id is a text, not {document_id!r:.60}.")
    return found


def check_ids(documents: Sequence[Document]) -> None:
    """Check that no two documents of one call have the same id.

    Raises:
        CollectionError: two have; names both.
    """
    first: dict[str, int] = {}
    for number, document in enumerate(documents, start=1):
        earlier = first.setdefault(document.id, number)
        if earlier != number:
            raise CollectionError(
                f"Document {number}: document {earlier} has the id '{document.id}' too. Make ids unique."
            )
