"""Collections: documents, queries and relevance judgements, from wherever users keep them.

``Collection.load`` reads a BEIR directory, a hub data set in BEIR's layout (``BeIR/scifact``), an
``ir_datasets:`` id, or a file of pairs (JSONL, CSV or TSV with a query and a positive text).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Self

from routerretriever.errors import CollectionError, MissingExtraError

HELD_OUT_SHARE = 0.2
"""Share of the train queries held out where a collection has no dev split."""

SYNTHESIS_REPORT = "synthesis.json"
HELD_OUT_LIMIT = 500
"""Most held-out queries used: enough for a stable mean, cheap to encode with every expert."""

_SPLIT_NAMES = {"validation": "dev", "valid": "dev", "val": "dev", "development": "dev"}
_QUERY_COLUMNS = ("query", "anchor", "question")
_POSITIVE_COLUMNS = ("positive", "pos", "passage", "document", "answer", "text")
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


@dataclass(frozen=True, slots=True)
class Split:
    """The judged queries of one split: query id → text, and query id → document id → grade."""

    name: str
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    def __len__(self) -> int:
        return len(self.queries)

    def sample(self, limit: int | None, seed: int = 0) -> Split:
        """At most ``limit`` queries, the same ones for the same seed whatever else is there."""
        if limit is None or len(self) <= limit:
            return self
        chosen = set(sorted(self.queries, key=lambda query_id: _stable_hash(f"{seed}:{query_id}"))[:limit])
        return self.restrict(chosen)

    def restrict(self, query_ids: Iterable[str]) -> Split:
        """Only these queries, in their original order."""
        wanted = set(query_ids)
        kept = {query_id: text for query_id, text in self.queries.items() if query_id in wanted}
        return Split(self.name, kept, {query_id: self.qrels[query_id] for query_id in kept})


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents and judged queries of one domain.

    Attributes:
        name: short name; an expert trained on the collection bears it by default.
        documents: in a stable order.
        splits: split name → judged queries.
        ignore_identical_ids: BEIR's rule: a document whose id equals the query's is not a result
            (ArguAna and Quora ask with texts that are themselves documents).
        generated: query id → how it was made, for queries that nobody asked (``metadata.generated``).
        source: of a synthesised collection, the one whose documents its queries were made from; else empty.
    """

    name: str
    documents: tuple[Document, ...]
    splits: Mapping[str, Split]
    ignore_identical_ids: bool = False
    generated: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    @classmethod
    def load(cls, source: str | Path, *, name: str | None = None, strict: bool = True) -> Self:
        """Read a collection.

        Args:
            source: a BEIR directory, a pairs file, a hub name, or ``ir_datasets:ID``.
            name: overrides the name derived from the source.
            strict: ``False`` drops judgements of unknown documents or queries, and queries
                without a positive, instead of raising.

        Raises:
            CollectionError: the source does not exist, cannot be read, or contradicts itself.
        """
        text = str(source)
        path = Path(text).expanduser()
        if text.startswith("ir_datasets:"):
            reader = _read_ir_datasets(text.removeprefix("ir_datasets:"))
        elif path.is_dir():
            reader = _read_beir_directory(path)
        elif path.is_file():
            reader = _read_pairs(path)
        elif text.count("/") == 1 and not text.startswith((".", "/", "~")):
            reader = _read_hub(text)
        else:
            raise CollectionError(
                f"There is no collection at '{text}'. Give a BEIR directory (corpus.jsonl, queries.jsonl, "
                "qrels/), a pairs file (.jsonl, .csv, .tsv), a hub name such as BeIR/scifact, or "
                "ir_datasets:ID."
            )
        default_name = path.resolve().stem if path.exists() else text.replace(":", "/").split("/")[-1]
        checked = _checked(reader, text, strict)
        return cls(name or default_name, *checked, generated=reader.generated, source=reader.source)

    def split(self, name: str) -> Split:
        """One split by name.

        Raises:
            CollectionError: there is no such split.
        """
        if name not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise CollectionError(f"The collection '{self.name}' has no split '{name}'. It has: {known}.")
        return self.splits[name]

    def tested_on(self, split: str) -> Self:
        """This collection with another split as ``test``; under its own name it is gone.

        Raises:
            CollectionError: there is no such split.
        """
        others = {name: part for name, part in self.splits.items() if name not in (split, "test")}
        return replace(self, splits={**others, "test": self.split(split)})

    def with_generated_queries(self, source: str) -> Self:
        """This collection with generated queries as its train split.

        Args:
            source: a hub name in the layout of ``BeIR/…-generated-queries``, or a JSONL file of the same:
                ``_id`` of the document and ``query``.

        Raises:
            CollectionError: the source cannot be read, or names no document of this collection.
        """
        path = Path(source).expanduser()
        records = (record for _, record in _read_jsonl(path)) if path.is_file() else _hub_rows(source)
        known = set(self.document_ids)
        queries, qrels = {}, {}
        for number, record in enumerate(records):
            if str(record.get("_id")) in known and record.get("query"):
                queries[f"generated-{number}"] = _sound(str(record["query"]), source)
                qrels[f"generated-{number}"] = {str(record["_id"]): 1}
        if not queries:
            raise CollectionError(f"'{source}' holds no generated query for a document of '{self.name}'.")
        return replace(
            self,
            splits={**self.splits, "train": Split("train", queries, qrels)},
            generated={**self.generated, **dict.fromkeys(queries, "generated-queries")},
        )

    def train_and_held_out(self) -> tuple[Split, Split]:
        """Queries to train on, and disjoint ones to stop early and to measure gains on.

        The held-out queries are the dev split, or a fixed share of train chosen by a hash of the
        query id, so that training and the pilot library agree on them without sharing state.
        """
        train = self.split("train")
        if "dev" in self.splits:
            seen = {text.strip().lower() for text in train.queries.values()}
            dev = self.splits["dev"]
            fresh = dev.restrict(q for q, text in dev.queries.items() if text.strip().lower() not in seen)
            return train, Split("dev", fresh.queries, fresh.qrels).sample(HELD_OUT_LIMIT)
        # Hashing the text keeps copies of one question on the same side.
        ranked = sorted(train.queries, key=lambda q: _stable_hash(train.queries[q].strip().lower()))
        cut = min(HELD_OUT_LIMIT, max(1, round(HELD_OUT_SHARE * len(ranked))))
        while cut < len(ranked) and train.queries[ranked[cut]] == train.queries[ranked[cut - 1]]:
            cut += 1
        held_out = train.restrict(ranked[:cut])
        return train.restrict(ranked[cut:]), Split("train (held out)", held_out.queries, held_out.qrels)

    @property
    def contents(self) -> list[str]:
        """The text of every document, as it is encoded."""
        return [document.content for document in self.documents]

    @property
    def document_ids(self) -> list[str]:
        """The id of every document, in order."""
        return [document.id for document in self.documents]


