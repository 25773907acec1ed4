"""Queries of one collection with the vectors, ranking and values of each candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.encoder.query_batch import PreparedQueries
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.evaluation.hybrid_runs import HybridRanker, Neighbours, Weights, words_of
from routerretriever.evaluation.runs import GAIN_MEASURE, Run, measure_run, own_documents, search_run
from routerretriever.evaluation.unselected import unselected_gains
from routerretriever.kernels.vectors import Vectors
from routerretriever.lora.expert_info import ExpertInfo
from routerretriever.model import RouterRetriever
from routerretriever.routing.candidates import BASE, MERGED
from routerretriever.routing.form_pilots import Measurement
from routerretriever.routing.word_gains import WordGains
from routerretriever.words.word_search import Found

FALLBACK = "merged-part"
"""The candidate for out-of-domain queries: the merged expert at the policy's fallback weight."""


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """What a router may see of queries: their texts and route embeddings (n, d)."""

    texts: tuple[str, ...]
    route_embeddings: Vectors

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """What one encoding makes of some queries.

    Attributes:
        vectors: (n, d); empty for a ranking that is not made by vectors.
        ranking: rows of the collection's documents, best first, -1 where there are
            fewer (n, 100).
        values: measure → value per query (n,).
    """

    vectors: Vectors
    ranking: NDArray[np.int32]
    values: Mapping[str, NDArray[np.float64]]

    @property
    def ndcg(self) -> NDArray[np.float64]:
        """nDCG@10 per query (n,)."""
        return self.values[GAIN_MEASURE]


@dataclass(frozen=True, slots=True, eq=False)
class Blender:
    """Queries that the lower layers have encoded, and a model with adapters to finish them."""

    encoder: RoutedEncoder
    encoded: PreparedQueries
    experts: tuple[str, ...]

    @classmethod
    def of(cls, model: RouterRetriever, experts: Sequence[str], encoded: PreparedQueries) -> Self:
        """Return the queries for the adapters of a model with the same base and branch layer."""
        return cls(model.encoder, replace(encoded, encoder=model.encoder), tuple(experts))

    def mean(self, experts: Sequence[str], weight: float = 1.0) -> Vectors:
        """Encode all queries with the mean of some experts' LoRA deltas; without experts, the base.

        Args:
            experts: names of adapters.
            weight: factor of the mean.

        Returns:
            Vectors (n, d).
        """
        if not experts:
            return self.encoded.vectors(None)
        return self.encoded.vectors(self.encoder.mean_plan(experts, weight))

    def blend(self, weights: Mapping[str, NDArray[np.float64]], rows: NDArray[np.int64]) -> Vectors:
        """Encode some queries, each with weighted LoRA deltas.

        Args:
            weights: candidate → its weight for each of all queries (n,).
            rows: positions of the queries to encode (m,).

        Returns:
            Vectors (m, d).
        """
        none = np.zeros(len(self.encoded))
        merged = weights.get(MERGED, none) / max(1, len(self.experts))
        columns = []
        for expert in self.encoder.state.experts:
            own = weights.get(expert, none)
            columns.append(own + merged * (expert in self.experts))
        matrix = torch.from_numpy(np.stack(columns, axis=1)).float()
        part = self.encoded.only(rows.tolist())
        return part.vectors_by(lambda batch: self.encoder.mixed_plan(matrix[rows[batch]]))


@dataclass(frozen=True, slots=True, eq=False)
class QuerySet:
    """One collection's queries of one split, with every candidate.

    Attributes:
        queries: what a router may see of them.
        candidates: name → what it makes of them.
        blender: encodes them with other weights.
        training: training queries that become pilots; held-out queries have them, test
            queries do not.
    """

    collection: Collection
    split: Split
    documents: DocumentVectors
    similarity: str
    queries: Queries
    candidates: dict[str, Candidate]
    blender: Blender
    training: Queries | None = None
    _words: list[Found] = field(default_factory=list, init=False)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.collection.name

    def rank(self, vectors: Vectors) -> Candidate:
        """Search with vectors (n, d) and measure the outcome."""
        run = search_run(vectors, self.split, self.documents, self.collection, similarity=self.similarity)
        return self._measured(vectors, run)

    def _measured(self, vectors: Vectors, run: Run) -> Candidate:
        ids = self.collection.document_ids
        row = dict(zip(ids, range(len(ids)), strict=True))
        ranking = np.full((len(self.queries), 100), -1, np.int32)
        for number, query_id in enumerate(self.split.queries):
            found = [row[document_id] for document_id in run.get(query_id, ())]
            ranking[number, : len(found)] = found
        return Candidate(vectors, ranking, measure_run(run, self.split))

    def words(self) -> list[Found]:
        """Return the passages that each query finds by its words; they are searched once."""
        if not self._words:
            self._words.extend(words_of(self.collection, self.split, self.documents))
        return self._words

    def by_words(self) -> Candidate:
        """Rank by words alone, and measure the outcome."""
        rows = np.full((len(self.queries), 100), -1, np.int32)
        own = own_documents(self.split, self.collection)
        for number, (found, _) in enumerate(self.words()):
            ranked = self.documents.owners[found]
            first = np.sort(np.unique(ranked, return_index=True)[1])
            others = ranked[first][ranked[first] != own[number]][:100]
            rows[number, : len(others)] = others
        return self.measure(rows)

    def with_words(self, vectors: Vectors, weights: Weights, neighbours: Neighbours = False) -> Candidate:
        """Search with vectors (n, d) and words, and measure the outcome.

        Args:
            vectors: of the queries.
            weights: of the vectors, 0..1, one for all or one for each (n,).
            neighbours: whether similar documents draw each other's similarities
                together.
        """
        return self._measured(vectors, self.ranker(vectors).run(weights, neighbours))

    def ranker(self, vectors: Vectors) -> HybridRanker:
        """Return the candidates of query vectors (n, d) and words, to be fused with any weights."""
        return HybridRanker.of(
            vectors,
            self.words(),
            self.split,
            self.documents,
            self.collection,
            similarity=self.similarity,
        )

    def measure(self, ranking: NDArray[np.int32]) -> Candidate:
        """Measure a ranking of the collection's documents."""
        ids = self.collection.document_ids
        run: Run = {}
        for query_id, rows in zip(self.split.queries, ranking, strict=True):
            run[query_id] = {}
            for place, row in enumerate(rows):
                if row >= 0:
                    run[query_id][ids[row]] = float(-place)
        return Candidate(np.empty((0, 0), np.float32), ranking, measure_run(run, self.split))

    def measurement(self, experts: Sequence[str]) -> Measurement:
        """Return the measured gains of some experts for the pilot library."""
        base = self.candidates[BASE].ndcg
        columns = [self.candidates[expert].ndcg - base for expert in experts]
        gains = np.stack(columns, axis=1).astype(np.float32)
        best = experts[int(gains.mean(axis=0).argmax())]
        rankers = [self.ranker(self.candidates[name].vectors) for name in (BASE, best)]
        beside = np.stack([ranker.gains() for ranker in rankers], axis=1)
        known = self.blender.encoder.state.infos
        infos = [known.get(expert, ExpertInfo()) for expert in experts]
        training = self.training or Queries((), self.queries.route_embeddings[:0])
        return Measurement(
            collection=self.name,
            queries=self.queries.texts,
            embeddings=self.queries.route_embeddings,
            gains=gains,
            words=WordGains(values=beside, experts={self.name: best}),
            pilot_gains=unselected_gains(gains, infos, self.collection, self.split),
            training_queries=training.texts,
            training_embeddings=training.route_embeddings,
        )
