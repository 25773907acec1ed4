"""What is remarkable about a synthesis, for its report."""

from __future__ import annotations

from typing import Any

from routerretriever.synthesis.filters import Kept
from routerretriever.synthesis.generate import Generation, Task
from routerretriever.synthesis.language import knows_language

FEW_FOUND = 0.2
"""If the base finds the passages of fewer queries than this, it is probably the wrong one."""

FEW_QUERIES = 200
"""With fewer queries than this, an expert hardly gains."""

UNKNOWN_LANGUAGE = (
    "The base's vocabulary has no words of these documents' language: it reads them letter by "
    "letter or not at all. A base that knows the language (--base) will serve better than an "
    "expert."
)


def notes_on(task: Task, made: Generation, kept: Kept, tokenizer: Any) -> tuple[str, ...]:
    """Return a sentence for everything that a user should know of a synthesis."""
    notes = []
    if shortened := task.corpus.shortened:
        notes.append(
            f"Only the beginning of {shortened} long texts was read, because the base reads that much at once."
        )
    if made.asked_a_model and len(made.answers) < len(task.asked):
        notes.append(
            f"Finished early: {len(made.answers)} of {len(task.asked)} passages have been asked for."
        )
    count = len(kept.queries)
    if count < FEW_FOUND * kept.checked:
        notes.append(
            f"The base finds the passages of only {count} of {kept.checked} queries. It may "
            "not know the language or the domain at all: another base (--base) may serve "
            "better than an expert."
        )
    if count < FEW_QUERIES:
        notes.append(f"{count} queries are few: a few hundred are a sensible minimum for an expert.")
    if tokenizer is not None and not knows_language(tokenizer, task.asked):
        notes.append(UNKNOWN_LANGUAGE)
    if made.lost:
        notes.append(
            f"{len(made.lost)} requests had no usable answer but may be billed; tokens and cost count them."
        )
    return tuple(notes)
