"""Write the new collection: a folder in BEIR's layout, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from routerretriever.data.beir import SYNTHESIS_REPORT
from routerretriever.data.document import Document
from routerretriever.errors import SynthesisError
from routerretriever.storage.atomic import replacing
from routerretriever.synthesis.queries import Query
from routerretriever.synthesis.report import SynthesisReport


def journal_path(out: Path) -> Path:
    """Return the file of a model's answers, which is beside the collection made of them."""
    resolved = out.resolve()
    return resolved.with_name(f"{resolved.name}.answers.jsonl")


def check_target(out: Path, *, force: bool, finish: bool) -> None:
    """Check that a new collection can be written.

    Raises:
        SynthesisError: its folder is taken, or there are no answers to finish.
    """
    if finish and not journal_path(out).exists():
        raise SynthesisError(
            f"There is nothing to finish: {journal_path(out)} does not exist. Leave out --finish (finish=True)."
        )
    if out.exists() and not out.is_dir():
        raise SynthesisError(f"{out} is a file. Choose a folder for the new collection.")

    taken = out.is_dir() and any(out.iterdir())
    synthesised = (out / SYNTHESIS_REPORT).exists()
    if taken and not synthesised:
        raise SynthesisError(f"{out} is not empty; choose another folder.")
    if taken and not force:
        raise SynthesisError(f"{out} is not empty; pass force=True (--force) to replace it.")


def write_collection(
    out: Path,
    documents: Sequence[Document],
    queries: Sequence[Query],
    held_out: set[str],
    report: SynthesisReport,
) -> None:
    """Write a BEIR folder that ``train`` takes.

    Raises:
        SynthesisError: an id cannot stand in a TSV file.
        StorageError: it could not be written; what was there before is unchanged.
    """
    for document in documents:
        if any(character in document.id for character in "\t\r\n"):
            raise SynthesisError(
                f"The document id {document.id!r} has a tab or line break, which qrels cannot hold. Change it."
            )
    splits = {
        "train": [query for query in queries if query.id not in held_out],
        "dev": [query for query in queries if query.id in held_out],
    }
    with replacing(out) as folder:
        (folder / "qrels").mkdir()
        _write_lines(folder / "corpus.jsonl", map(_corpus_line, documents))
        _write_lines(folder / "queries.jsonl", map(_query_line, queries))
        for split, part in splits.items():
            _write_lines(folder / "qrels" / f"{split}.tsv", _qrels_lines(part))
        content = json.dumps(report.to_dict(), indent=2, ensure_ascii=False)
        _write_lines(folder / SYNTHESIS_REPORT, [content])


def _corpus_line(document: Document) -> str:
    record = {
        "_id": document.id,
        "title": document.title,
        "text": document.text,
        "metadata": dict(document.metadata),
    }
    return json.dumps(record, ensure_ascii=False)


def _query_line(query: Query) -> str:
    metadata: dict[str, Any] = {"generated": query.method}
    if query.passage_numbers:
        metadata["passages"] = query.passage_numbers
    record = {"_id": query.id, "text": query.text, "metadata": metadata}
    return json.dumps(record, ensure_ascii=False)


def _qrels_lines(queries: Sequence[Query]) -> Iterator[str]:
    yield "query-id\tcorpus-id\tscore"
    for query in queries:
        for document in query.documents:
            yield f"{query.id}\t{document}\t1"


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
