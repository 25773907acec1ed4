"""Collections in BEIR's layout: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from routerretriever.data.document import Document
from routerretriever.data.jsonl import read_jsonl
from routerretriever.data.names import data_suffix, without_data_suffix
from routerretriever.data.qrels import read_qrels
from routerretriever.data.raw_collection import RawCollection
from routerretriever.errors import CollectionError

SYNTHESIS_REPORT = "synthesis.json"
_ENDINGS = (".jsonl.gz", ".jsonl.zst", ".jsonl")


def read_beir_folder(folder: Path) -> RawCollection:
    """Read a folder in BEIR's layout.

    Raises:
        CollectionError: a file is missing or cannot be understood.
    """
    raw = RawCollection(source=generated_from(folder))
    for where, record in read_jsonl(_needed_file(folder, "corpus")):
        raw.add_document(record, where)
    for where, record in read_jsonl(_needed_file(folder, "queries")):
        raw.add_query(record, where)
    if not raw.queries:
        raise CollectionError(f"{folder}: queries.jsonl is empty. Add queries, or index the corpus alone.")

    for path in _qrels_files(folder / "qrels"):
        for judgement in read_qrels(path):
            raw.judge(without_data_suffix(path.name), judgement)
    if not raw.judgements:
        raise CollectionError(
            f"{folder} has no judgements in qrels/<split>.tsv. Add some, for example as qrels/test.tsv."
        )
    return raw


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a JSONL file.

    Raises:
        CollectionError: names the first line that cannot be used.
    """
    raw = RawCollection()
    for where, record in read_jsonl(path):
        raw.add_document(record, where)
    yield from raw.documents.values()


def corpus_file(folder: Path) -> Path | None:
    """Return the file of a folder's documents; ``None`` if it is not in BEIR's layout."""
    return _file(folder, "corpus")


def generated_from(folder: Path) -> str:
    """Return the collection that a synthesised one was made from.

    It is empty for any other folder.

    Raises:
        CollectionError: the report of the synthesis cannot be read.
    """
    path = folder / SYNTHESIS_REPORT
    if not path.is_file():
        return ""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["source"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CollectionError(
            f"{path} is damaged ({type(error).__name__}: {error}). It says where the queries come from: restore it."
        ) from error


def _qrels_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in files if data_suffix(path.name) == ".tsv")


def _file(folder: Path, stem: str) -> Path | None:
    paths = (folder / f"{stem}{ending}" for ending in _ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def _needed_file(folder: Path, stem: str) -> Path:
    path = _file(folder, stem)
    if path is None:
        raise CollectionError(f"{folder / stem}.jsonl is missing. A collection in BEIR's layout needs it.")
    return path
