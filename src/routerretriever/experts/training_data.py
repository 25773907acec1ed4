"""What a training reads: encoded queries, the documents they are ranked against, held-out probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.query_batch import EncodedQueries
from routerretriever.errors import CollectionError
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.kernels.exact_search import Vectors, as_similarity, top_k
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.layers import TrainingPlan

if TYPE_CHECKING:
    from routerretriever.experts.training_config import TrainingConfig
    from routerretriever.model import RouterRetriever

_POOLED_BATCHES = 32  # batches sorted by length together


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One collection's share of a training.

    Attributes:
        train, held_out: queries to learn from, and disjoint ones to stop early by.
        documents: their frozen vectors (m, d).
        queries, probes: ``train`` and ``held_out``, encoded up to the branch layer.
    """

    collection: Collection
    train: Split
    held_out: Split
    documents: Vectors
    queries: EncodedQueries
    probes: EncodedQueries
    negatives: Negatives
    similarity: str

    @classmethod
    def prepare(
        cls, model: RouterRetriever, collection: Collection, documents: Vectors, config: TrainingConfig, budget: int
    ) -> Part:
        """Split a collection whose documents are embedded (m, d), and encode its queries.

        Raises:
            CollectionError: there are too few queries.
        """
        train, held_out = collection.train_and_held_out()
        train = train.sample(config.max_queries, config.seed)
        if len(train) < 2 or len(held_out) < 1:
            raise CollectionError(
                f"'{collection.name}' has {len(train)} train and {len(held_out)} held-out queries: too few to "
                "train on. Some hundred queries are a sensible minimum."
            )
        queries, probes = (
            EncodedQueries.of(model.encoder, list(split.queries.values()), model.query_prompt, budget)
            for split in (train, held_out)
        )
        negatives = Negatives(model, collection, train, documents, config)
        return cls(collection, train, held_out, documents, queries, probes, negatives, model.similarity_fn_name)

    def evaluate(self, adapter: Adapter) -> NDArray[np.float64]:
        """nDCG@10 of every held-out query under an adapter."""
        vectors = self.probes.vectors(TrainingPlan(adapter))
        return ndcg_at_10(vectors, self.held_out, self.documents, self.collection, self.similarity)

    def loss(self, adapter: Adapter, rows: Sequence[int], config: TrainingConfig) -> Tensor:
        """The ranking loss of one batch."""
        plan = TrainingPlan(adapter, config.dropout, config.uses_half(self.negatives.documents.device))
        vectors = self.queries.encoder.finish(plan, *self.queries.batch(rows))
        targets, positive = self.negatives.candidates(rows)
        scores = as_similarity(vectors, self.similarity) @ targets.T
        return ranking_loss(scores / config.temperature, positive.to(scores.device))

    def batches(self, config: TrainingConfig, generator: torch.Generator) -> list[list[int]]:
        """The rows of an epoch's batches, in an order that the generator decides."""
        order = torch.randperm(len(self.queries), generator=generator).tolist()
        size = config.batch_size
        if not config.in_batch:
            # Negatives do not come from the batch, so queries of like length may share one: less padding.
            pool = size * _POOLED_BATCHES
            length = self.queries.length
            order = [row for at in range(0, len(order), pool) for row in sorted(order[at : at + pool], key=length)]
        return [order[at : at + size] for at in range(0, len(order), size)]


def ranking_loss(scores: Tensor, positive: Tensor) -> Tensor:
    """Softmax cross-entropy of every positive against all documents that are not positive.

    Positives of one query do not compete with each other; each weighs the same, and so does each query.
    With one positive this is the usual InfoNCE over the corpus.

    Args:
        scores: similarity over temperature (n, m).
        positive: boolean (n, m), at least one true in every row.
    """
    # Not -inf: a batch may hold nothing but positives, and its gradient has to stay finite.
    others = scores.masked_fill(positive, torch.finfo(scores.dtype).min).logsumexp(dim=1, keepdim=True)
    losses = torch.logaddexp(scores, others) - scores
    return ((losses * positive).sum(dim=1) / positive.sum(dim=1)).mean()


class Negatives:
    """The documents a batch is ranked against, and which of them are relevant."""

    def __init__(
        self,
        model: RouterRetriever,
        collection: Collection,
        train: Split,
        documents: Vectors,
        config: TrainingConfig,
    ) -> None:
        row = {document_id: index for index, document_id in enumerate(collection.document_ids)}
        self.positives = [
            [row[document_id] for document_id, grade in train.qrels[query_id].items() if grade > 0]
            for query_id in train.queries
        ]
        prepared = as_similarity(torch.from_numpy(documents), model.similarity_fn_name)
        self.documents, self.config = prepared.to(model.device), config
        self.mined: list[list[int]] = []
        if not config.in_batch and len(documents) > config.corpus_limit:
            vectors = model.encode_query(list(train.queries.values()), expert="base")
            found = top_k(vectors, documents, config.hard_negatives + 1, model.similarity_fn_name)
            self.mined = [columns.tolist() for columns in found.columns]

    def candidates(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Document vectors (m, d), ready for a dot product, and a boolean mask of positives (n, m)."""
        if not self.config.in_batch and not self.mined:
            columns = None
            position: Any = range(len(self.documents))
        else:
            columns = self._subset(rows)
            position = {column: index for index, column in enumerate(columns)}
        positive = torch.zeros(len(rows), len(position), dtype=torch.bool)
        for number, row in enumerate(rows):
            positive[number, [position[column] for column in self.positives[row] if column in position]] = True
        return self.documents if columns is None else self.documents[columns], positive

    def _subset(self, rows: Sequence[int]) -> list[int]:
        if self.config.in_batch:
            picks = [self.positives[row][int(torch.randint(len(self.positives[row]), ()))] for row in rows]
            return sorted(set(picks))
        chosen = set(torch.randint(len(self.documents), (self.config.sampled_negatives,)).tolist())
        for row in rows:
            chosen.update(self.positives[row])
            chosen.update(self.mined[row])
        return sorted(chosen)
