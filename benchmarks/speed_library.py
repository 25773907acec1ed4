"""Building the pilot library, against a full evaluation of every expert on every collection.

The peer is Sentence Transformers' InformationRetrievalEvaluator on the base with one PEFT adapter active, which is how
one would otherwise learn what each expert gains where. It encodes the corpus every time.
"""

from __future__ import annotations

import os
import time
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from speed_models import saved_adapters
from speed_setting import Setting, said

from routerretriever import Collection, RouterRetriever
from routerretriever.library import build_library

COLLECTIONS = ("bankfaq", "mitre_attack")
TOLERANCE = 2.5e-3  # documents of equal score are in another order there, which one query in a hundred notices


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
    model = RouterRetriever.from_pretrained(setting.model, device=setting.device)
    model.encoder.policy = None
    cold, _ = _ours(model, collections)
    warm, gains = _ours(model, collections)
    peer, theirs = _peer(setting, model, collections)
    worst = max(abs(gains[key] - theirs[key]) for key in gains)
    if worst > TOLERANCE:
        raise SystemExit(f"The evaluator measures other gains: they differ by {worst:.2g}.")
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
                    "largest difference of a mean gain": worst,
                    "times as fast, documents embedded before": round(peer / warm, 1),
                    "times as fast, documents included": round(peer / cold, 1),
                }
            )
        ]
    }


def _ours(model: RouterRetriever, collections: list[Collection]) -> tuple[float, dict[tuple[str, str], float]]:
    started = time.perf_counter()
    library = build_library(model, collections)
    seconds = time.perf_counter() - started
    means = library.mean_gains()
    gains = {(c.name, e): float(means[c.name][k]) for c in collections for k, e in enumerate(library.experts)}
    return seconds, gains


def _peer(
    setting: Setting, model: RouterRetriever, collections: list[Collection]
) -> tuple[float, dict[tuple[str, str], float]]:
    encoder = _QuerySide(modules=list(setting.base()), device=setting.device).eval()
    for folder in saved_adapters(model, setting.scratch / "library-experts"):
        encoder.load_adapter(str(folder), adapter_name=folder.name)
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
        for name in model.experts:
            encoder.set_adapter(name)
            started = time.perf_counter()
            value = evaluator(encoder)["cosine_ndcg@10"]
            seconds += time.perf_counter() - started
            gains[collection.name, name] = value - base
    return seconds, gains
