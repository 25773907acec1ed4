"""What a reader found, and the checks across documents, queries and judgements."""

from __future__ import annotations

from dataclasses import dataclass, field

from routerretriever.data.document import Document
from routerretriever.data.splits import Split
from routerretriever.errors import CollectionError


@dataclass(slots=True)
class RawCollection:
    """What a reader found, before any check across files."""

    documents: dict[str, Document]
    queries: dict[str, str]
    # split → list of (where it stands, query id, document id, grade)
    judgements: dict[str, list[tuple[str, str, str, int]]]
    generated: dict[str, str] = field(default_factory=dict)
    source: str = ""


def check_collection(raw: RawCollection, source: str, strict: bool) -> tuple[tuple[Document, ...], dict[str, Split]]:
    """Return the documents and the splits, after checking that the judgements fit them."""
    if not raw.documents:
        raise CollectionError(f"{source} has no documents. Check that corpus.jsonl is not empty.")
    splits: dict[str, Split] = {}
    for name, judgements in raw.judgements.items():
        qrels: dict[str, dict[str, int]] = {}
        for where, query_id, document_id, grade in judgements:
            missing = _missing_end(raw, query_id, document_id)
            if missing and strict:
                raise CollectionError(
                    f"{where}: the judgement points to {missing}, which is not in the collection. "
                    "Add it, or pass strict=False (command line: --lenient) to drop such judgements."
                )
            if not missing:
                qrels.setdefault(query_id, {})[document_id] = grade
        empty = [query_id for query_id, grades in qrels.items() if max(grades.values()) <= 0]
        if empty and strict:
            raise CollectionError(
                f"{source}, split '{name}': {len(empty)} queries have no positive document, the first is "
                f"'{empty[0]}'. Remove them, or pass strict=False (command line: --lenient)."
            )
        for query_id in empty:
            del qrels[query_id]
        if qrels:
            splits[name] = Split(name, {q: raw.queries[q] for q in qrels}, qrels)
    return tuple(raw.documents.values()), splits


def _missing_end(raw: RawCollection, query_id: str, document_id: str) -> str | None:
    if query_id not in raw.queries:
        return f"query '{query_id}'"
    if document_id not in raw.documents:
        return f"document '{document_id}'"
    return None
