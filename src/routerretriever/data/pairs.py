"""Collections made of pairs: a query, and the text that answers it.

Columns are read by the names below, in any case. A column that holds something and is
called otherwise is refused, since it may say which pairs are relevant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from routerretriever.data.document import Document, check_document
from routerretriever.data.jsonl import read_jsonl
from routerretriever.data.names import data_suffix
from routerretriever.data.qrels import whole_grade
from routerretriever.data.raw_collection import Judgement, RawCollection, split_name
from routerretriever.data.tables import read_csv, read_tsv
from routerretriever.data.text import check_text
from routerretriever.errors import CollectionError

QUERY_COLUMNS = ("query", "anchor", "question")
POSITIVE_COLUMNS = ("positive", "pos", "passage", "document", "answer", "text")
_NEGATIVE_COLUMN = re.compile(r"neg(ative)?(_?\d+)?")
_GRADE_COLUMNS = ("label", "score", "relevance", "grade")
# Row numbers and ids of rows, as pandas and hub data sets add them.
_IGNORED_COLUMNS = ("", "id", "_id", "idx", "unnamed: 0", "__index_level_0__")

_READERS = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_tsv,
}

Records = Iterable[tuple[str, Mapping[str, Any]]]
"""Place of each record, for errors, and the record."""


def read_pairs_file(path: Path, strict: bool) -> RawCollection:
    """Read a file of pairs; the column ``split`` may name the split of a pair.

    Raises:
        CollectionError: the file cannot be read, or names the line that is no pair.
    """
    reader = _READERS.get(data_suffix(path.name))
    if reader is None:
        raise CollectionError(f"{path}: unknown kind of file. A pairs file ends in .jsonl, .csv or .tsv.")
    pairs = PairCollector(strict)
    pairs.add("train", reader(path))
    if not pairs.raw.queries:
        raise CollectionError(f"{path} is empty. A pairs file needs a query and a positive on every line.")
    return pairs.raw


def are_pairs(columns: Iterable[str]) -> bool:
    """Return whether columns of these names can hold pairs."""
    names = {name.strip().casefold() for name in columns}
    return bool(names & {*QUERY_COLUMNS}) and bool(names & {*POSITIVE_COLUMNS})


@dataclass(slots=True)
class PairCollector:
    """Collects pairs of one or more splits; equal texts become one document or query.

    Attributes:
        strict: ``False`` leaves out columns that are not understood.
        raw: what was collected.
    """

    strict: bool
    raw: RawCollection = field(default_factory=RawCollection)
    _document_ids: dict[tuple[str, str], str] = field(default_factory=dict)
    _query_ids: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, default_split: str, records: Records) -> None:
        """Add pairs.

        Raises:
            CollectionError: a record lacks a text, or has a column that is not understood.
        """
        for where, given in records:
            record = {str(name).strip().casefold(): value for name, value in given.items()}
            if len(record) < len(given):
                raise CollectionError(
                    f"{where}: two of the columns {_quoted(given)} have the same name. Keep one."
                )
            if self.strict:
                _check_columns(record, where)

            split = split_name(str(record.get("split") or default_split), where)
            query_id = self._query_id(split, _query(record, where))
            title = _title(record, where)
            grade = _grade(record, where)
            for text in _positives(record, where):
                document_id = self._document_id(title, text, where)
                self.raw.judge(split, Judgement(where, query_id, document_id, grade))
            for text in _negatives(record, where):
                document_id = self._document_id("", text, where)
                self.raw.judge(split, Judgement(where, query_id, document_id, 0))

    def _query_id(self, split: str, query: str) -> str:
        query_id = self._query_ids.setdefault((split, query), f"q{len(self._query_ids)}")
        self.raw.queries[query_id] = query
        return query_id

    def _document_id(self, title: str, text: str, where: str) -> str:
        key = title, text
        if key not in self._document_ids:
            document = Document(f"d{len(self._document_ids)}", text, title)
            check_document(document, where)
            self._document_ids[key] = document.id
            self.raw.documents[document.id] = document
        return self._document_ids[key]


def _check_columns(record: Mapping[str, Any], where: str) -> None:
    understood = {
        *QUERY_COLUMNS,
        *POSITIVE_COLUMNS,
        *_GRADE_COLUMNS,
        *_IGNORED_COLUMNS,
        "title",
        "split",
    }
    unknown = [
        name
        for name, value in record.items()
        if not _is_empty(value) and name not in understood and not _NEGATIVE_COLUMN.fullmatch(name)
    ]
    if unknown:
        raise CollectionError(
            f"{where}: not understood: {_quoted(unknown)}. The columns of a pairs file are "
            f"{_COLUMNS}. Rename or remove the others, or leave them out with strict=False "
            "(command line: --lenient)."
        )


_COLUMNS = (
    f"a query ({', '.join(QUERY_COLUMNS)}), a positive text ({', '.join(POSITIVE_COLUMNS)}), "
    f"and optionally title, negative, split and a grade ({', '.join(_GRADE_COLUMNS)})"
)


def _query(record: Mapping[str, Any], where: str) -> str:
    queries = _texts(record, QUERY_COLUMNS, where)
    if len(queries) != 1:
        raise CollectionError(f"{where}: found {len(queries)} queries. A pair has one.")
    return queries[0]


def _positives(record: Mapping[str, Any], where: str) -> list[str]:
    return _texts(record, POSITIVE_COLUMNS, where)


def _texts(record: Mapping[str, Any], names: Sequence[str], where: str) -> list[str]:
    """Return the texts in the one of these columns that holds some."""
    filled = [name for name in names if not _is_empty(record.get(name))]
    if not filled:
        raise CollectionError(
            f"{where}: no text in a column named {' or '.join(names)}. The columns are {_quoted(record)}."
        )
    if len(filled) > 1:
        raise CollectionError(f"{where}: the columns {_quoted(filled)} could all be meant. Keep one.")
    return _texts_in(record[filled[0]], filled[0], where)


def _negatives(record: Mapping[str, Any], where: str) -> Iterator[str]:
    for name, value in record.items():
        if _NEGATIVE_COLUMN.fullmatch(name) and not _is_empty(value):
            yield from _texts_in(value, name, where)


def _texts_in(value: Any, name: str, where: str) -> list[str]:
    """Return the text of a cell, or the texts of a list of them."""
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise CollectionError(f"{where}: '{name}' holds {text!r:.60}. Write a text, or a list of texts.")
        check_text(text, where)
    return texts


def _title(record: Mapping[str, Any], where: str) -> str:
    title = record.get("title")
    titles = [""] if _is_empty(title) else _texts_in(title, "title", where)
    if len(titles) != 1:
        raise CollectionError(f"{where}: found {len(titles)} titles. A document has one.")
    return titles[0]


def _grade(record: Mapping[str, Any], where: str) -> int:
    """Return the grade of a pair, which is 1 where no column says otherwise."""
    given = [name for name in _GRADE_COLUMNS if name in record]
    if len(given) > 1:
        raise CollectionError(f"{where}: the columns {_quoted(given)} could all be the grade. Keep one.")
    return whole_grade(record[given[0]], where) if given else 1


def _is_empty(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
