"""Short texts of a passage: its headings, sentences, salient phrases, and keywords.

Tf-idf over the collection decides what is salient. Phrases are runs of words between function
words and punctuation, as in RAKE (Rose et al. 2010), so neither a tagger nor a language model
is needed. Words of a fifth of all passages count as function words, whatever the language.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from routerretriever.passages.word_statistics import WORD, WordStatistics, lower_words, words_of

READ_CHARACTERS = 4000
"""How much of a text is read: more than most passages have (512 tokens)."""

WEIGHTS = {"heading": 3, "sentence": 4, "phrase": 3, "keywords": 6}
"""How often each kind is drawn; a kind that a passage has nothing for is left out."""

KEYWORDS = (2, 6)
"""Fewest and most words of a keyword query."""

PHRASE = (2, 5)
"""Fewest and most words of a phrase."""

SALIENT = 20
"""How many of the best keywords and phrases of a passage are drawn from."""

HEADING_WORDS = 20
SENTENCE_WORDS = (4, 24)
"""Most words of a heading; fewest and most of a sentence."""

TRIES = 4
"""Draws for each text that is wanted: some repeat others."""

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])|\n+")
_MARKDOWN_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_BREAK = re.compile(r"[^\w\s'’-]+|\n+")


def short_texts(
    title: str, text: str, most: int, statistics: WordStatistics, generator: random.Random
) -> list[str]:
    """Return different short texts of a passage, in the order in which they were drawn.

    Args:
        title, text: of the passage.
        most: how many are wanted; fewer are found where a passage has no more to offer.
        statistics: of the collection's words.
        generator: decides which are drawn.
    """
    offers = _offers(title[:READ_CHARACTERS], text[:READ_CHARACTERS], statistics)
    drawn: dict[str, None] = {}
    for _ in range(TRIES * most):
        kinds = [kind for kind in WEIGHTS if offers.has(kind)]
        if len(drawn) == most or not kinds:
            break
        kind = generator.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        if found := offers.draw(kind, generator):
            drawn[found] = None
    return list(drawn)


@dataclass(slots=True)
class _Offers:
    """What can be drawn; headings and sentences are used up."""

    headings: list[str]
    sentences: list[str]
    phrases: list[str]
    keywords: list[str] = field(default_factory=list)

    def has(self, kind: str) -> bool:
        if kind == "keywords":
            return len(self.keywords) >= KEYWORDS[0]
        return bool(self._list(kind))

    def draw(self, kind: str, generator: random.Random) -> str:
        if kind == "keywords":
            size = min(len(self.keywords), generator.randint(*KEYWORDS))
            # A few of the best words, in the order of the passage: that is how people shorten.
            chosen = sorted(generator.sample(range(len(self.keywords)), size))
            return " ".join(self.keywords[number] for number in chosen)
        items = self._list(kind)
        if kind == "heading":
            return items.pop(0)
        return items.pop(generator.randrange(len(items)))

    def _list(self, kind: str) -> list[str]:
        return {"heading": self.headings, "sentence": self.sentences, "phrase": self.phrases}[kind]


def _offers(title: str, text: str, statistics: WordStatistics) -> _Offers:
    content = " ".join(f"{title} {text}".split())
    weights = statistics.weights(words_of(content))
    salient = sorted(weights, key=lambda word: (-weights[word], word))[:SALIENT]
    in_order = dict.fromkeys(lower_words(content))
    return _Offers(
        headings=_headings(title, text),
        sentences=_different(_SENTENCE_END.split(text), *SENTENCE_WORDS),
        phrases=_phrases(content, statistics, weights),
        keywords=[word for word in in_order if word in salient],
    )


def _headings(title: str, text: str) -> list[str]:
    """Return title, Markdown headings, and a first line that does not end like a sentence."""
    found = [title, *_MARKDOWN_HEADING.findall(text)]
    first, _, rest = text.strip().partition("\n")
    is_sentence = first.rstrip().endswith((".", ",", ";"))
    if rest.strip() and not first.startswith("#") and not is_sentence:
        found.append(first)
    return _different(found, 1, HEADING_WORDS)


def _different(texts: Iterable[str], fewest: int, most: int) -> list[str]:
    """Return texts of a fitting number of words on one line, each once."""
    kept: dict[str, None] = {}
    for text in texts:
        if fewest <= len(WORD.findall(text)) <= most:
            kept[" ".join(text.split())] = None
    return list(kept)


def _phrases(content: str, statistics: WordStatistics, weights: dict[str, float]) -> list[str]:
    scored: dict[str, float] = {}
    for part in _BREAK.split(content):
        for run in _runs(part, statistics):
            if PHRASE[0] <= len(run) <= PHRASE[1]:
                phrase = part[run[0].start() : run[-1].end()]
                scored[phrase] = sum(weights.get(word[0].lower(), 0.0) for word in run) / len(run)
    return sorted(scored, key=lambda phrase: (-scored[phrase], phrase))[:SALIENT]


def _runs(part: str, statistics: WordStatistics) -> Iterator[list[re.Match[str]]]:
    """Yield the words between function words."""
    grouped = groupby(WORD.finditer(part), key=lambda word: word[0].lower() in statistics.common)
    for is_common, words in grouped:
        if not is_common:
            yield list(words)
