"""Relevance judgements as files and hub data sets spell them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from routerretriever.data.jsonl import read_lines
from routerretriever.data.raw_collection import Judgement
from routerretriever.errors import CollectionError

_WANTED = ("query-id", "corpus-id", "score")
_MEANINGS = {
    "query-id": "query-id",
    "query_id": "query-id",
    "queryid": "query-id",
    "qid": "query-id",
    "corpus-id": "corpus-id",
    "corpus_id": "corpus-id",
    "corpusid": "corpus-id",
    "doc-id": "corpus-id",
    "doc_id": "corpus-id",
    "docid": "corpus-id",
    "score": "score",
    "relevance": "score",
    "label": "score",
    "grade": "score",
}
"""Names of columns that are understood, in lower case, and what they mean."""

_ROW_NUMBERS = ("", "__index_level_0__", "unnamed: 0")
_LARGEST = 2**31 - 1  # what the measures compute with


def read_qrels(path: Path) -> Iterator[Judgement]:
    """Yield the judgements of a TSV file; a first line of column names may be left out.

    Raises:
        CollectionError: a line has other columns, or a grade is not a whole number.
    """
    places = [0, 1, 2]
    for number, (where, line) in enumerate(read_lines(path)):
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) != len(_WANTED):
            raise CollectionError(
                f"{where}: expected 'query-id<TAB>corpus-id<TAB>score', found {line.rstrip()!r}."
            )
        if number == 0 and not _is_number(cells[2]):
            places = [cells.index(name) for name in judgement_columns(cells, where)]
            continue
        query_id, document_id, grade = [cells[place] for place in places]
        yield Judgement(where, query_id, document_id, whole_grade(grade, where))


def judgement_columns(names: Sequence[str], where: str, strict: bool = True) -> list[str]:
    """Return the names of the columns of query id, document id and grade, in this order.

    Raises:
        CollectionError: one is missing or there twice, or ``strict`` and another column is
            not understood.
    """
    found: dict[str, str] = {}
    unclear = False
    for name in names:
        folded = name.strip().casefold()
        meaning = _MEANINGS.get(folded)
        if meaning is None:
            unclear |= strict and folded not in _ROW_NUMBERS
        else:
            unclear |= meaning in found
            found[meaning] = name

    if unclear or len(found) < len(_WANTED):
        raise CollectionError(
            f"{where}: expected the columns {', '.join(_WANTED)}, found {', '.join(names)}."
        )
    return [found[meaning] for meaning in _WANTED]


def whole_grade(given: Any, where: str) -> int:
    """Return a grade as a whole number.

    Raises:
        CollectionError: it is something else, such as 0.5, inf or a word.
    """
    try:
        grade = math.nan if "_" in str(given) else float(given)  # Python reads 1_0 as 10
    except (TypeError, ValueError):
        grade = math.nan
    if not grade.is_integer() or abs(grade) > _LARGEST:
        raise CollectionError(
            f"{where}: the grade {given!r} is not a whole number. Grades are 0 for not "
            "relevant, and 1, 2, … for relevant."
        )
    return int(grade)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
