"""Building the pilot library, against a full evaluation of every expert on every collection.

The peer is Sentence Transformers' InformationRetrievalEvaluator on the base with one PEFT adapter active, which is how
one would otherwise learn what each expert gains where. It encodes the corpus every time.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from speed_models import saved_adapters, with_experts
from speed_setting import Setting, said

from routerretriever import Collection, RouterRetriever
from routerretriever.evaluation.gains import build_library

EXPERTS = 8
COLLECTIONS = ("bankfaq", "mitre_attack")
VECTORS, GAINS = 1e-4, 2.5e-3
"""By how much query vectors and mean gains may differ: documents of equal score stand in another order there, which one
query in a hundred notices."""


class _QuerySide(SentenceTransformer):
    """The adapter changes queries alone, so that both systems measure the same."""

    def encode_document(self, *args: Any, **kwargs: Any) -> Any:
        self.disable_adapters()
        try:
            return super().encode_document(*args, **kwargs)
        finally:
            self.enable_adapters()


def run(setting: Setting) -> dict[str, Any]:
    """Ours with and without the documents at hand, then all full evaluations, once each: they take minutes."""
    os.environ["ROUTERRETRIEVER_CACHE"] = str(setting.scratch / "library")
    collections = [setting.collection(name) for name in COLLECTIONS]
    model = with_experts(setting.model, EXPERTS, setting.device)
    cold, _ = _ours(model, collections)
    warm, gains = _ours(model, collections)
    encoder = _adapted(setting, model)
    apart = max(_apart(model, encoder, collection) for collection in collections)
    peer, theirs = _peer(encoder, list(model.experts), collections)
    worst = max(abs(gains[key] - theirs[key]) for key in gains)
    if apart > VECTORS or worst > GAINS:
        raise SystemExit(
            f"The evaluator measures others: vectors differ by {apart:.2g}, mean gains by {worst:.2g}."
        )
    return {
        "rows": [
            said(
                {
                    "experts": len(model.experts),
                    "collections": COLLECTIONS,
                    "documents": sum(len(collection.documents) for collection in collections),
                    "seconds": round(warm, 1),
                    "seconds with documents": round(cold, 1),
                    "evaluator seconds": round(peer, 1),
                    "largest difference of a query vector": apart,
                    "largest difference of a mean gain": worst,
                    "times as fast, documents embedded before": round(peer / warm, 1),
                    "times as fast, documents included": round(peer / cold, 1),
                }
            )
        ]
    }


def _ours(
    model: RouterRetriever, collections: list[Collection]
) -> tuple[float, dict[tuple[str, str], float]]:
    started = time.perf_counter()
    library = build_library(model, collections)
    seconds = time.perf_counter() - started
    means = library.mean_gains()
    gains = {(c.name, e): float(means[c.name][k]) for c in collections for k, e in enumerate(library.experts)}
    return seconds, gains


def _adapted(setting: Setting, model: RouterRetriever) -> _QuerySide:
    encoder = _QuerySide(modules=list(setting.base()), device=setting.device).eval()
    for folder in saved_adapters(model, setting.scratch / "library-experts"):
        encoder.load_adapter(str(folder), adapter_name=folder.name)
    return encoder


def _apart(model: RouterRetriever, encoder: _QuerySide, collection: Collection) -> float:
    """The largest difference between our vectors of the held-out queries and the peer's, over all experts."""
    texts = list(collection.train_and_held_out()[1].queries.values())
    worst = 0.0
    for name in model.experts:
        encoder.set_adapter(name)
        difference = model.encode_query(texts, expert=name) - encoder.encode_query(texts)
        worst = max(worst, float(np.abs(difference).max()))
    return worst


def _peer(
    encoder: _QuerySide, experts: list[str], collections: list[Collection]
) -> tuple[float, dict[tuple[str, str], float]]:
    seconds, gains = 0.0, {}
    for collection in collections:
        held_out = collection.train_and_held_out()[1]
        relevant = {
            query: {document for document, grade in grades.items() if grade > 0}
            for query, grades in held_out.qrels.items()
        }
        evaluator = InformationRetrievalEvaluator(
            queries=dict(held_out.queries),
            corpus=dict(zip(collection.document_ids, collection.contents, strict=True)),
            relevant_docs=relevant,
            show_progress_bar=False,
            write_csv=False,
        )
        encoder.disable_adapters()
        base = evaluator(encoder)["cosine_ndcg@10"]
        encoder.enable_adapters()
        for name in experts:
            encoder.set_adapter(name)
            started = time.perf_counter()
            value = evaluator(encoder)["cosine_ndcg@10"]
            seconds += time.perf_counter() - started
            gains[collection.name, name] = value - base
    return seconds, gains
