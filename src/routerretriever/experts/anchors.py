"""Queries of other styles, made of a collection's own documents, by which training holds an expert to the base.

An expert learns the style of its training queries. Without anything else it changes how every other text is read
as well: keywords, headings and sentences of the same documents, and queries of other domains.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from routerretriever.data.text import stable_hash
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.encoder.query_batch import PreparedQueries, prepare_queries
from routerretriever.lora.layers import Plan
from routerretriever.passages.short_texts import READ_CHARACTERS, short_texts
from routerretriever.passages.word_statistics import WordStatistics

ANCHORS = 512
"""Most texts that are made, and most passages that they are made of."""

BATCH = 16
"""How many of them hold the expert in every step."""

ANCHORED_SHARE = 0.8
"""Most of the passages that anchors are made of; the others show what the anchors are worth."""


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
        texts = sorted(made_texts(passages, rows, ANCHORS, seed), key=len)
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


def made_texts(
    passages: Sequence[tuple[str, str]], rows: Sequence[int], most: int, seed: int
) -> dict[str, int]:
    """Return different headings, sentences, phrases and keywords, each with the row of its passage.

    Args:
        passages: title and text of each passage of the collection, on which the words are counted.
        rows: the passages to make texts of.
        most: how many texts are wanted.
        seed: decides which.
    """
    statistics = WordStatistics.of(f"{title} {text[:READ_CHARACTERS]}" for title, text in passages)
    # Twice as many as are needed, because passages may have less to offer, or the same.
    each = math.ceil(2 * most / max(1, len(rows)))
    drawn = []
    for row in rows:
        title, text = passages[row]
        generator = random.Random(f"{seed}:{title} {text}")  # noqa: S311 - not for secrets
        drawn.append([(found, row) for found in short_texts(title, text, each, statistics, generator)])

    made: dict[str, int] = {}
    for pair in chain.from_iterable(zip_longest(*drawn)):
        if pair is not None and len(made) < most:
            made.setdefault(*pair)
    return made
