"""Pseudo-queries from a passage's own headings, sentences, salient phrases, and keywords.

Tf-idf over the collection decides what is salient. Phrases are runs of words between function
words and punctuation, as in RAKE (Rose et al. 2010), so neither a tagger nor a language model
is needed. Words of a fifth of all passages count as function words, whatever the language.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from routerretriever.synthesis.passages import Passage
from routerretriever.synthesis.queries import Generated
from routerretriever.synthesis.word_statistics import WORD, Statistics, lower_words, words_of

WEIGHTS = {"heading": 3, "sentence": 4, "phrase": 3, "keywords": 6}
"""How often each kind is drawn; a kind that a passage has nothing for is left out."""

KEYWORDS = (2, 6)
"""Fewest and most words of a keyword query."""

PHRASE = (2, 5)
"""Fewest and most words of a phrase."""

SALIENT = 20
"""How many of the best keywords and phrases of a passage are drawn from."""

HEADING_WORDS = 20
SENTENCE_WORDS = 24
_SENTENCE_END = re.compile(r"(?<=[.!?;。！？])\s+|\n+")
_MARKDOWN_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_BREAK = re.compile(r"[^\w\s'’-]+|\n+")


def titles(
    passages: Sequence[Passage], per_passage: int, seed: int, corpus: Sequence[Passage] | None = None
) -> Iterator[Generated]:
    """Yield up to ``per_passage`` queries for every passage.

    Args:
        passages: to make queries for.
        per_passage: fewer where a passage has no more to offer.
        seed: decides which are drawn.
        corpus: frequencies are counted on these; default ``passages``.
    """
    statistics = Statistics.of(corpus or passages)
    for passage in passages:
        generator = passage.random(seed, "titles")
        offers = _offers(passage, statistics)
        taken: set[str] = set()
        for _ in range(4 * per_passage):
            kinds = [kind for kind in WEIGHTS if offers.has(kind)]
            if len(taken) == per_passage or not kinds:
                break
            kind = generator.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
            text = offers.draw(kind, generator)
            if text and text not in taken:
                taken.add(text)
                yield Generated(passage, text, "titles")


@dataclass(slots=True)
class _Offers:
    """What queries can be made of; headings and sentences are used up as they are drawn."""

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


def _offers(passage: Passage, statistics: Statistics) -> _Offers:
    weights = statistics.weights(words_of(passage.content))
    salient = sorted(weights, key=lambda word: (-weights[word], word))[:SALIENT]
    in_order = dict.fromkeys(lower_words(passage.content))
    return _Offers(
        headings=_headings(passage),
        sentences=_sentences(passage),
        phrases=_phrases(passage, statistics, weights),
        keywords=[word for word in in_order if word in salient],
    )


def _headings(passage: Passage) -> list[str]:
    """Return title, Markdown headings, and a first line that does not end like a sentence."""
    found = [passage.title, *_MARKDOWN_HEADING.findall(passage.text)]
    first, _, rest = passage.text.strip().partition("\n")
    is_sentence = first.rstrip().endswith((".", ",", ";"))
    if rest.strip() and not first.startswith("#") and not is_sentence:
        found.append(first)
    return _different(found, lambda words: 0 < len(words) <= HEADING_WORDS)


def _sentences(passage: Passage) -> list[str]:
    return _different(
        _SENTENCE_END.split(passage.text),
        lambda words: len(words) <= SENTENCE_WORDS and len(words_of(" ".join(words))) >= 4,
    )


def _different(texts: Iterable[str], fits: Callable[[list[str]], bool]) -> list[str]:
    """Return texts of a fitting length on one line, each once."""
    kept: dict[str, None] = {}
    for text in texts:
        words = text.split()
        if fits(words):
            kept[" ".join(words)] = None
    return list(kept)


def _phrases(passage: Passage, statistics: Statistics, weights: dict[str, float]) -> list[str]:
    scored: dict[str, float] = {}
    for part in _BREAK.split(passage.content):
        run: list[str] = []
        for word in [*WORD.findall(part), ""]:
            if word and word.lower() not in statistics.common:
                run.append(word)
                continue
            if PHRASE[0] <= len(run) <= PHRASE[1]:
                scored[" ".join(run)] = sum(weights.get(word.lower(), 0.0) for word in run) / len(run)
            run = []
    return sorted(scored, key=lambda phrase: (-scored[phrase], phrase))[:SALIENT]
