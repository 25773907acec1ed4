"""Tokenise texts that may be very long, from several threads."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from routerretriever.passages.cutter import Cutter

TOKENISING = threading.Lock()
"""Held while texts are tokenised: a tokeniser refuses to be used while another thread changes its
padding."""

CHARACTERS_PER_TOKEN = 32
"""A long text is first cut after this many characters for each token that is read; most tokens have
four or five."""

_SPACE = re.compile(r"(?<=\S)\s")


def beginning(text: str, tokenizer: Any, length: int | None) -> str:
    """Return the part of a long text that its first ``length`` tokens come from.

    A tokeniser would go through ten megabytes for 512 tokens. Words are tokenised one by one, so a
    text that is cut between two words has the tokens of the whole text up to there.
    """
    if length is None or getattr(tokenizer, "truncation_side", "right") != "right":
        return text
    end = CHARACTERS_PER_TOKEN * length
    while end < len(text):
        space = _SPACE.search(text, end, 2 * end)
        cut = space.start() if space else 2 * end
        part = text[:cut]
        if _count(part, tokenizer, length) == length:
            return part
        end *= 2
    return text


def token_counts(texts: Sequence[str], tokenizer: Any, length: int | None) -> list[int]:
    """Return how many tokens are read of each text, without a prompt."""
    if not texts:
        return []
    with TOKENISING:
        beginnings = [beginning(text, tokenizer, length) for text in texts]
        read = tokenizer(beginnings, truncation=True, max_length=length)["input_ids"]
    return [len(ids) for ids in read]


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts the tokens of a text, without special ones.

    Attributes:
        tokenizer: a copy of the base's that nothing else uses, or the base's own.
    """

    tokenizer: Any

    def __call__(self, text: str) -> int:
        if isinstance(self.tokenizer, Tokenizer):
            return len(self.tokenizer.encode(text, add_special_tokens=False).ids)
        with TOKENISING:
            return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def cutter_of(tokenizer: Any, length: int | None, prompt: str) -> Cutter:
    """Return what cuts documents into passages of ``length`` tokens, special ones and prompt included.

    Without a tokeniser, as behind an API, nobody can count, and documents are not cut.
    """
    own = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(own, Tokenizer):
        with TOKENISING:
            own = Tokenizer.from_str(own.to_str())
        own.no_truncation()
        own.no_padding()
    count = TokenCounter(own if isinstance(own, Tokenizer) else tokenizer)
    if length is None or tokenizer is None:
        return Cutter(count, None)
    special = tokenizer.num_special_tokens_to_add(pair=False)
    return Cutter(count, max(1, length - special - count(prompt)))


def _count(text: str, tokenizer: Any, length: int) -> int:
    return len(tokenizer(text, truncation=True, max_length=length)["input_ids"])
