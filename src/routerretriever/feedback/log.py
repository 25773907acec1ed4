"""The log of use: one JSON object a line, each taken or refused for a reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routerretriever.data.jsonl import LineError, numbered_lines, parse_object
from routerretriever.errors import FeedbackError
from routerretriever.kernels.vectors import Vectors

MAX_SHOWN, MAX_QUERY_CHARS, MAX_LINE_BYTES, MAX_GRADE = 1000, 100_000, 2**20, 1000

Key = tuple[str, str]
"""Collection and id of a document; as long as the index was not asked, the collection may be unknown: ``""``."""


class RefusedLine(ValueError):
    """Why a line cannot be used."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that was refused, and why."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One query, what was shown, and what was made of it.

    Attributes:
        line: number in the log, from 1.
        digest: of the line; in a log, of the line and of how many equal ones stand before it.
        query: the text.
        shown: documents in the order shown (m).
        marks: 1 for each clicked document, or its grade (m,).
        judged: marks are grades; otherwise they are clicks.
    """

    line: int
    digest: int
    query: str
    shown: tuple[Key, ...]
    marks: NDArray[np.float64]
    judged: bool

    @property
    def evidence(self) -> int:
        """Documents that were clicked, or judged relevant."""
        return int(np.count_nonzero(self.marks))


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """A log as read.

    Attributes:
        events: the lines that can be used.
        problems: the others.
        digest: of the whole file.
        lines: lines that were not empty.
        vectors: of all documents that events show.
    """

    events: tuple[Event, ...]
    problems: tuple[Problem, ...]
    digest: str
    lines: int
    vectors: Mapping[Key, Vectors]


def read_log(path: Path, fingerprint: str, lookup: Any) -> Log:
    """Read a log and check it against a model and an index.

    Args:
        path: of the file.
        fingerprint: of the base encoder and its document prompt; a line that names another is refused.
        lookup: document ids → vectors by collection and id, as :meth:`routerretriever.Index.lookup`.

    Raises:
        FeedbackError: there is no such file, or nothing is in it.
    """
    events: list[Event] = []
    problems: list[Problem] = []
    count, whole = 0, hashlib.blake2b(digest_size=16)
    seen: Counter[int] = Counter()
    for number, line in _lines(path, whole):
        count += 1
        try:
            event = parse_line(line, number, fingerprint)
        except RefusedLine as error:
            problems.append(Problem(number, str(error)))
            continue
        events.append(replace(event, digest=_repeated(event.digest, seen[event.digest])))
        seen[event.digest] += 1
    if not count:
        raise FeedbackError(f"{path} is empty. A line of a log looks like: {EXAMPLE}")
    wanted: list[str] = []
    for event in events:
        wanted += [document_id for _, document_id in event.shown]
    vectors: dict[Key, Vectors] = lookup(wanted)
    collections: dict[str, list[str]] = {}
    for collection, document_id in vectors:
        collections.setdefault(document_id, []).append(collection)
    known = []
    for event in events:
        try:
            shown = tuple(_resolved(key, collections) for key in event.shown)
            known.append(replace(event, shown=shown))
        except RefusedLine as error:
            problems.append(Problem(event.line, str(error)))
    problems.sort(key=lambda problem: problem.line)
    return Log(
        events=tuple(known),
        problems=tuple(problems),
        digest=whole.hexdigest(),
        lines=count,
        vectors=vectors,
    )


EXAMPLE = '{"query": "…", "shown": ["d3", "d1"], "clicked": ["d1"]}'


def _lines(path: Path, whole: Any) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in numbered_lines(_updating(whole, file)):
                yield number, line.strip()
    except OSError as error:
        raise FeedbackError(
            f"The log {path} cannot be read ({type(error).__name__}). Give a JSONL file."
        ) from error


def _updating(whole: Any, lines: Iterable[bytes]) -> Iterator[bytes]:
    for line in lines:
        whole.update(line)
        yield line


def parse_line(line: bytes, number: int, fingerprint: str) -> Event:
    """One line, as far as it can be checked by itself.

    Raises:
        RefusedLine: it cannot be used.
    """
    if len(line) > MAX_LINE_BYTES:
        raise RefusedLine(f"over {MAX_LINE_BYTES} bytes")
    try:
        row = parse_object(line)
    except LineError as error:
        raise RefusedLine(str(error)) from error
    given = row.get("fingerprint")
    if given is not None and given != fingerprint:
        raise RefusedLine(
            "from a model with another base encoder or document prompt "
            f"(fingerprint {str(given)[:12]}, this model's is {fingerprint[:12]})"
        )
    query = row.get("query")
    if not isinstance(query, str) or not query.strip():
        raise RefusedLine("no query")
    _check_text(query)
    if len(query) > MAX_QUERY_CHARS:
        raise RefusedLine(f"a query of over {MAX_QUERY_CHARS} characters")
    shown = tuple(_key(entry) for entry in _list(row, "shown"))
    if not 0 < len(shown) <= MAX_SHOWN:
        raise RefusedLine(f"it shows {len(shown)} documents; 1 to {MAX_SHOWN} are needed")
    if len(set(shown)) < len(shown):
        raise RefusedLine("a document is shown twice")
    if ("clicked" in row) == ("judged" in row):
        raise RefusedLine("give either 'clicked' (empty if nothing was) or 'judged'")
    marks = np.zeros(len(shown))
    if "judged" in row:
        for entry in _list(row, "judged"):
            marks[_place(entry, shown, "judged")] = _grade(entry)
    else:
        for entry in _list(row, "clicked"):
            marks[_place(entry, shown, "clicked")] = 1.0
    return Event(
        line=number,
        digest=_digest(line),
        query=query.strip(),
        shown=shown,
        marks=marks,
        judged="judged" in row,
    )


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _repeated(digest: int, before: int) -> int:
    """A digest for a line with so many equal ones before it: a repeat in a log that has grown is a new line."""
    return digest if before == 0 else _digest(f"{digest} {before}".encode())


def _list(row: Mapping[str, Any], name: str) -> list[Any]:
    value = row.get(name)
    if not isinstance(value, list):
        raise RefusedLine(f"'{name}' is not a list")
    return value


def _key(entry: Any) -> Key:
    """A document as ``"id"`` or ``{"id": …, "collection": …}``."""
    if isinstance(entry, str):
        entry = {"id": entry}
    if isinstance(entry, dict):
        collection, document_id = entry.get("collection") or "", entry.get("id")
        if isinstance(collection, str) and isinstance(document_id, str) and document_id:
            _check_text(document_id)
            return collection, document_id
    raise RefusedLine('a document is named by "id" or {"id": …, "collection": …}')


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RefusedLine("half of a surrogate pair is no text") from error


def _place(entry: Any, shown: tuple[Key, ...], what: str) -> int:
    collection, document_id = _key(entry)
    places = []
    for place, (shown_collection, shown_id) in enumerate(shown):
        if shown_id == document_id and collection in ("", shown_collection):
            places.append(place)
    if not places:
        raise RefusedLine(f"'{document_id}' is {what}, but was not shown")
    if len(places) > 1:
        raise RefusedLine(f"'{document_id}' is {what}, but is shown of several collections: name one")
    return places[0]


def _grade(entry: Any) -> int:
    grade = entry.get("grade") if isinstance(entry, dict) else None
    if isinstance(grade, bool) or not isinstance(grade, int) or not 0 <= grade <= MAX_GRADE:
        raise RefusedLine(f"a judgement needs a whole 'grade' between 0 and {MAX_GRADE}")
    return grade


def _resolved(key: Key, collections: Mapping[str, Iterable[str]]) -> Key:
    collection, document_id = key
    found = [name for name in collections.get(document_id, ()) if collection in ("", name)]
    if not found:
        named = f"'{document_id}' of '{collection}'" if collection else f"'{document_id}'"
        raise RefusedLine(f"the index has no document {named}")
    if len(found) > 1:
        raise RefusedLine(
            f'\'{document_id}\' is in {len(found)} collections: name one with {{"id": …, "collection": …}}'
        )
    return found[0], document_id
