"""Whether a base can read a collection at all, as seen from its tokeniser."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from routerretriever.synthesis.passages import Passage

READ_PASSAGES = 200
"""How many passages are looked at, 500 characters of each."""

UNKNOWN = 0.2
"""A vocabulary does not know a language if more than this share of its tokens is unknown."""

TOKENS_PER_LETTER = 0.6
"""Above this, a vocabulary has the letters of a language but no words: known languages take
0.2 to 0.4."""

TOKENS_PER_SIGN = 1.2
"""The same for scripts with a sign for each word or syllable, which many good bases read as
one token each."""

_WORD = re.compile(r"\w*[^\W\d_]\w*")


def knows_language(tokenizer: Any, passages: Sequence[Passage]) -> bool:
    """Return whether a tokeniser has words of the passages' language.

    A language that shares script and many words with the base's is not told apart.
    """
    words: list[str] = []
    for passage in passages[:READ_PASSAGES]:
        words += _WORD.findall(passage.content[:500])
    if not words:
        return True
    text = " ".join(words)
    options = {"add_special_tokens": False, "truncation": False, "verbose": False}
    tokens = tokenizer(text, **options)["input_ids"]
    unknown = tokens.count(tokenizer.unk_token_id)
    most = sum(map(_most_tokens, text))
    return unknown <= UNKNOWN * len(tokens) and len(tokens) <= most


def _most_tokens(sign: str) -> float:
    if sign.isspace():
        return 0.0
    return TOKENS_PER_SIGN if _is_cjk(sign) else TOKENS_PER_LETTER


def _is_cjk(sign: str) -> bool:
    scripts = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")
    return ord(sign) > 0x2E7F and unicodedata.name(sign, "").startswith(scripts)
