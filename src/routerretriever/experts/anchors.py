"""Queries of other styles, made of a collection's own documents, by which training holds an expert to the base.

An expert learns the style of its training queries. Without anything else it changes how every other text is read
as well: keywords, headings and sentences of the same documents, and queries of other domains.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from routerretriever.data.text import stable_hash
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.encoder.query_batch import PreparedQueries, prepare_queries
from routerretriever.lora.layers import Plan

ANCHORS = 512
"""Most texts that are made, and most passages that they are made of."""

TRIES = 4
"""Attempts for each of them: a passage may have no title, or no sentence that is short enough."""

BATCH = 16
"""How many of them hold the expert in every step."""

READ_CHARACTERS = 4000
"""How much of a passage is read."""

LONGEST = 24
"""Most words of a title or a sentence."""

SHORT = (2, 6)
"""Fewest and most words of a phrase or of keywords."""

SALIENT = 20
"""Keywords are drawn from this many of a passage's rarest words."""

COUNTED = 10_000
"""Most passages that the frequencies of words are counted on."""

ANCHORED_SHARE = 0.8
"""Most of the passages that anchors are made of; the others show what the anchors are worth."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
# Two signs count as a word where a script has no spaces.
_WORD = re.compile(rf"[{_UNSPACED}]{{1,2}}|[^\W{_UNSPACED}]+(?:['’-][^\W{_UNSPACED}]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])|\n+")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anchors:
    """Texts whose vectors an expert should leave as they are, ready to train on.

    Attributes:
        queries: the texts in the order of their lengths, encoded up to the branch layer or to the end.
        base: their vectors under the frozen base (n, d).
    """

    queries: PreparedQueries
    base: Tensor

    @classmethod
    def of(
        cls, model: RoutedModel, passages: Sequence[tuple[str, str]], seed: int, budget: int
    ) -> Self | None:
        """Make and encode anchors; ``None`` where the passages have no words.

        Args:
            model: its base encodes.
            passages: title and text of each passage of the collection.
            seed: decides which texts are made.
            budget: bytes of hidden states.
        """
        rows, _ = divided(passages, ANCHORS, seed)
        texts = sorted(made_texts(passages, rows, seed), key=len)
        if not texts:
            return None
        queries = prepare_queries(model.encoder, texts, model.query_prompt, budget)
        return cls(queries=queries, base=torch.from_numpy(queries.vectors(None)).to(model.device))

    def finished(self, plan: Plan | None) -> Self:
        """Return the same with texts that are encoded to the end under a plan."""
        return replace(self, queries=self.queries.finished(plan))

    def distance(self, plan: Plan) -> Tensor:
        """Return how far a plan moves some of the texts: the mean of 1 - cosine.

        Texts of neighbouring lengths are drawn, which saves padding; torch's generator decides which.

        Args:
            plan: the expert.
        """
        size = min(BATCH, len(self.base))
        first = int(torch.randint(len(self.base) - size + 1, ()))
        rows = list(range(first, first + size))
        moved = self.queries.vectors_of(plan, rows)
        return (1.0 - F.cosine_similarity(moved, self.base[rows])).mean()


def divided(passages: Sequence[tuple[str, str]], most: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the rows of passages that anchors are made of, and those of all others.

    Copies of a text are on the same side, and the order of the passages does not count.

    Args:
        passages: title and text of each.
        most: different passages that anchors are made of.
        seed: decides which.
    """
    keys = [stable_hash(f"{seed}:anchor:{title} {text}") for title, text in passages]
    different = sorted(set(keys))
    anchored = set(different[: min(most, int(ANCHORED_SHARE * len(different)))])
    rows = sorted(range(len(keys)), key=keys.__getitem__)
    return [row for row in rows if keys[row] in anchored], [row for row in rows if keys[row] not in anchored]


def made_texts(passages: Sequence[tuple[str, str]], rows: Sequence[int], seed: int) -> list[str]:
    """Return at most ``ANCHORS`` different texts, each a title, a sentence, a phrase or keywords of a passage.

    Args:
        passages: title and text of each passage of the collection.
        rows: the passages to make texts of, in turn.
        seed: decides which.
    """
    counted = sorted(passages, key=lambda passage: stable_hash(" ".join(passage)))[:COUNTED]
    frequencies = Counter(word for title, text in counted for word in set(_lower_words(title, text)))
    made: dict[str, None] = {}
    for number in range(TRIES * ANCHORS if rows else 0):
        if len(made) == ANCHORS:
            break
        title, text = passages[rows[number % len(rows)]]
        generator = random.Random(f"{seed}:{number}:{title} {text}")  # noqa: S311 - not for secrets
        found = _draw(title, text[:READ_CHARACTERS], frequencies, generator)
        if sum(map(str.isalnum, found)) > 1:
            made[found] = None
    return list(made)


def _draw(title: str, text: str, frequencies: Counter[str], generator: random.Random) -> str:
    """Return one query; empty where the passage has nothing of the style that was drawn."""
    style = generator.choices(("title", "sentence", "phrase", "keywords"), (1, 1, 1, 2))[0]
    if style == "title":
        return _on_one_line(title) if len(_WORD.findall(title)) <= LONGEST else ""
    if style == "sentence":
        sentences = [
            part for part in _SENTENCE_END.split(text) if SHORT[0] < len(_WORD.findall(part)) <= LONGEST
        ]
        return _on_one_line(generator.choice(sentences)) if sentences else ""

    if style == "phrase":
        words = list(_WORD.finditer(text))
        if not words:
            return ""
        length = min(len(words), generator.randint(*SHORT))
        first = generator.randrange(len(words) - length + 1)
        return _on_one_line(text[words[first].start() : words[first + length - 1].end()])

    words_in_order = dict.fromkeys(_lower_words(title, text))
    rarest = sorted(words_in_order, key=lambda word: (frequencies[word], word))
    salient = [word for word in rarest if not word.isdigit()][:SALIENT]
    chosen = generator.sample(salient, min(len(salient), generator.randint(*SHORT)))
    return " ".join(word for word in words_in_order if word in chosen)


def _lower_words(title: str, text: str) -> list[str]:
    return _WORD.findall(f"{title} {text[:READ_CHARACTERS]}".lower())


def _on_one_line(text: str) -> str:
    return " ".join(text.split())
