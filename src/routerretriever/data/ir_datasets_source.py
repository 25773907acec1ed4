"""Collections from ``ir_datasets``."""

from __future__ import annotations

from typing import Any

from routerretriever.data.qrels import whole_grade
from routerretriever.data.raw_collection import Judgement, RawCollection
from routerretriever.errors import CollectionError, MissingExtraError


def read_ir_datasets(dataset_id: str) -> RawCollection:
    """Read a data set and those of its parts that are called train, dev or test.

    Raises:
        MissingExtraError: the package is not installed.
        CollectionError: there is no such data set, or it fails a check.
    """
    try:
        import ir_datasets
    except ImportError as error:
        raise MissingExtraError("ir-datasets", "ir_datasets") from error
    try:
        dataset = ir_datasets.load(dataset_id)
    except KeyError as error:
        raise CollectionError(
            f"ir_datasets knows no data set '{dataset_id}'. See ir-datasets.com."
        ) from error

    parts = {dataset_id.split("/")[-1]: dataset} if dataset.has_qrels() else {}
    for split in ("train", "dev", "validation", "test"):
        if f"{dataset_id}/{split}" in ir_datasets.registry:
            parts[split] = ir_datasets.load(f"{dataset_id}/{split}")

    raw = RawCollection()
    for number, row in enumerate(dataset.docs_iter(), start=1):
        raw.add_document(_document(row), f"ir_datasets:{dataset_id}, document {number}")
    for split, part in parts.items():
        _add_part(raw, split, part, f"ir_datasets:{dataset_id}/{split}")
    return raw


def _document(row: Any) -> dict[str, Any]:
    """Return a record with all fields; where the default text is made of several texts, only that."""
    text = getattr(row, "text", None)
    record = {}
    for name, value in row._asdict().items():
        if name != "doc_id" and (text is not None or not isinstance(value, str)):
            record[name] = value
    record["_id"] = row.doc_id
    record["text"] = row.default_text() if text is None else text
    record["title"] = getattr(row, "title", "")
    return record


def _add_part(raw: RawCollection, split: str, part: Any, where: str) -> None:
    for row in part.queries_iter():
        text = row.default_text()
        # A data set repeats queries of its parts.
        if raw.queries.get(row.query_id) != text:
            raw.add_query({"_id": row.query_id, "text": text}, where)
    for row in part.qrels_iter():
        grade = whole_grade(row.relevance, where)
        raw.judge(split, Judgement(where, row.query_id, row.doc_id, grade))