@dataclass(slots=True)
class _Raw:
    """What a reader found, before any check across files."""

    documents: dict[str, Document]
    queries: dict[str, str]
    # split → list of (where it stands, query id, document id, grade)
    judgements: dict[str, list[tuple[str, str, str, int]]]
    generated: dict[str, str] = field(default_factory=dict)
    source: str = ""


def _checked(raw: _Raw, source: str, strict: bool) -> tuple[tuple[Document, ...], dict[str, Split]]:
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


def _missing_end(raw: _Raw, query_id: str, document_id: str) -> str | None:
    if query_id not in raw.queries:
        return f"query '{query_id}'"
    if document_id not in raw.documents:
        return f"document '{document_id}'"
    return None


def _stable_hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


# -- files -----------------------------------------------------------------------------------------


def read_documents(path: Path) -> Iterator[Document]:
    """Documents of a JSONL file (optionally gzipped): ``_id``, ``text``, and whatever else.

    Raises:
        CollectionError: names the file and line of the first unreadable or doubled record.
    """
    seen: set[str] = set()
    for where, record in _read_jsonl(path):
        document = as_document(record, where)
        if document.id in seen:
            raise CollectionError(f"{where}: the id '{document.id}' stands twice. Make ids unique.")
        seen.add(document.id)
        yield document


def as_document(record: Mapping[str, Any], where: str) -> Document:
    """A record's id, title, text and scalar fields; ``where`` it stands is for the error.

    Raises:
        CollectionError: it has no id or no text, or a value that cannot be stored.
    """
    document_id = _identifier(record, where)
    if not isinstance(record.get("text"), str):
        raise CollectionError(f"{where}: the record has no field 'text'. Every document needs one.")
    title = str(record.get("title") or "")
    document = Document(document_id, record["text"], title, _metadata(record, where))
    if fault := fault_of(document):
        raise CollectionError(f"{where}: {fault}")
    return document


def _identifier(record: Mapping[str, Any], where: str) -> str:
    for key in _ID_COLUMNS:
        if record.get(key) is not None:
            return str(record[key])
    raise CollectionError(f"{where}: the record has no field '_id'. Every record needs one.")


def _metadata(record: Mapping[str, Any], where: str) -> dict[str, Any]:
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


