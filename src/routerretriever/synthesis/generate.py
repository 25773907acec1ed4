"""Make queries for passages by the method that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from routerretriever.progress import Progress
from routerretriever.synthesis.config import SynthesisConfig
from routerretriever.synthesis.crops import crops
from routerretriever.synthesis.doc2query import ask_doc2query
from routerretriever.synthesis.journal import Answer, Journal, Lost
from routerretriever.synthesis.llm import ask_llm
from routerretriever.synthesis.methods import ASKS_A_MODEL
from routerretriever.synthesis.mixture import mixture
from routerretriever.synthesis.passages import Passage, Passages
from routerretriever.synthesis.queries import Generated
from routerretriever.synthesis.titles import titles


@dataclass(frozen=True, slots=True)
class Generation:
    """Queries as they were made.

    Attributes:
        queries: before any filter.
        answers: of a model that was asked; none for other methods.
        lost: requests that may be billed although no usable answer came back.
        asked_a_model: whether the method asks one.
    """

    queries: list[Generated]
    answers: tuple[Answer, ...] = ()
    lost: tuple[Lost, ...] = ()
    asked_a_model: bool = False

    @property
    def paid(self) -> list[Answer | Lost]:
        """Everything that may be billed."""
        return [*self.answers, *self.lost]

    @property
    def tokens_in(self) -> int:
        """Tokens that were read, and may be billed."""
        return sum(item.tokens_in for item in self.paid)

    @property
    def tokens_out(self) -> int:
        """Tokens that were written, and may be billed."""
        return sum(item.tokens_out for item in self.paid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What queries are to be made for.

    Attributes:
        corpus: all passages; the frequencies of words are theirs.
        asked: the passages to make queries for.
        per_passage: most queries for one of them.
        journal: file of a model's answers.
        finish: take the answers that are there, without asking for more.
    """

    corpus: Passages
    asked: Sequence[Passage]
    per_passage: int
    journal: Path
    finish: bool


def generate(config: SynthesisConfig, task: Task, progress: Progress) -> Generation:
    """Make queries.

    Raises:
        PausedError: a limit was reached or a model does not answer; its answers are kept.
        SynthesisError: the model cannot be asked.
    """
    if config.method in ASKS_A_MODEL:
        return _ask(config, task, progress)
    if config.method == "crops":
        return Generation(list(crops(task.asked, task.per_passage, config.seed)))
    make = titles if config.method == "titles" else mixture
    queries = make(task.asked, task.per_passage, config.seed, task.corpus.items)
    return Generation(list(queries))


def _ask(config: SynthesisConfig, task: Task, progress: Progress) -> Generation:
    with Journal.open(task.journal, config.settings()) as journal:
        if not task.finish and config.method == "doc2query":
            ask_doc2query(task.asked, task.per_passage, config.seed, journal, config.doc2query, progress)
        elif not task.finish and config.llm is not None:
            ask_llm(task.asked, task.per_passage, journal, config.llm, progress)
        by_key = {passage.key: passage for passage in task.asked}
        answers = [a for key, a in sorted(journal.answers.items()) if key in by_key]
        lost = tuple(journal.lost)

    queries = [
        Generated(by_key[answer.key], text, config.method) for answer in answers for text in answer.queries
    ]
    return Generation(queries, tuple(answers), lost, asked_a_model=True)
