"""Cached query vectors: every candidate's vectors, rankings and values for one collection's queries.

All work on routers reads these; the encoder runs once per model and collection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.query_batch import EncodedQueries
from routerretriever.evaluation.runs import GAIN_MEASURE, MEASURES, measure_run, search_run
from routerretriever.kernels.exact_search import Vectors
from routerretriever.model import RouterRetriever
from routerretriever.progress import Progress
from routerretriever.routing.candidates import BASE, MERGED
from routerretriever.routing.form_pilots import Measurement
from routerretriever.routing.policy import FALLBACK_WEIGHT

if TYPE_CHECKING:
    from routerretriever.encoder.routed_encoder import RoutedEncoder

FALLBACK = "merged-part"
"""The candidate for queries that no expert knows: the share ``FALLBACK_WEIGHT`` of the merged update."""


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """All that a router may see of a query: its text and its route embedding (n, d)."""

    texts: tuple[str, ...]
    route_embeddings: Vectors

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """What one way of encoding makes of some queries.

    Attributes:
        vectors: (n, d); empty for rankings that no vector stands behind.
        ranking: rows of the collection's documents, best first, -1 where there are fewer (n, 100).
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
    """Encodes some queries with any blend of a model's adapters; the lower layers have run already."""

    encoder: RoutedEncoder
    encoded: EncodedQueries
    experts: tuple[str, ...]

    @classmethod
    def of(cls, model: RouterRetriever, experts: Sequence[str], encoded: EncodedQueries) -> Self:
        """The same queries under the adapters of a model; the base and its branch layer must be the same."""
        return cls(model.encoder, replace(encoded, encoder=model.encoder), tuple(experts))

    def mean(self, experts: Sequence[str], share: float = 1.0) -> Vectors:
        """Vectors (n, d) of all queries under a share of the mean of some experts; of none: the base."""
        return self.encoded.vectors(self.encoder.mean_plan(experts, share) if experts else None)

    def blend(self, shares: Mapping[str, NDArray[np.float64]], rows: NDArray[np.int64]) -> Vectors:
        """Vectors (m, d) of some queries, each under shares of the updates, one (n,) array a candidate."""
        none = np.zeros(len(self.encoded))
        merged = shares.get(MERGED, none) / max(1, len(self.experts))
        columns = [shares.get(e, none) + merged * (e in self.experts) for e in self.encoder.state.experts]
        matrix = torch.from_numpy(np.stack(columns, axis=1)).float()
        part = self.encoded.only(rows.tolist())
        return part.vectors_by(lambda batch: self.encoder.mixed_plan(matrix[rows[batch]]))


@dataclass(frozen=True, slots=True, eq=False)
class QuerySet:
    """One collection's queries of one split, with every candidate.

    Attributes:
        queries: what a router may see of them.
        candidates: what each way of encoding makes of them.
        blender: encodes them in other ways.
        training: training queries that become pilots; held-out queries have them, test queries do not.
    """

    collection: Collection
    split: Split
    documents: Vectors
    similarity: str
    queries: Queries
    candidates: dict[str, Candidate]
    blender: Blender
    training: Queries | None = None

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.collection.name

    def rank(self, vectors: Vectors) -> Candidate:
        """Search with vectors (n, d) and measure the outcome."""
        run = search_run(vectors, self.split, self.documents, self.collection, similarity=self.similarity)
        row = {document_id: index for index, document_id in enumerate(self.collection.document_ids)}
        ranking = np.full((len(self.queries), 100), -1, np.int32)
        for number, query_id in enumerate(self.split.queries):
            found = [row[document_id] for document_id in run.get(query_id, ())]
            ranking[number, : len(found)] = found
        return Candidate(vectors, ranking, measure_run(run, self.split))

    def measure(self, ranking: NDArray[np.int32]) -> Candidate:
        """Measure a ranking that was made elsewhere."""
        ids = self.collection.document_ids
        run = {
            query_id: {ids[row]: float(-place) for place, row in enumerate(rows) if row >= 0}
            for query_id, rows in zip(self.split.queries, ranking, strict=True)
        }
        return Candidate(np.empty((0, 0), np.float32), ranking, measure_run(run, self.split))

    def measurement(self, experts: Sequence[str]) -> Measurement:
        """The measured gains of some experts, as the pilot library wants them."""
        base = self.candidates[BASE].ndcg
        gains = np.stack([self.candidates[expert].ndcg - base for expert in experts], axis=1).astype(np.float32)
        training = self.training or Queries((), self.queries.route_embeddings[:0])
        return Measurement(
            collection=self.name,
            queries=self.queries.texts,
            embeddings=self.queries.route_embeddings,
            gains=gains,
            training_queries=training.texts,
            training_embeddings=training.route_embeddings,
        )


def prepare(
    model: RouterRetriever,
    experts: Sequence[str],
    rivals: Mapping[str, RouterRetriever],
    collection: Collection,
    split: Split,
    encoded: EncodedQueries,
    folder: Path,
    progress: Progress,
) -> QuerySet:
    """Encode, search and measure every candidate; what is in ``folder`` already is read instead.

    Args:
        model: holds the base, the experts and possibly more adapters, all of which become candidates.
        experts: those whose mean is the merged expert.
        rivals: name → model with an expert of that name (multi-task adapters of another rank).
        encoded: the split's queries at the branch layer.
        folder: of the cache; files are named by a hash of all that decides their content.
    """
    documents = model.embed_collection(collection, progress=progress)
    blender = Blender.of(model, experts, encoded)
    queries = Queries(tuple(split.queries.values()), encoded.route_embeddings())
    result = QuerySet(collection, split, documents, model.similarity_fn_name, queries, {}, blender)
    owners = dict.fromkeys((BASE, MERGED, FALLBACK, *model.experts), model) | dict(rivals)
    with progress.task(f"{collection.name} ({split.name})", len(owners)) as task:
        for name, owner in owners.items():
            involved = {BASE: (), MERGED: tuple(experts), FALLBACK: tuple(experts)}.get(name, (name,))
            share = FALLBACK_WEIGHT if name == FALLBACK else 1.0
            path = folder / f"{_key(owner, involved, share, collection, split)}.safetensors"
            candidate = _read(path)
            if candidate is None:
                vectors = Blender.of(owner, experts, encoded).mean(involved, share)
                candidate = _write(path, result.rank(vectors))
            result.candidates[name] = candidate
            task.advance(1, name)
    return result


def _key(model: RouterRetriever, experts: Sequence[str], share: float, collection: Collection, split: Split) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{model.fingerprint}{len(collection.documents)}{model.similarity_fn_name}{share}".encode())
    for expert in experts:
        adapter = model.state.experts[expert]
        digest.update(str(adapter.scaling).encode())
        for tensor in adapter.parameters():
            digest.update(tensor.detach().cpu().numpy().tobytes())
    for query_id, text in split.queries.items():
        digest.update(f"{query_id}\0{text}\0{sorted(split.qrels[query_id].items())}".encode())
    return digest.hexdigest()


def _read(path: Path) -> Candidate | None:
    try:
        tensors = load_file(path)
        values = {measure: tensors[f"value {measure}"] for measure in MEASURES}
        return Candidate(tensors["vectors"], tensors["ranking"], values)
    except (OSError, KeyError, SafetensorError):  # absent or cut short: made again
        return None


def _write(path: Path, candidate: Candidate) -> Candidate:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {"vectors": np.ascontiguousarray(candidate.vectors), "ranking": candidate.ranking}
    tensors |= {f"value {measure}": values for measure, values in candidate.values.items()}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    temporary.replace(path)
    return candidate