def _sound(text: str, where: str) -> str:
    if not _is_text(text):
        raise CollectionError(f"{where}: {_NO_TEXT}")
    return text


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file and line number, line) of a text file; reading faults become CollectionError."""
    number = 0
    try:
        with _open_text(path) as file:
            for line in file:
                number += 1
                if line.strip():
                    yield f"{path}, line {number}", line
    except FileNotFoundError as error:
        raise CollectionError(f"{path} is missing. A BEIR directory needs it.") from error
    except UnicodeDecodeError as error:
        raise CollectionError(
            f"{path}, after line {number}: not UTF-8 ({error.reason}). Convert it, for example with iconv."
        ) from error
    except (OSError, EOFError) as error:
        raise CollectionError(f"{path}, after line {number}: cannot be read ({error}).") from error


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, line in _read_lines(path):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise CollectionError(
                f"{where}: not valid JSON ({error}). The file may be truncated; write it again."
            ) from error
        if not isinstance(record, dict):
            raise CollectionError(f"{where}: expected a JSON object, found {type(record).__name__}.")
        yield where, record


def _first_existing(directory: Path, stem: str) -> Path:
    compressed = directory / f"{stem}.jsonl.gz"
    return compressed if compressed.exists() else directory / f"{stem}.jsonl"


def _read_beir_directory(directory: Path) -> _Raw:
    documents = {document.id: document for document in read_documents(_first_existing(directory, "corpus"))}
    queries: dict[str, str] = {}
    generated: dict[str, str] = {}
    for where, record in _read_jsonl(_first_existing(directory, "queries")):
        query_id = _sound(_identifier(record, where), where)
        if query_id in queries:
            raise CollectionError(f"{where}: the query id '{query_id}' stands twice. Make ids unique.")
        if not isinstance(record.get("text"), str):
            raise CollectionError(f"{where}: the record has no field 'text'. Every query needs one.")
        queries[query_id] = _sound(record["text"], where)
        if way := _metadata(record, where).get("generated"):
            generated[query_id] = str(way)
    if not queries:
        raise CollectionError(f"{directory}: queries.jsonl is empty. Add queries, or index the corpus alone.")
    judgements = {
        _SPLIT_NAMES.get(path.stem, path.stem): list(_read_qrels(path))
        for path in sorted((directory / "qrels").glob("*.tsv"))
    }
    if not judgements:
        raise CollectionError(f"{directory} has no qrels/<split>.tsv. Add relevance judgements.")
    return _Raw(documents, queries, judgements, generated, generated_from(directory))


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
    for number, (where, line) in enumerate(_read_lines(path)):
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


# -- pairs -----------------------------------------------------------------------------------------


def _read_pairs(path: Path) -> _Raw:
    raw = _Raw({}, {}, {})
    document_ids: dict[str, str] = {}
    query_ids: dict[tuple[str, str], str] = {}
    for where, record in _pair_records(path):
        query = _column(record, _QUERY_COLUMNS, where)
        positive = _column(record, _POSITIVE_COLUMNS, where)
        split = _SPLIT_NAMES.get(str(record.get("split") or "train"), str(record.get("split") or "train"))
        document_id = document_ids.setdefault(positive, f"d{len(document_ids)}")
        query_id = query_ids.setdefault((split, query), f"q{len(query_ids)}")
        title = _sound(str(record.get("title") or ""), where)
        raw.documents[document_id] = Document(document_id, positive, title)
        raw.queries[query_id] = query
        raw.judgements.setdefault(split, []).append((where, query_id, document_id, 1))
    if not raw.queries:
        raise CollectionError(f"{path} is empty. A pairs file needs a query and a positive on every line.")
    return raw


def _pair_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix in (".jsonl", ".json"):
        yield from _read_jsonl(path)
    elif suffix in (".csv", ".tsv"):
        lines = (line for _, line in _read_lines(path))
        reader = csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ",")
        for record in reader:
            yield f"{path}, line {reader.line_num}", dict(record)
    else:
        raise CollectionError(f"{path}: unknown kind of file. A pairs file ends in .jsonl, .csv or .tsv.")


def _column(record: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    for name in names:
        if isinstance(record.get(name), str) and record[name].strip():
            return _sound(str(record[name]), where)
    raise CollectionError(f"{where}: no text in a column named {' or '.join(names)}.")


# -- other sources ---------------------------------------------------------------------------------


def _read_hub(name: str) -> _Raw:
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
        _SPLIT_NAMES.get(split, split): [
            (f"{name}-qrels/{split}", str(r["query-id"]), str(r["corpus-id"]), int(r["score"])) for r in rows
        ]
        for split, rows in qrels.items()
    }
    return _Raw(documents, queries, judgements)


def _hub_rows(name: str) -> Iterable[Mapping[str, Any]]:
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


def _read_ir_datasets(dataset_id: str) -> _Raw:
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
    raw = _Raw({}, {}, {})
    for row in dataset.docs_iter():
        title = str(getattr(row, "title", "") or "")
        text = getattr(row, "text", None)
        raw.documents[row.doc_id] = Document(row.doc_id, row.default_text() if text is None else text, title)
    for split, part in parts.items():
        raw.queries.update({row.query_id: row.default_text() for row in part.queries_iter()})
        raw.judgements[_SPLIT_NAMES.get(split, split)] = [
            (f"ir_datasets:{dataset_id}/{split}", row.query_id, row.doc_id, int(row.relevance))
            for row in part.qrels_iter()
        ]
    return raw
