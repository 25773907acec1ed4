"""Training an expert to the same held-out nDCG@10, against the trainer that people would use.

The peer is SentenceTransformerTrainer with a PEFT adapter and MultipleNegativesRankingLoss: queries and documents go
through the adapted encoder at every step. What it is measured with costs it nothing; our own evaluations count.
"""

from __future__ import annotations

import os
import time
import warnings
from typing import Any

import numpy as np
from datasets import Dataset
from peft import LoraConfig, TaskType
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from speed_setting import Setting, said
from transformers import TrainerCallback

from routerretriever import Collection, RouterRetriever, train_expert
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.experts.training_config import TrainingConfig

COLLECTIONS = ("bankfaq",)
MAX_QUERIES = 1600
CAP = 10  # times our own seconds, after which the peer is stopped
CHECKS = 48
RATE = 1e-3  # at 2e-4 the peer takes as long and finds less


def run(setting: Setting) -> dict[str, Any]:
    """Ours, then the peer, on every collection."""
    return {"rows": [said(_row(setting, setting.collection(name))) for name in COLLECTIONS]}


def _row(setting: Setting, collection: Collection) -> dict[str, Any]:
    ours = _ours(setting, collection)
    cap = CAP * ours["seconds with documents"]
    peer = _Peer(setting, collection).run(ours["nDCG@10"], cap)
    return {
        "collection": collection.name,
        **ours,
        **peer,
        "times as fast": round(peer["peer seconds"] / ours["seconds"], 2),
        "times as fast with documents": round(peer["peer seconds"] / ours["seconds with documents"], 2),
    }


def _ours(setting: Setting, collection: Collection) -> dict[str, Any]:
    os.environ["ROUTERRETRIEVER_CACHE"] = str(setting.scratch / f"train-{collection.name}")
    model = RouterRetriever.create(device=setting.device)
    started = time.perf_counter()
    model.embed_collection(collection)
    embedded = time.perf_counter()
    report = train_expert(model, collection, config=TrainingConfig(max_queries=MAX_QUERIES))
    trained = time.perf_counter()
    return {
        "nDCG@10": round(report.info.expert_ndcg, 4),
        "base nDCG@10": round(report.info.base_ndcg, 4),
        "steps": report.steps,
        "seconds": round(trained - embedded, 1),
        "seconds with documents": round(trained - started, 1),
    }


class _Peer(TrainerCallback):
    """Trains until our quality is reached; the time of its evaluations is taken off."""

    def __init__(self, setting: Setting, collection: Collection) -> None:
        self.collection, self.folder = collection, setting.scratch
        train, self.held_out = collection.train_and_held_out()
        self.train = train.sample(MAX_QUERIES)
        self.model: SentenceTransformer = setting.base()
        self.model.add_adapter(
            LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=8, lora_alpha=32, target_modules="all-linear")
        )
        self.best, self.spent, self.started = 0.0, 0.0, 0.0
        self.history: list[tuple[float, float]] = []

    def run(self, wanted: float, cap: float) -> dict[str, Any]:
        """Seconds to the wanted held-out nDCG@10, or to the cap."""
        self.wanted, self.cap = wanted, cap
        texts = dict(zip(self.collection.document_ids, self.collection.contents, strict=True))
        pairs = [
            (query, texts[document])
            for query_id, query in self.train.queries.items()
            for document, grade in self.train.qrels[query_id].items()
            if grade > 0 and document in texts
        ]
        data = Dataset.from_dict({"anchor": [a for a, _ in pairs], "positive": [b for _, b in pairs]})
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(self.folder / "peer"),
            num_train_epochs=8,
            per_device_train_batch_size=32,
            learning_rate=RATE,
            warmup_ratio=0.1,
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(
            model=self.model,
            args=arguments,
            train_dataset=data,
            loss=MultipleNegativesRankingLoss(self.model),
            callbacks=[self],
        )
        self.every = max(1, 8 * -(-len(pairs) // 32) // CHECKS)
        self.started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.train()
        return {
            "peer nDCG@10": round(self.best, 4),
            "peer": "reached ours" if self.best >= wanted else "did not reach ours",
            "peer seconds": round(self.history[-1][0], 1),
            "peer history": self.history,
        }

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure from time to time, and stop at our quality or at the cap."""
        elapsed = time.perf_counter() - self.started - self.spent
        over = elapsed > self.cap
        if state.global_step % self.every and not over and state.global_step < state.max_steps:
            return
        before = time.perf_counter()
        value = self._held_out()
        self.spent += time.perf_counter() - before
        self.history.append((round(elapsed, 1), round(value, 4)))
        self.best = max(self.best, value)
        control.should_training_stop = control.should_training_stop or over or value >= self.wanted

    def _held_out(self) -> float:
        self.model.eval()
        vectors = np.asarray(self.model.encode_document(list(self.collection.contents)), np.float32)
        documents = DocumentVectors.whole(self.collection.documents, vectors)
        queries = np.asarray(self.model.encode_query(list(self.held_out.queries.values())), np.float32)
        self.model.train()
        return float(ndcg_at_10(queries, self.held_out, documents, self.collection).mean())
