"""Pseudo-queries from a passage's own headings, sentences, salient phrases, and keywords.

Tf-idf over the collection decides what is salient. Phrases are runs of words between function
words and punctuation, as in RAKE (Rose et al. 2010), so neither a tagger nor a language model
is needed. Words of a fifth of all passages count as function words, whatever the language.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

from routerretriever.synthesis.passages import Passage
from routerretriever.synthesis.queries import Generated

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
COMMON = 0.2
"""A word of more than this share of all passages is a function word."""

COUNTED = 50_000
"""Most passages that frequencies are counted on."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
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


def words_of(text: str) -> list[str]:
    """Return the words of a text; ``readFile`` and ``read_file`` are two words each."""
    return _WORD.findall(_HUMP.sub(" ", text))


@dataclass(frozen=True, slots=True)
class Statistics:
    """How rare words are in a collection.

    Attributes:
        idf: word → inverse document frequency.
        common: function words.
    """

    idf: dict[str, float]
    common: frozenset[str]

    @classmethod
    def of(cls, passages: Sequence[Passage]) -> Statistics:
        """Count the words of at most ``COUNTED`` passages, in the order of their hashes."""
        counted = sorted(passages, key=lambda passage: passage.key)[:COUNTED]
        vectorizer = TfidfVectorizer(analyzer=_lower_words)
        vectorizer.fit(passage.content for passage in counted)
        idf = dict(zip(vectorizer.get_feature_names_out().tolist(), vectorizer.idf_.tolist(), strict=True))
        frequent = TfidfVectorizer(analyzer=_lower_words, min_df=max(COMMON, 3 / len(counted)))
        try:
            frequent.fit(passage.content for passage in counted)
            common = frozenset(frequent.get_feature_names_out().tolist())
        except ValueError:  # no word is that frequent
            common = frozenset()
        return cls(idf, common | ENGLISH_STOP_WORDS)

    def weights(self, words: Sequence[str]) -> dict[str, float]:
        """Return word → tf-idf within a passage, without function words and numbers."""
        counts = Counter(word.lower() for word in words)
        return {
            word: (1 + (count > 1)) * self.idf.get(word, 0.0)
            for word, count in counts.items()
            if word not in self.common and len(word) > 1 and not word.isdigit()
        }


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


def _lower_words(text: str) -> list[str]:
    return [word.lower() for word in words_of(text)]


def _offers(passage: Passage, statistics: Statistics) -> _Offers:
    weights = statistics.weights(words_of(passage.content))
    salient = sorted(weights, key=lambda word: (-weights[word], word))[:SALIENT]
    order = {word: number for number, word in reversed(list(enumerate(_lower_words(passage.content))))}
    return _Offers(
        _headings(passage),
        _sentences(passage),
        _phrases(passage, statistics, weights),
        sorted(salient, key=lambda word: order[word]),
    )


def _headings(passage: Passage) -> list[str]:
    """Return title, Markdown headings, and a first line that does not end like a sentence."""
    found = [passage.title, *_MARKDOWN_HEADING.findall(passage.text)]
    first, _, rest = passage.text.strip().partition("\n")
    if rest.strip() and not first.startswith("#") and not first.rstrip().endswith((".", ",", ";")):
        found.append(first)
    clean = (" ".join(heading.split()) for heading in found)
    return list(dict.fromkeys(heading for heading in clean if 0 < len(heading.split()) <= HEADING_WORDS))


def _sentences(passage: Passage) -> list[str]:
    sentences = (" ".join(sentence.split()) for sentence in _SENTENCE_END.split(passage.text))
    return list(dict.fromkeys(s for s in sentences if len(words_of(s)) >= 4 and len(s.split()) <= SENTENCE_WORDS))


def _phrases(passage: Passage, statistics: Statistics, weights: dict[str, float]) -> list[str]:
    scored: dict[str, float] = {}
    for part in _BREAK.split(passage.content):
        run: list[str] = []
        for word in [*_WORD.findall(part), ""]:
            if word and word.lower() not in statistics.common:
                run.append(word)
                continue
            if PHRASE[0] <= len(run) <= PHRASE[1]:
                scored[" ".join(run)] = sum(weights.get(word.lower(), 0.0) for word in run) / len(run)
            run = []
    return sorted(scored, key=lambda phrase: (-scored[phrase], phrase))[:SALIENT]
