"""How rare words are in a collection, by tf-idf."""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

from routerretriever.data.text import stable_hash
from routerretriever.words.languages import UNSPACED

COMMON = 0.2
"""A word of more than this share of all texts is a function word."""

COUNTED = 10_000
"""Most texts that frequencies are counted on."""

# Two signs count as a word where a script has no spaces.
WORD = re.compile(rf"[{UNSPACED}]{{1,2}}|[^\W_{UNSPACED}]+(?:['’-][^\W_{UNSPACED}]+)*")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def words_of(text: str) -> list[str]:
    """Return the words of a text; ``readFile`` and ``read_file`` are two words each."""
    return WORD.findall(_HUMP.sub(" ", text))


def lower_words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return [word.lower() for word in words_of(text)]


@dataclass(frozen=True, slots=True)
class WordStatistics:
    """How rare words are in a collection.

    Attributes:
        idf: word → inverse document frequency.
        common: function words.
    """

    idf: dict[str, float]
    common: frozenset[str]

    @classmethod
    def of(cls, texts: Iterable[str]) -> WordStatistics:
        """Count the words of the ``COUNTED`` texts with the lowest hashes; of many no others are kept."""
        counted = heapq.nsmallest(COUNTED, texts, key=stable_hash)
        try:
            vectorizer = TfidfVectorizer(analyzer=lower_words).fit(counted)
        except ValueError:  # there is no word at all
            return cls({}, ENGLISH_STOP_WORDS)
        words = vectorizer.get_feature_names_out().tolist()
        idf = dict(zip(words, vectorizer.idf_.tolist(), strict=True))

        # As scikit-learn counts: ln((1 + n) / (1 + df)) + 1.
        least = max(COMMON * len(counted), 3)
        highest = math.log((1 + len(counted)) / (1 + least)) + 1 + 1e-9
        common = frozenset(word for word, value in idf.items() if value <= highest)
        return cls(idf, common | ENGLISH_STOP_WORDS)

    def weights(self, words: Sequence[str]) -> dict[str, float]:
        """Return word → tf-idf within a text, without function words and numbers."""
        weights: dict[str, float] = {}
        for word, count in Counter(word.lower() for word in words).items():
            if word not in self.common and len(word) > 1 and not word.isdigit():
                weights[word] = (1 + (count > 1)) * self.idf.get(word, 0.0)
        return weights
