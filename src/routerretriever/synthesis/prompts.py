"""What a language model is told: the prompt, and examples of its answers."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from routerretriever.data.jsonl import read_jsonl
from routerretriever.errors import CollectionError, SynthesisError

Examples = tuple[tuple[str, tuple[str, ...]], ...]
"""Passages, each with its queries."""


def default_prompt() -> str:
    """Return the prompt that is used unless another is given."""
    prompt = files("routerretriever.synthesis") / "default_prompt.txt"
    return prompt.read_text(encoding="utf-8")


def read_prompt(path: Path) -> str:
    """Return the prompt in a file.

    Raises:
        SynthesisError: the file cannot be read, or has no place for the passage.
    """
    try:
        prompt = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SynthesisError(
            f"The prompt {path} cannot be read ({error}). Give a text file in UTF-8."
        ) from error
    if "$text" not in prompt and "${text}" not in prompt:
        raise SynthesisError(
            f"The prompt {path} has no $text, where the passage goes. $title and $count are optional."
        )
    return prompt


def read_examples(path: Path) -> Examples:
    """Return the examples in a JSONL file of ``text`` and ``queries``.

    Raises:
        SynthesisError: names the line that cannot be used.
    """
    try:
        return tuple(_example(record, where) for where, record in read_jsonl(path))
    except CollectionError as error:
        raise SynthesisError(f"The examples cannot be read: {error}") from error


def _example(record: dict[str, Any], where: str) -> tuple[str, tuple[str, ...]]:
    text, queries = record.get("text"), record.get("queries")
    are_texts = isinstance(queries, list) and all(isinstance(q, str) for q in queries)
    if not isinstance(text, str) or not isinstance(queries, list) or not are_texts:
        raise SynthesisError(f'{where}: expected {{"text": "…", "queries": ["…", "…"]}}.')
    return text, tuple(queries)
