"""From documents to a collection with generated queries: generate, filter, part, write."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routerretriever.data.beir import SYNTHESIS_REPORT
from routerretriever.data.text import stable_hash
from routerretriever.errors import SynthesisError
from routerretriever.progress import Progress, Silent
from routerretriever.synthesis import filters
from routerretriever.synthesis.crops import crops
from routerretriever.synthesis.doc2query import Doc2QueryConfig, ask_doc2query
from routerretriever.synthesis.journal import Answer, Journal, Lost
from routerretriever.synthesis.language import reads
from routerretriever.synthesis.llm import LlmConfig, ask_llm
from routerretriever.synthesis.passages import Passage, Passages, load_documents
from routerretriever.synthesis.queries import Generated
from routerretriever.synthesis.report import SynthesisReport, held_out_ids, write_collection
from routerretriever.synthesis.titles import titles

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever

WAYS = ("crops", "titles", "mixture", "doc2query", "llm")
"""How queries can be made."""

FEW_FOUND = 0.2
"""Where the base finds the passages of fewer queries than this, it is probably the wrong one."""
STRANGE = (
    "The base's vocabulary has no words of these documents' language: it reads them letter by letter or not at all. "
    "A base that knows the language (--base) will serve better than an expert."
)


@dataclass(frozen=True, slots=True)
class SynthesisConfig:
    """How queries are generated.

    Attributes:
        way: one of ``WAYS``.
        queries: about so many are made. Of a large collection they are made for a sample of its passages, of a small
            one for all of them, several for each.
        per_passage: at most, for one passage.
        k: a query is kept if its passage is among the first so many; see :data:`filters.K`.
        seed: of everything random.
        doc2query, llm: settings of the ways of these names.
    """

    way: str = "mixture"
    queries: int = 6000
    per_passage: int = 6
    k: int = filters.K
    seed: int = 0
    doc2query: Doc2QueryConfig = field(default_factory=Doc2QueryConfig)
    llm: LlmConfig | None = None

    def settings(self) -> dict[str, Any]:
        """What decides the generated queries; neither key nor address."""
        common = {"way": self.way, "queries": self.queries, "per_passage": self.per_passage, "seed": self.seed}
        if self.way == "doc2query":
            return common | self.doc2query.settings()
        return common | (self.llm.settings() if self.way == "llm" and self.llm is not None else {})


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

    The new collection is a BEIR folder: all documents, the queries marked as generated, ``qrels/train.tsv``,
    ``qrels/dev.tsv`` with queries of other passages, and the report. Answers of a model are kept in
    ``OUT.answers.jsonl`` beside it; the same call goes on from there after an interruption.

    Args:
        source: documents as JSONL, a BEIR folder (its queries are not read), or any collection.
        out: folder of the new collection.
        model: finds passages for the filter.
        expert: which of its experts does; ``base`` for none.
        config: see :class:`SynthesisConfig`.
        finish: make the collection of the answers there are, without asking for more.
        force: replace a collection that this function wrote.
        progress: where to report.

    Raises:
        SynthesisError: a setting is wrong, ``out`` is taken, or too little is left to train on.
        PausedError: a limit was reached or a model does not answer; what there is, is kept.
        CollectionError: the documents cannot be read.
    """
    config, target, progress = config or SynthesisConfig(), Path(out).expanduser(), progress or Silent()
    _check(config, target, force, finish)
    name, documents = load_documents(source)
    passages = Passages.of(documents)
    per_passage = min(config.per_passage, math.ceil(config.queries / len(passages.items)))
    asked = passages.sample(math.ceil(config.queries / per_passage), config.seed)
    dropped = filters.Dropped()
    generated, answers, lost = _generate(config, asked, passages.items, per_passage, target, finish, progress)
    paid: list[Answer | Lost] = [*answers, *lost]
    tokens_in, tokens_out = sum(item.tokens_in for item in paid), sum(item.tokens_out for item in paid)
    queries = filters.distinct(generated, dropped)
    checked = len(queries)
    vectors = model.embed_texts([document.content for document in documents], progress=progress)
    rows = {document.id: row for row, document in enumerate(documents)}
    queries = filters.found(queries, model, expert, vectors, rows, config.k, dropped)
    held_out = held_out_ids(queries) if queries else set()
    report = SynthesisReport(
        way=config.way,
        source=name,
        settings=config.settings() | {"k": config.k, "found_by": model.encoder.base.id, "expert": expert},
        documents=len(documents),
        passages=len(passages.items),
        asked=len(asked),
        set_aside=_set_aside(passages),
        generated=len(generated),
        dropped=dict(dropped.counts),
        examples=dropped.examples,
        short_answers=dict(Counter(answer.problem for answer in answers if answer.problem)),
        train=len(queries) - len(held_out),
        held_out=len(held_out),
        notes=(
            *_notes(passages, checked, len(queries), len(answers), len(asked), config),
            *([] if reads(model.encoder.tokenizer, asked) else [STRANGE]),
            *_lost(lost),
        ),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        cost=0.0 if config.llm is None else config.llm.limits.price(tokens_in, tokens_out),
    )
    if report.train < 2 or report.held_out < 1:
        raise SynthesisError(
            f"Of {len(generated)} queries {len(queries)} are left, too few to train on. Dropped: "
            f"{_counted(dropped.counts)}. Answers with too little: {_counted(report.short_answers)}. Choose "
            "another way (--with), a base that knows the language (--base), or a larger depth (-k)."
        )
    write_collection(target, documents, queries, held_out, report)
    return report


