"""Relevance judgements as files and hub data sets spell them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from routerretriever.data.jsonl import read_lines
from routerretriever.data.raw_collection import Judgement
from routerretriever.errors import CollectionError

_QUERY = ("query-id", "query_id", "queryid", "qid")
_DOCUMENT = ("corpus-id", "corpus_id", "corpusid", "doc-id", "doc_id", "docid")
_GRADE = ("score", "relevance", "label", "grade")
_COLUMNS = (_QUERY, _DOCUMENT, _GRADE)
_ROW_NUMBERS = ("", "__index_level_0__", "unnamed: 0")

_LARGEST = 2**31 - 1  # what the measures compute with


def read_qrels(path: Path) -> Iterator[Judgement]:
    """Yield the judgements of a TSV file; a first line of column names may be left out.

    Raises:
        CollectionError: a line has other columns, or a grade is not a whole number.
    """
    order = (0, 1, 2)
    for number, (where, line) in enumerate(read_lines(path)):
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) != len(_COLUMNS):
            raise CollectionError(f"{where}: expected 'query-id<TAB>corpus-id<TAB>score', found {line.rstrip()!r}.")
        if number == 0 and not _is_number(cells[2]):
            order = _places(cells, where)
            continue
        query_id, document_id, grade = (cells[place] for place in order)
        yield Judgement(where, query_id, document_id, whole_grade(grade, where))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _places(header: Sequence[str], where: str) -> tuple[int, int, int]:
    """Return the places of the query id, the document id and the grade."""
    folded = [name.strip().casefold() for name in header]
    found = [[folded.index(name) for name in names if name in folded] for names in _COLUMNS]
    if any(len(places) != 1 for places in found):
        raise CollectionError(
            f"{where}: expected the columns 'query-id<TAB>corpus-id<TAB>score', found {', '.join(map(repr, header))}."
        )
    return found[0][0], found[1][0], found[2][0]


def judgement_of(row: Mapping[str, Any], where: str, strict: bool) -> Judgement:
    """Return the judgement in a row of a hub data set.

    Raises:
        CollectionError: a column is missing, or ``strict`` and one is not understood.
    """
    names = {name.strip().casefold(): name for name in row}
    extra = names.keys() - {*_QUERY, *_DOCUMENT, *_GRADE, *_ROW_NUMBERS}
    found = [[names[name] for name in choices if name in names] for choices in _COLUMNS]
    if any(len(columns) != 1 for columns in found) or (extra and strict):
        raise CollectionError(f"{where}: expected the columns query-id, corpus-id and score, found {', '.join(row)}.")
    query_id, document_id, grade = (row[columns[0]] for columns in found)
    return Judgement(where, str(query_id), str(document_id), whole_grade(grade, where))


def whole_grade(given: Any, where: str) -> int:
    """Return a grade as a whole number.

    Raises:
        CollectionError: it is something else, such as 0.5, inf or a word.
    """
    try:
        grade = float(given)
    except (TypeError, ValueError):
        grade = math.nan
    if not grade.is_integer() or abs(grade) > _LARGEST:
        raise CollectionError(
            f"{where}: the grade {given!r} is not a whole number. Grades are 0 for not "
            "relevant, and 1, 2, … for relevant."
        )
    return int(grade)
