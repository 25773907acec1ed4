"""What a reader found, and the checks that every source goes through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from routerretriever.data.document import (
    Document,
    as_document,
    left_out_fields,
    metadata_of,
    record_id,
    text_of,
)
from routerretriever.data.splits import Split
from routerretriever.data.text import check_text
from routerretriever.errors import CollectionError

_SPLIT_NAMES = {
    "train": "train",
    "dev": "dev",
    "development": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
}


def split_name(given: str, where: str) -> str:
    """Return the name of a split as it is used here; ``Validation`` and the like are ``dev``.

    Raises:
        CollectionError: the name holds what is no character.
    """
    return _SPLIT_NAMES.get(given.strip().casefold(), check_text(given, where))


class Judgement(NamedTuple):
    """One line of relevance judgements; ``where`` names its file and line."""

    where: str
    query_id: str
    document_id: str
    grade: int


@dataclass(slots=True, kw_only=True)
class RawCollection:
    """What a reader found, before any check across files.

    Attributes:
        left_out: fields of documents that were not kept, because they hold lists or the like.
        generated: query id → how it was made, for queries that nobody asked.
        source: of a synthesised collection, the one its queries were made from.
    """

    documents: dict[str, Document] = field(default_factory=dict)
    queries: dict[str, str] = field(default_factory=dict)
    judgements: dict[str, list[Judgement]] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    generated: dict[str, str] = field(default_factory=dict)
    source: str = ""

    def add_document(self, record: Mapping[str, Any], where: str) -> None:
        """Check a record and keep it as a document.

        Raises:
            CollectionError: it cannot be stored, or its id is taken.
        """
        document = as_document(record, where)
        if document.id in self.documents:
            raise doubled_id("document", document.id, where)
        self.documents[document.id] = document
        self.left_out.update(left_out_fields(record))

    def add_query(self, record: Mapping[str, Any], where: str) -> None:
        """Check a record and keep it as a query.

        Raises:
            CollectionError: it has no id or no text, or its id is taken.
        """
        query_id = check_text(record_id(record, where), where)
        if query_id in self.queries:
            raise doubled_id("query", query_id, where)
        self.queries[query_id] = check_text(text_of(record, where), where)
        if method := metadata_of(record, where).get("generated"):
            self.generated[query_id] = str(method)

    def judge(self, split: str, judgement: Judgement) -> None:
        """Keep a judgement; see :func:`split_name`."""
        self.judgements.setdefault(split_name(split, judgement.where), []).append(judgement)


def doubled_id(kind: str, given: str, where: str) -> CollectionError:
    """Return the error for an id that was used before."""
    return CollectionError(f"{where}: the {kind} id '{given}' is used twice. Make ids unique.")


def check_collection(
    raw: RawCollection, source: str, strict: bool
) -> tuple[tuple[Document, ...], dict[str, Split]]:
    """Return the documents and splits of a collection that does not contradict itself.

    Args:
        raw: what a reader found.
        source: name of the source, for errors.
        strict: ``False`` drops judgements that contradict each other or name an unknown
            document or query, and queries without a positive document.

    Raises:
        CollectionError: there are no documents, or ``strict`` and something would be dropped.
    """
    if not raw.documents:
        raise CollectionError(f"{source} has no documents. Add some to it.")

    splits: dict[str, Split] = {}
    for name, judgements in raw.judgements.items():
        qrels = _grades(raw, judgements, strict)
        unanswered = [query for query, grades in qrels.items() if max(grades.values()) <= 0]
        if unanswered and strict:
            raise CollectionError(
                f"{source}, split '{name}': {len(unanswered)} queries have no positive "
                f"document; the first is '{unanswered[0]}'. Remove them, or {_DROP}."
            )
        for query_id in unanswered:
            del qrels[query_id]
        if qrels:
            splits[name] = Split(name, {q: raw.queries[q] for q in qrels}, qrels)
    return tuple(raw.documents.values()), splits


_DROP = "drop them with strict=False (command line: --lenient)"


def _grades(raw: RawCollection, judgements: list[Judgement], strict: bool) -> dict[str, dict[str, int]]:
    """Return query id → document id → grade."""
    grades: dict[tuple[str, str], int] = {}
    contradicted: set[tuple[str, str]] = set()
    for where, query_id, document_id, grade in judgements:
        unknown = _unknown_end(raw, query_id, document_id)
        if unknown and strict:
            raise CollectionError(
                f"{where}: the judgement names {unknown}, which is not in the collection. "
                f"Add it, or remove such judgements, or {_DROP}."
            )
        if unknown:
            continue

        pair = query_id, document_id
        before = grades.setdefault(pair, grade)
        if before != grade and strict:
            raise CollectionError(
                f"{where}: document '{document_id}' has grade {grade} for query "
                f"'{query_id}' here and grade {before} before. Keep one of them, or {_DROP}."
            )
        if before != grade:
            contradicted.add(pair)

    qrels: dict[str, dict[str, int]] = {}
    for pair, grade in grades.items():
        if pair not in contradicted:
            qrels.setdefault(pair[0], {})[pair[1]] = grade
    return qrels


def _unknown_end(raw: RawCollection, query_id: str, document_id: str) -> str:
    if query_id not in raw.queries:
        return f"query '{query_id}'"
    return "" if document_id in raw.documents else f"document '{document_id}'"
