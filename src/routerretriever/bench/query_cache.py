"""Query sets that are encoded once; later runs read their candidates from a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from routerretriever.bench.query_set import FALLBACK, Blender, Candidate, Queries, QuerySet
from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.encoder.query_batch import PreparedQueries
from routerretriever.evaluation.runs import MEASURES
from routerretriever.model import RouterRetriever
from routerretriever.progress import Progress
from routerretriever.routing.candidates import BASE, MERGED
from routerretriever.routing.policy import FALLBACK_WEIGHT


def prepare_query_set(
    *,
    model: RouterRetriever,
    experts: Sequence[str],
    rivals: Mapping[str, RouterRetriever],
    collection: Collection,
    split: Split,
    documents: DocumentVectors,
    encoded: PreparedQueries,
    folder: Path,
    progress: Progress,
) -> QuerySet:
    """Encode, search and measure each candidate that is not in the cache.

    Args:
        model: holds the base, the experts and possibly more adapters; all become
            candidates.
        experts: those whose mean is the merged expert.
        rivals: name → model with an expert of that name (multi-task adapters of another
            rank).
        collection: whose documents are searched.
        split: of the queries.
        documents: of the collection.
        encoded: the queries at the branch layer.
        folder: of the cache; a file is named by a hash of all that decides its content.
        progress: shows each candidate.
    """
    result = QuerySet(
        collection=collection,
        split=split,
        documents=documents,
        similarity=model.similarity_fn_name,
        queries=Queries(tuple(split.queries.values()), encoded.route_embeddings()),
        candidates={},
        blender=Blender.of(model, experts, encoded),
    )
    owners = dict.fromkeys((BASE, MERGED, FALLBACK, *model.experts), model) | dict(rivals)
    deltas = {BASE: (), MERGED: tuple(experts), FALLBACK: tuple(experts)}
    asked = queries_digest(collection, split, documents)
    with progress.task(f"{collection.name} ({split.name})", len(owners)) as task:
        for name, owner in owners.items():
            involved = deltas.get(name, (name,))
            weight = FALLBACK_WEIGHT if name == FALLBACK else 1.0
            key = _key(owner, involved, weight, asked)
            path = folder / f"{key}.safetensors"
            candidate = _read(path)
            if candidate is None:
                vectors = Blender.of(owner, experts, encoded).mean(involved, weight)
                candidate = result.rank(vectors)
                _write(path, candidate)
            result.candidates[name] = candidate
            task.advance(1, name)
    return result


def queries_digest(collection: Collection, split: Split, documents: DocumentVectors) -> str:
    """Return a hash of queries, judgements and documents, and of the passages that these were cut into."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{collection.ignore_identical_ids}".encode())
    for document in collection.documents:
        digest.update(f"{document.id}\0{document.content}\0".encode())
    if documents.in_passages:
        for passage in documents.passages:
            digest.update(f"{passage.content}\0".encode())
    for query_id, text in split.queries.items():
        judgements = sorted(split.qrels[query_id].items())
        digest.update(f"{query_id}\0{text}\0{judgements}".encode())
    return digest.hexdigest()


def _key(model: RouterRetriever, experts: Sequence[str], weight: float, asked: str) -> str:
    """Return a hash of all that decides a candidate's vectors, ranking and values."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{model.identity}{asked}{model.similarity_fn_name}{weight}".encode())
    for expert in experts:
        adapter = model.state.experts[expert]
        digest.update(str(adapter.scaling).encode())
        for tensor in adapter.parameters():
            digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> Candidate | None:
    """Return a cached candidate; ``None`` if the file is absent or cut short."""
    try:
        tensors = load_file(path)
        values = {measure: tensors[f"value {measure}"] for measure in MEASURES}
        return Candidate(tensors["vectors"], tensors["ranking"], values)
    except (OSError, KeyError, SafetensorError):
        return None


def _write(path: Path, candidate: Candidate) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {
        "vectors": np.ascontiguousarray(candidate.vectors),
        "ranking": candidate.ranking,
    }
    for measure, values in candidate.values.items():
        tensors[f"value {measure}"] = values
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    temporary.replace(path)
