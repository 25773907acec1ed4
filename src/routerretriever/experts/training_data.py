"""What a training reads of one collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.encoder.query_batch import PreparedQueries, prepare_queries
from routerretriever.errors import CollectionError, ExpertError
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.experts.anchors import Anchors
from routerretriever.experts.negatives import Negatives, ranking_loss
from routerretriever.experts.training_config import TrainingConfig
from routerretriever.kernels.exact_search import as_similarity
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.layers import Plan, TrainingPlan

_POOLED_BATCHES = 32  # batches sorted by length together


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingData:
    """One collection's queries and documents, ready to train on.

    Attributes:
        collection: where they are from.
        train, held_out: queries to learn from, and disjoint ones to stop early by.
        documents: their frozen vectors, of long documents those of their passages.
        queries, probes: ``train`` and ``held_out``, encoded up to the branch layer, or
            to the end.
        negatives: what the queries are ranked against.
        anchors: texts that the expert should leave as they are; ``None`` where there are none.
        similarity: ``cosine`` or ``dot``.
    """

    collection: Collection
    train: Split
    held_out: Split
    documents: DocumentVectors
    queries: PreparedQueries
    probes: PreparedQueries
    negatives: Negatives
    anchors: Anchors | None
    similarity: str

    @classmethod
    def prepare(
        cls,
        model: RoutedModel,
        collection: Collection,
        documents: DocumentVectors,
        config: TrainingConfig,
        budget: int,
    ) -> Self:
        """Split a collection and encode its queries.

        Args:
            model: its base encodes.
            collection: needs a train split.
            documents: of the collection.
            config: how the expert is trained.
            budget: bytes of hidden states, for each of the two splits.

        Raises:
            CollectionError: there are too few queries, or one has no relevant document.
        """
        train, held_out = collection.train_and_held_out()
        train = train.sample(config.max_queries, config.seed)
        if len(train) < 2 or len(held_out) < 1:
            raise CollectionError(
                f"'{collection.name}' has {len(train)} train and {len(held_out)} held-out queries: too few to "
                "train on. Some hundred queries are a sensible minimum."
            )
        negatives = Negatives(model, collection, train=train, documents=documents, config=config)
        queries, probes = (
            prepare_queries(model.encoder, list(split.queries.values()), model.query_prompt, budget)
            for split in (train, held_out)
        )
        anchors = None
        if config.has_anchors and not _are_of_documents(collection, train):
            anchors = Anchors.of(model, documents.texts, config.seed, budget)
        return cls(
            collection=collection,
            train=train,
            held_out=held_out,
            documents=documents,
            queries=queries,
            probes=probes,
            negatives=negatives,
            anchors=anchors,
            similarity=model.similarity_fn_name,
        )

    def finished(self, plan: Plan | None) -> TrainingData:
        """Return the same data with queries that are encoded to the end under a plan.

        Args:
            plan: what encodes them; ``None`` is the plain base.
        """
        return replace(
            self,
            queries=self.queries.finished(plan),
            probes=self.probes.finished(plan),
            anchors=self.anchors and self.anchors.finished(plan),
        )

    @property
    def only_crops(self) -> bool:
        """Whether all training queries are crops of passages."""
        return all(self.collection.generated.get(query_id) == "crops" for query_id in self.train.queries)

    @property
    def is_of_documents(self) -> bool:
        """Whether queries to train on are the documents' own words: anchors would hold against them."""
        return _are_of_documents(self.collection, self.train)

    def evaluate(self, adapter: Adapter) -> NDArray[np.float64]:
        """Return nDCG@10 of every held-out query under an adapter."""
        vectors = self.probes.vectors(TrainingPlan(adapter))
        return ndcg_at_10(vectors, self.held_out, self.documents, self.collection, self.similarity)

    def loss(self, adapter: Adapter, rows: Sequence[int], config: TrainingConfig) -> Tensor:
        """Return the ranking loss of one batch, and with anchors what it costs to move some of them."""
        in_bf16 = config.computes_in_bf16(self.negatives.vectors.device)
        plan = TrainingPlan(adapter, config.dropout, in_bf16)
        ranked = self.negatives.candidates(rows)
        vectors = as_similarity(self.queries.vectors_of(plan, rows), self.similarity)
        scores = vectors @ ranked.vectors.T
        ignored = None if ranked.ignored is None else ranked.ignored.to(scores.device)
        loss = ranking_loss(scores / config.temperature, ranked.positive.to(scores.device), ignored)
        weight = config.anchor_weight(len(self.train))
        if self.anchors is None or not weight:
            return loss
        return loss + weight * self.anchors.distance(plan)

    def batches(self, config: TrainingConfig, generator: torch.Generator) -> list[list[int]]:
        """Return the rows of an epoch's batches, in an order that the generator decides."""
        order = torch.randperm(len(self.queries), generator=generator).tolist()
        size = config.batch_size
        if not config.in_batch:
            # Negatives do not come from the batch, so queries of similar length may share one,
            # which saves padding.
            pool = size * _POOLED_BATCHES
            by_length: list[int] = []
            for start in range(0, len(order), pool):
                by_length += sorted(order[start : start + pool], key=self.queries.length)
            order = by_length
        return [order[start : start + size] for start in range(0, len(order), size)]


def check_queries(collections: Sequence[Collection], config: TrainingConfig) -> None:
    """Refuse collections without queries to learn from, and anchors that somebody asks for where none can be.

    Raises:
        CollectionError: there is no train split, or too few queries to hold some out.
        ExpertError: anchors are asked for, and the queries of all collections are the documents' own words.
    """
    trained_on = [source.train_and_held_out()[0] for source in collections]
    if config.anchor and all(map(_are_of_documents, collections, trained_on)):
        names = ", ".join(f"'{source.name}'" for source in collections)
        raise ExpertError(
            f"Queries of {names} are crops or titles of documents, which anchors would hold where the base has "
            "them, so nothing could be learnt. Leave out anchor (--anchor)."
        )


def _are_of_documents(collection: Collection, train: Split) -> bool:
    return any(collection.generated.get(query_id) in ("crops", "titles") for query_id in train.queries)
