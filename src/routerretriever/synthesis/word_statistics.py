"""How rare words are in a collection, by tf-idf."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

from routerretriever.synthesis.passages import Passage

COMMON = 0.2
"""A word of more than this share of all passages is a function word."""

COUNTED = 50_000
"""Most passages that frequencies are counted on."""

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def words_of(text: str) -> list[str]:
    """Return the words of a text; ``readFile`` and ``read_file`` are two words each."""
    return WORD.findall(_HUMP.sub(" ", text))


def lower_words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return [word.lower() for word in words_of(text)]


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
        contents = [passage.content for passage in counted]
        vectorizer = TfidfVectorizer(analyzer=lower_words).fit(contents)
        words = vectorizer.get_feature_names_out().tolist()
        idf = dict(zip(words, vectorizer.idf_.tolist(), strict=True))

        frequent = TfidfVectorizer(analyzer=lower_words, min_df=max(COMMON, 3 / len(counted)))
        try:
            common = frozenset(frequent.fit(contents).get_feature_names_out().tolist())
        except ValueError:  # no word is that frequent
            common = frozenset()
        return cls(idf, common | ENGLISH_STOP_WORDS)

    def weights(self, words: Sequence[str]) -> dict[str, float]:
        """Return word → tf-idf within a passage, without function words and numbers."""
        weights: dict[str, float] = {}
        for word, count in Counter(word.lower() for word in words).items():
            if word not in self.common and len(word) > 1 and not word.isdigit():
                weights[word] = (1 + (count > 1)) * self.idf.get(word, 0.0)
        return weights
