"""Whether a base can read a collection at all: seen from what its tokeniser makes of it, before anything is trained."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from routerretriever.synthesis.passages import Passage

READ = 200
"""So many passages are looked at, 500 characters of each."""

UNKNOWN = 0.2
"""Share of words without any token of their own above which a vocabulary does not know a language."""

PIECES = 0.6
"""Tokens a letter above which it has the letters of a language but no words: known ones take 0.2 to 0.4."""

PIECES_CJK = 1.2
"""The same for scripts that have a sign for a word or syllable, each of which is one token of many good bases."""

_WORD = re.compile(r"\w*[^\W\d_]\w*")


def reads(tokenizer: Any, passages: Sequence[Passage]) -> bool:
    """Whether a tokeniser has words of the passages' language; one that spells it out belongs to another language.

    A language that shares script and many words with the base's is not told apart.
    """
    text = " ".join(" ".join(_WORD.findall(passage.content[:500])) for passage in passages[:READ])
    if not text:
        return True
    tokens = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    most = sum(PIECES_CJK if _is_cjk(sign) else PIECES for sign in text if not sign.isspace())
    return tokens.count(tokenizer.unk_token_id) <= UNKNOWN * len(tokens) and len(tokens) <= most


def _is_cjk(sign: str) -> bool:
    return ord(sign) > 0x2E7F and unicodedata.name(sign, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL"))
