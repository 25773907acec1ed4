"""Which words of a text a query asked for, to show them."""

from __future__ import annotations

import re

_STOP_WORDS = {
    "a",
    "an",
    "and",
    "are",
    "as",
    "at",
    "be",
    "by",
    "can",
    "do",
    "does",
    "for",
    "from",
    "how",
    "i",
}
_STOP_WORDS |= {"in", "is", "it", "its", "my", "of", "on", "or", "the", "to", "what", "when", "which", "who"}
_STOP_WORDS |= {"why", "with"}
_WORD = re.compile(r"[^\W_]+")
_ENDING = re.compile(r"(ing|ed|es|s)$")
_SHORTEST_STEM = 3

Range = tuple[int, int]
"""First character, counted from 0, and the character after the last."""


def matched_words(query: str, text: str) -> list[Range]:
    """Return where words of a query are in a text, in order.

    Forms of an English word count as the same by their endings, roughly as the text index has it,
    and common words are left out. This decides only what is highlighted.
    """
    words = {word.lower() for word in _WORD.findall(query)}
    stems = {_stem(word) for word in words - _STOP_WORDS}
    return [found.span() for found in _WORD.finditer(text) if _stem(found[0].lower()) in stems]


def window(text: str, matches: list[Range], size: int) -> Range:
    """Return the part of a text, of at most ``size`` characters, with the most matches."""
    best, most = 0, 0
    for start, _ in matches:
        count = sum(start <= begin and end <= start + size for begin, end in matches)
        if count > most:
            best, most = start, count
    if len(text) <= size or (matches and matches[-1][1] <= size):
        best = 0
    start = max(0, min(best, len(text) - size))
    if start > 0:  # some words before the first match, cut between two of them
        start = max(0, start - size // 8)
        start = text.find(" ", start, best) + 1 or start
    return start, start + size


def _stem(word: str) -> str:
    stem = _ENDING.sub("", word)
    return stem if len(stem) >= _SHORTEST_STEM else word
