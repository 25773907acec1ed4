"""What became of a generation: counts, what was dropped and why, and the files of the new collection."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from routerretriever.data.beir import SYNTHESIS_REPORT
from routerretriever.data.document import Document
from routerretriever.data.splits import HELD_OUT_LIMIT, HELD_OUT_SHARE
from routerretriever.data.text import stable_hash
from routerretriever.errors import SynthesisError
from routerretriever.storage.atomic import replacing
from routerretriever.synthesis.filters import Query

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = 1


@dataclass(frozen=True, slots=True)
class SynthesisReport:
    """The outcome of one generation.

    It counts queries as they were made, each for one passage: ``generated`` is ``kept`` and all of ``dropped``.

    Attributes:
        way: how queries were made.
        source: name of the collection they were made for.
        settings: everything that decided them.
        documents, passages, asked: documents read, distinct texts among them, and those queries were made for.
        set_aside: reason → documents that nothing was made for.
        generated: queries before the filter.
        dropped: reason → queries that the filter dropped, or merged into one that stands for several passages.
        examples: reason → some of these.
        short_answers: reason → answers of a model with fewer queries than asked for; what they lack was never made.
        train, held_out: queries that were kept.
        notes: what is remarkable.
        tokens_in, tokens_out, cost: what a paid model was paid for, over all runs.
    """

    way: str
    source: str
    settings: Mapping[str, Any]
    documents: int
    passages: int
    asked: int
    set_aside: Mapping[str, int]
    generated: int
    dropped: Mapping[str, int]
    examples: Mapping[str, Sequence[str]]
    short_answers: Mapping[str, int]
    train: int
    held_out: int
    notes: tuple[str, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    format: int = field(default=FORMAT)

    @property
    def kept(self) -> int:
        """Queries of the new collection."""
        return self.train + self.held_out

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"kept": self.kept}


def report_table(report: SynthesisReport) -> Table:
    """What was made, dropped and kept, for people."""
    from rich.table import Column, Table

    columns = Column("", no_wrap=True), Column("number", justify="right"), Column("for example", overflow="ellipsis")
    table = Table(*columns, title=f"Queries for '{report.source}' by {report.way}")
    table.add_row("documents", str(report.documents), "")
    for reason, count in report.set_aside.items():
        table.add_row(f"  {reason}", str(count), "")
    table.add_row("texts queries were made for", f"{report.asked} of {report.passages}", "")
    table.add_section()
    for reason, count in report.short_answers.items():
        table.add_row(f"  answers: {reason}", str(count), "")
    table.add_row("queries made", str(report.generated), "")
    for reason, count in sorted(report.dropped.items(), key=lambda item: -item[1]):
        example = next(iter(report.examples.get(reason, ())), "")
        table.add_row(f"  dropped: {reason}", str(count), example[:60])
    table.add_row("kept", str(report.kept), f"{report.train} to train on, {report.held_out} held out")
    return table


def held_out_ids(queries: Sequence[Query]) -> set[str]:
    """Ids of the queries to hold out: all queries of a fixed share of the passages.

    Several queries are made of one passage and share its words. On both sides they would show that the training
    remembers passages, not that it learns the domain; so passages are parted, together with those they share a query
    with.
    """
    keys = {passage.key for query in queries for passage in query.passages}
    row = {key: number for number, key in enumerate(sorted(keys))}
    edges = np.array([(row[q.passages[0].key], row[p.key]) for q in queries for p in q.passages], np.int64).reshape(
        -1, 2
    )
    graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(len(row), len(row)))
    _, component = connected_components(graph, directed=False)
    groups: dict[str, list[str]] = {}
    names: dict[int, str] = {}
    for key, number in row.items():
        names.setdefault(int(component[number]), key)
    for query in queries:
        groups.setdefault(names[int(component[row[query.passages[0].key]])], []).append(query.id)
    wanted = min(HELD_OUT_LIMIT, max(1, round(HELD_OUT_SHARE * len(queries))))
    chosen: set[str] = set()
    for name in sorted(groups, key=lambda name: stable_hash(f"held-out:{name}")):
        if len(chosen) + len(groups[name]) <= wanted:
            chosen.update(groups[name])
    return chosen


def write_collection(
    out: Path, documents: Sequence[Document], queries: Sequence[Query], held_out: set[str], report: SynthesisReport
) -> None:
    """Write a BEIR folder that ``train`` takes, whole or not at all.

    Raises:
        SynthesisError: an id cannot stand in a TSV file.
        StorageError: it could not be written; what stood there is unchanged.
    """
    for document in documents:
        if any(character in document.id for character in "\t\r\n"):
            raise SynthesisError(f"The document id {document.id!r} has a tab or line break. BEIR's qrels need others.")
    with replacing(out) as folder:
        (folder / "qrels").mkdir()
        _write_lines(folder / "corpus.jsonl", map(_corpus_line, documents))
        _write_lines(folder / "queries.jsonl", map(_query_line, queries))
        for split in ("train", "dev"):
            part = [query for query in queries if (query.id in held_out) == (split == "dev")]
            _write_lines(folder / "qrels" / f"{split}.tsv", _qrels_lines(part))
        _write_lines(folder / SYNTHESIS_REPORT, [json.dumps(report.to_dict(), indent=2, ensure_ascii=False)])


def _corpus_line(document: Document) -> str:
    record = {"_id": document.id, "title": document.title, "text": document.text, "metadata": dict(document.metadata)}
    return json.dumps(record, ensure_ascii=False)


def _query_line(query: Query) -> str:
    record = {"_id": query.id, "text": query.text, "metadata": {"generated": query.way}}
    return json.dumps(record, ensure_ascii=False)


def _qrels_lines(queries: Sequence[Query]) -> Iterator[str]:
    yield "query-id\tcorpus-id\tscore"
    for query in queries:
        for document in query.documents:
            yield f"{query.id}\t{document}\t1"


def _write_lines(path: Path, lines: Iterator[str] | Sequence[str]) -> None:
    # JSON may hold lone surrogates of a damaged source; they become question marks.
    with path.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
