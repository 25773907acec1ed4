"""Collections in files: BEIR folders and files of pairs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from routerretriever.data.document import Document, as_document, identifier, metadata_of, sound_text
from routerretriever.data.jsonl import read_jsonl, read_lines
from routerretriever.data.raw_collection import RawCollection
from routerretriever.errors import CollectionError

SYNTHESIS_REPORT = "synthesis.json"
SPLIT_NAMES = {"validation": "dev", "valid": "dev", "val": "dev", "development": "dev"}
_QUERY_COLUMNS = ("query", "anchor", "question")
_POSITIVE_COLUMNS = ("positive", "pos", "passage", "document", "answer", "text")


def read_documents(path: Path) -> Iterator[Document]:
    """Documents of a JSONL file (optionally gzipped): ``_id``, ``text``, and whatever else.

    Raises:
        CollectionError: names the file and line of the first unreadable or doubled record.
    """
    seen: set[str] = set()
    for where, record in read_jsonl(path):
        document = as_document(record, where)
        if document.id in seen:
            raise CollectionError(f"{where}: the id '{document.id}' stands twice. Make ids unique.")
        seen.add(document.id)
        yield document


def _first_existing(directory: Path, stem: str) -> Path:
    compressed = directory / f"{stem}.jsonl.gz"
    return compressed if compressed.exists() else directory / f"{stem}.jsonl"


def read_beir_directory(directory: Path) -> RawCollection:
    """Read a folder in the layout of BEIR: corpus, queries, qrels."""
    documents = {document.id: document for document in read_documents(_first_existing(directory, "corpus"))}
    queries: dict[str, str] = {}
    generated: dict[str, str] = {}
    for where, record in read_jsonl(_first_existing(directory, "queries")):
        query_id = sound_text(identifier(record, where), where)
        if query_id in queries:
            raise CollectionError(f"{where}: the query id '{query_id}' stands twice. Make ids unique.")
        if not isinstance(record.get("text"), str):
            raise CollectionError(f"{where}: the record has no field 'text'. Every query needs one.")
        queries[query_id] = sound_text(record["text"], where)
        if way := metadata_of(record, where).get("generated"):
            generated[query_id] = str(way)
    if not queries:
        raise CollectionError(f"{directory}: queries.jsonl is empty. Add queries, or index the corpus alone.")
    judgements = {
        SPLIT_NAMES.get(path.stem, path.stem): list(_read_qrels(path))
        for path in sorted((directory / "qrels").glob("*.tsv"))
    }
    if not judgements:
        raise CollectionError(f"{directory} has no qrels/<split>.tsv. Add relevance judgements.")
    return RawCollection(documents, queries, judgements, generated, generated_from(directory))


def generated_from(directory: Path) -> str:
    """The collection that a synthesised one was made from, as its report says; empty for any other folder.

    Raises:
        CollectionError: the report cannot be read.
    """
    path = directory / SYNTHESIS_REPORT
    if not path.is_file():
        return ""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["source"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CollectionError(
            f"{path} is damaged ({type(error).__name__}: {error}). It says where the queries come from: restore it."
        ) from error


def _read_qrels(path: Path) -> Iterator[tuple[str, str, str, int]]:
    for number, (where, line) in enumerate(read_lines(path)):
        parts = line.rstrip("\r\n").split("\t")
        if number == 0 and parts[-1].strip() == "score":
            continue
        try:
            query_id, document_id, grade = parts
            yield where, query_id, document_id, int(float(grade))
        except ValueError as error:
            raise CollectionError(
                f"{where}: expected 'query-id<TAB>corpus-id<TAB>score', found {line.rstrip()!r}."
            ) from error


def read_pairs(path: Path) -> RawCollection:
    """Read a file of pairs: a query and its relevant text on every line."""
    raw = RawCollection({}, {}, {})
    document_ids: dict[str, str] = {}
    query_ids: dict[tuple[str, str], str] = {}
    for where, record in _pair_records(path):
        query = _column(record, _QUERY_COLUMNS, where)
        positive = _column(record, _POSITIVE_COLUMNS, where)
        split = SPLIT_NAMES.get(str(record.get("split") or "train"), str(record.get("split") or "train"))
        document_id = document_ids.setdefault(positive, f"d{len(document_ids)}")
        query_id = query_ids.setdefault((split, query), f"q{len(query_ids)}")
        title = sound_text(str(record.get("title") or ""), where)
        raw.documents[document_id] = Document(document_id, positive, title)
        raw.queries[query_id] = query
        raw.judgements.setdefault(split, []).append((where, query_id, document_id, 1))
    if not raw.queries:
        raise CollectionError(f"{path} is empty. A pairs file needs a query and a positive on every line.")
    return raw


def _pair_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix in (".jsonl", ".json"):
        yield from read_jsonl(path)
    elif suffix in (".csv", ".tsv"):
        lines = (line for _, line in read_lines(path))
        reader = csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ",")
        for record in reader:
            yield f"{path}, line {reader.line_num}", dict(record)
    else:
        raise CollectionError(f"{path}: unknown kind of file. A pairs file ends in .jsonl, .csv or .tsv.")


def _column(record: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    for name in names:
        if isinstance(record.get(name), str) and record[name].strip():
            return sound_text(str(record[name]), where)
    raise CollectionError(f"{where}: no text in a column named {' or '.join(names)}.")