def journal_path(out: Path) -> Path:
    """Where a model's answers are kept: beside the collection made of them."""
    resolved = out.resolve()
    return resolved.with_name(f"{resolved.name}.answers.jsonl")


def _check(config: SynthesisConfig, out: Path, force: bool, finish: bool) -> None:
    if config.way not in WAYS:
        raise SynthesisError(f"There is no way '{config.way}' to make queries. Choose one of: {', '.join(WAYS)}.")
    if config.way == "llm" and config.llm is None:
        raise SynthesisError("To ask a language model, say where it is and its name: --endpoint URL --model NAME.")
    if min(config.queries, config.per_passage, config.k) < 1:
        raise SynthesisError("The numbers of queries, of queries for a passage, and k are at least 1.")
    if finish and not journal_path(out).exists():
        raise SynthesisError(f"There is nothing to finish: {journal_path(out)} does not exist.")
    if out.exists() and not out.is_dir():
        raise SynthesisError(f"{out} is a file. Choose a folder for the new collection.")
    taken = out.is_dir() and any(out.iterdir())
    synthesised = (out / SYNTHESIS_REPORT).exists()
    if taken and not (force and synthesised):
        hint = "pass force=True (--force) to replace it" if synthesised else "choose another folder"
        raise SynthesisError(f"{out} is not empty; {hint}.")


def _generate(
    config: SynthesisConfig,
    asked: Sequence[Passage],
    corpus: Sequence[Passage],
    per_passage: int,
    out: Path,
    finish: bool,
    progress: Progress,
) -> tuple[list[Generated], list[Answer], list[Lost]]:
    if config.way == "crops":
        return list(crops(asked, per_passage, config.seed)), [], []
    if config.way == "titles":
        return list(titles(asked, per_passage, config.seed, corpus)), [], []
    if config.way == "mixture":
        return _mixture(config.seed, asked, corpus, per_passage), [], []
    with Journal.open(journal_path(out), config.settings()) as journal:
        if not finish and config.way == "doc2query":
            ask_doc2query(asked, per_passage, config.seed, journal, config.doc2query, progress)
        elif not finish and config.llm is not None:
            ask_llm(asked, per_passage, journal, config.llm, progress)
        by_key = {passage.key: passage for passage in asked}
        answers = [answer for key, answer in sorted(journal.answers.items()) if key in by_key]
        lost = journal.lost
    return [Generated(by_key[a.key], text, config.way) for a in answers for text in a.queries], answers, lost


def _mixture(seed: int, asked: Sequence[Passage], corpus: Sequence[Passage], per_passage: int) -> list[Generated]:
    """Crops and titles evenly: half of each passage's queries, and of an odd number one more of what chance decides."""
    more = [per_passage // 2, per_passage - per_passage // 2]
    sides: list[list[Passage]] = [[], []]
    for passage in asked:
        sides[int(stable_hash(f"{seed}:mixture:{passage.key}"), 16) % 2].append(passage)
    made: list[Generated] = []
    for side, counts in zip(sides, (more, more[::-1]), strict=True):
        made += crops(side, counts[0], seed) if counts[0] else ()
        made += titles(side, counts[1], seed, corpus) if counts[1] else ()
    return made


def _counted(counts: Mapping[str, int]) -> str:
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {reason}" for reason, count in ranked) or "none"


def _set_aside(passages: Passages) -> dict[str, int]:
    counts = {
        "without a text": passages.empty,
        "repeat the text of another": passages.copies,
        "boilerplate, the same in many": passages.boilerplate,
    }
    return {reason: count for reason, count in counts.items() if count}


def _notes(
    passages: Passages, checked: int, kept: int, answered: int, asked: int, config: SynthesisConfig
) -> tuple[str, ...]:
    notes = []
    if passages.shortened:
        notes.append(f"Of {passages.shortened} long documents only the beginning was read; split them into passages.")
    if config.way in ("doc2query", "llm") and answered < asked:
        notes.append(f"Finished early: {answered} of {asked} passages have been asked for.")
    if kept < FEW_FOUND * checked:
        notes.append(
            f"The base finds the passages of only {kept} of {checked} queries. It may not know the language or the "
            "domain at all: another base (--base) may serve better than an expert."
        )
    if kept < 200:
        notes.append(f"{kept} queries are few: some hundred are a sensible minimum for an expert.")
    return tuple(notes)


def _lost(lost: Sequence[Lost]) -> tuple[str, ...]:
    if not lost:
        return ()
    return (f"{len(lost)} requests had no usable answer but may be billed; tokens and cost count them.",)
