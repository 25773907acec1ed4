"""What an expert does to other ways of asking: short texts of its documents, each of which should find its passage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from routerretriever.data.splits import Split
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.encoder.query_batch import HIDDEN_BUDGET, prepare_queries
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.experts.anchors import ANCHORS, divided, made_texts
from routerretriever.experts.training_data import TrainingData
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.expert_info import OtherStyles
from routerretriever.lora.layers import TrainingPlan

QUERIES = 500
"""Most texts of a collection."""

FEWEST = 20
"""Fewer say nothing."""


def measure_other_styles(
    model: RoutedModel, data: Sequence[TrainingData], adapter: Adapter, seed: int
) -> OtherStyles | None:
    """Measure an expert on texts that were made of passages without anchors.

    Args:
        model: its base encodes.
        data: what the expert was trained on. Collections with queries of the same making are left out.
        adapter: the expert, where the encoder computes.
        seed: of the training.

    Returns:
        Means over the collections; ``None`` where none has enough texts.
    """
    queries, means = 0, []
    for part in data:
        asked = None if part.is_of_documents else _asked(part, seed)
        if asked is None:
            continue
        encoded = prepare_queries(
            model.encoder, list(asked.queries.values()), model.query_prompt, HIDDEN_BUDGET
        )
        vectors = (encoded.vectors(None), encoded.vectors(TrainingPlan(adapter)))
        values = [ndcg_at_10(own, asked, part.documents, part.collection, part.similarity) for own in vectors]
        means.append([scores.mean() for scores in values])
        queries += len(asked)
    if not means:
        return None
    base, expert = np.mean(means, axis=0).tolist()
    return OtherStyles(queries=queries, base_ndcg=base, expert_ndcg=expert)


def _asked(part: TrainingData, seed: int) -> Split | None:
    """Return texts of a collection's other passages, and the documents that have them; ``None`` if there are few."""
    documents = part.documents
    rows = divided(documents.texts, ANCHORS, seed)[1][:QUERIES]
    owners: dict[tuple[str, str], dict[str, int]] = {}
    for passage, owner in zip(documents.texts, documents.owners.tolist(), strict=True):
        owners.setdefault(passage, {})[documents.documents[owner].id] = 1

    queries: dict[str, str] = {}
    judged: dict[str, dict[str, int]] = {}
    for number, (text, row) in enumerate(made_texts(documents.texts, rows, QUERIES, seed).items()):
        key = f"short text {number}"
        queries[key], judged[key] = text, owners[documents.texts[row]]
    return Split("other styles", queries, judged) if len(queries) >= FEWEST else None
