"""Texts that come as token ids of the base's own tokeniser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from routerretriever.encoder.tokens import TOKENISING, token_counts


class TokenIds(tuple[int, ...]):
    """Token ids that stand for a text, with or without the special tokens around them."""

    __slots__ = ()


def ids_of(item: str | TokenIds, tokenizer: Any, length: int | None, prompt: str) -> list[int]:
    """Return the ids that the base reads of a text or of its ids: prompt, text and special tokens.

    Nothing is decoded, so that unknown tokens and capital letters stay as they are.

    Args:
        item: a text or its ids.
        tokenizer: of the base.
        length: most ids that are read; ``None`` for all.
        prompt: put before the text.
    """
    if isinstance(item, str):
        ids: list[int] = tokenizer(prompt + item, truncation=length is not None, max_length=length)[
            "input_ids"
        ]
        return ids

    before, after = _around(tokenizer)
    own = _without_special_tokens(item, before, after)
    if prompt:
        own = [*tokenizer(prompt, add_special_tokens=False)["input_ids"], *own]
    if length is not None:
        room = max(0, length - len(before) - len(after))
        reads_end = getattr(tokenizer, "truncation_side", "right") == "left"
        own = own[max(0, len(own) - room) :] if reads_end else own[:room]
    return [*before, *own, *after]


def read_counts(items: Sequence[str | TokenIds], tokenizer: Any, length: int | None) -> list[int]:
    """Return how many tokens are read of each text or of its ids, without a prompt."""
    of_texts = iter(token_counts([item for item in items if isinstance(item, str)], tokenizer, length))
    counts: list[int] = []
    for item in items:
        if isinstance(item, str):
            counts.append(next(of_texts))
            continue
        with TOKENISING:
            counts.append(len(ids_of(item, tokenizer, length, "")))
    return counts


def prompt_length(prompt: str, tokenizer: Any) -> int:
    """Return how many ids the prompt takes, with the special tokens before it."""
    before, _ = _around(tokenizer)
    return len(before) + len(tokenizer(prompt, add_special_tokens=False)["input_ids"])


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens before and after a text."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    ids: list[int] = tokenizer("a")["input_ids"]
    first = next((place for place, token in enumerate(ids) if token not in special), len(ids))
    last = next((place for place, token in enumerate(reversed(ids)) if token not in special), 0)
    return ids[:first], ids[len(ids) - last :]


def _without_special_tokens(ids: TokenIds, before: list[int], after: list[int]) -> list[int]:
    own = list(ids)
    if before and own[: len(before)] == before:
        own = own[len(before) :]
    if after and own[-len(after) :] == after:
        own = own[: -len(after)]
    return own
