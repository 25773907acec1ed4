"""From documents to a collection with generated queries: generate, filter, divide, write."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.progress import Progress, Silent
from routerretriever.synthesis.config import SynthesisConfig
from routerretriever.synthesis.filters import Dropped, Kept, distinct, found
from routerretriever.synthesis.generate import Generation, Task, generate
from routerretriever.synthesis.held_out import held_out_ids
from routerretriever.synthesis.notes import notes_on
from routerretriever.synthesis.passages import Passages, beginning, load_documents
from routerretriever.synthesis.report import SynthesisReport, check_enough
from routerretriever.synthesis.write import check_target, journal_path, write_collection

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever


def synthesize(
    source: str | Path,
    out: str | Path,
    *,
    model: RouterRetriever,
    expert: str = "base",
    config: SynthesisConfig | None = None,
    finish: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> SynthesisReport:
    """Make queries for documents, and a collection that an expert can be trained on.

    The new collection is a folder in BEIR's layout: all documents, the queries marked as
    generated, ``qrels/train.tsv``, ``qrels/dev.tsv`` with queries of other passages, and the
    report. Answers of a model are kept in ``OUT.answers.jsonl`` beside it; after an
    interruption the same call continues from there.

    Args:
        source: documents as JSONL, a BEIR folder (its queries are not read), or any collection.
        out: folder of the new collection.
        model: finds passages for the filter.
        expert: which of its experts does; ``base`` for none.
        config: how queries are made.
        finish: make the collection of the answers there are, without asking for more.
        force: replace a collection that this function wrote.
        progress: where to report.

    Raises:
        SynthesisError: ``out`` is taken, or too little is left to train on.
        PausedError: a limit was reached or a model does not answer; its answers are kept.
        CollectionError: the documents cannot be read.
    """
    config, progress = config or SynthesisConfig(), progress or Silent()
    target = Path(out).expanduser()
    check_target(target, force=force, finish=finish)

    name, documents = load_documents(source)
    parts = [model.cut(beginning(document)) for document in documents]
    passages = Passages.of(zip(documents, parts, strict=True))
    task = _task(passages, config, journal_path(target), finish)
    made = generate(config, task, progress)
    vectors = DocumentVectors.of(model, documents, parts=parts, progress=progress)
    kept = _filtered(made, vectors, model, expert, config.k)
    held_out = held_out_ids(kept.queries)

    report = _report(
        source=name,
        found_by={"k": config.k, "found_by": model.encoder.base.id, "expert": expert},
        config=config,
        documents=len(documents),
        task=task,
        made=made,
        kept=kept,
        held_out=len(held_out),
        notes=notes_on(task, made, kept, model.encoder.documents.tokenizer),
    )
    check_enough(report)
    write_collection(target, documents, kept.queries, held_out, report)
    return report


def _task(passages: Passages, config: SynthesisConfig, journal: Path, finish: bool) -> Task:
    """Return what queries are to be made for: all passages, or a sample of many."""
    per_passage = min(config.per_passage, math.ceil(config.queries / len(passages.items)))
    return Task(
        corpus=passages,
        asked=passages.sample(math.ceil(config.queries / per_passage), config.seed),
        per_passage=per_passage,
        journal=journal,
        finish=finish,
    )


def _filtered(
    made: Generation,
    vectors: DocumentVectors,
    model: RouterRetriever,
    expert: str,
    k: int,
) -> Kept:
    dropped = Dropped()
    different = distinct(made.queries, dropped)
    rows = {document.id: row for row, document in enumerate(vectors.documents)}
    queries = found(different, model, expert, vectors, rows, k, dropped)
    return Kept(queries, dropped, checked=len(different))


def _report(
    *,
    source: str,
    found_by: Mapping[str, Any],
    config: SynthesisConfig,
    documents: int,
    task: Task,
    made: Generation,
    kept: Kept,
    held_out: int,
    notes: tuple[str, ...],
) -> SynthesisReport:
    problems = Counter(answer.problem for answer in made.answers if answer.problem)
    cost = 0.0
    if config.llm is not None:
        cost = config.llm.limits.price(made.tokens_in, made.tokens_out)
    return SynthesisReport(
        method=config.method,
        source=source,
        settings={**config.settings(), **found_by},
        documents=documents,
        passages=len(task.corpus.items),
        in_passages=task.corpus.in_passages,
        asked=len(task.asked),
        set_aside=task.corpus.set_aside(),
        generated=len(made.queries),
        dropped=dict(kept.dropped.counts),
        examples=kept.dropped.examples,
        short_answers=dict(problems),
        train=len(kept.queries) - held_out,
        held_out=held_out,
        notes=notes,
        tokens_in=made.tokens_in,
        tokens_out=made.tokens_out,
        cost=cost,
    )
