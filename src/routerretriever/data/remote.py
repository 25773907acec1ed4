"""Collections from the hub and from ir_datasets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from routerretriever.data.document import Document
from routerretriever.data.files import SPLIT_NAMES
from routerretriever.data.raw_collection import RawCollection
from routerretriever.errors import CollectionError, MissingExtraError


def read_hub(name: str) -> RawCollection:
    """BEIR's layout on the hub: configurations 'corpus' and 'queries', judgements in ``NAME-qrels``."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("hub", "datasets") from error
    try:
        corpus = datasets.load_dataset(name, "corpus", split="corpus")
        query_rows = datasets.load_dataset(name, "queries", split="queries")
        qrels = datasets.load_dataset(f"{name}-qrels")
    except Exception as error:  # the library raises many kinds, some of them undocumented
        raise CollectionError(
            f"The data set '{name}' could not be read from the hub ({type(error).__name__}: {error}). "
            "Check the name and the connection, or give a local BEIR directory."
        ) from error
    documents = {str(r["_id"]): Document(str(r["_id"]), r["text"], r.get("title") or "") for r in corpus}
    queries = {str(row["_id"]): row["text"] for row in query_rows}
    judgements = {
        SPLIT_NAMES.get(split, split): [
            (f"{name}-qrels/{split}", str(r["query-id"]), str(r["corpus-id"]), int(r["score"])) for r in rows
        ]
        for split, rows in qrels.items()
    }
    return RawCollection(documents, queries, judgements)


def hub_rows(name: str) -> Iterable[Mapping[str, Any]]:
    """Return the rows of a data set on the Hugging Face hub."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("hub", "datasets") from error
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(name, split="train")
    except Exception as error:  # the library raises many kinds, some of them undocumented
        raise CollectionError(
            f"The data set '{name}' could not be read from the hub ({type(error).__name__}: {error}). "
            "Check the name and the connection."
        ) from error
    return rows


def read_ir_datasets(dataset_id: str) -> RawCollection:
    """Read a data set of ir_datasets with its splits."""
    try:
        import ir_datasets
    except ImportError as error:
        raise MissingExtraError("ir-datasets", "ir_datasets") from error
    try:
        dataset = ir_datasets.load(dataset_id)
    except KeyError as error:
        raise CollectionError(f"ir_datasets knows no data set '{dataset_id}'. See ir-datasets.com.") from error
    parts = {dataset_id.split("/")[-1]: dataset} if dataset.has_qrels() else {}
    for split in ("train", "dev", "validation", "test"):
        if f"{dataset_id}/{split}" in ir_datasets.registry:
            parts[split] = ir_datasets.load(f"{dataset_id}/{split}")
    raw = RawCollection({}, {}, {})
    for row in dataset.docs_iter():
        title = str(getattr(row, "title", "") or "")
        text = getattr(row, "text", None)
        raw.documents[row.doc_id] = Document(row.doc_id, row.default_text() if text is None else text, title)
    for split, part in parts.items():
        raw.queries.update({row.query_id: row.default_text() for row in part.queries_iter()})
        raw.judgements[SPLIT_NAMES.get(split, split)] = [
            (f"ir_datasets:{dataset_id}/{split}", row.query_id, row.doc_id, int(row.relevance))
            for row in part.qrels_iter()
        ]
    return raw
