"""Train one expert on the query side, against cached document embeddings.

Documents are frozen, so training touches queries only: the hidden states below the branch layer are
computed once, and every step runs the upper layers and one product with the document matrix.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from routerretriever.data.collection import Collection
from routerretriever.encoder.query_batch import HIDDEN_BUDGET
from routerretriever.errors import CollectionError, ExpertError, NoGainError
from routerretriever.experts.trainer import Trainer, TrainingReport
from routerretriever.experts.training_config import TrainingConfig
from routerretriever.experts.training_data import Part
from routerretriever.lora.expert_info import check_expert_name
from routerretriever.progress import Progress, Silent

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever


def train_expert(
    model: RouterRetriever,
    collection: Collection | Sequence[Collection],
    *,
    name: str | None = None,
    config: TrainingConfig | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> TrainingReport:
    """Train an expert on a collection's train queries and add it to the model.

    Args:
        model: gains one expert; nothing else of it changes.
        collection: needs a train split; its dev split, or a part of train, stops the training early.
            Several collections make a generalist: every batch comes from one of them, all data is
            used, and the mean over collections decides.
        name: of the expert; default the collection's, or ``generalist``.
        config: see :class:`TrainingConfig`.
        force: keep the expert even if it does not beat the base, and replace one of that name.
        progress: where to report.

    Raises:
        NoGainError: no state beat the base on held-out queries and ``force`` is not set.
        CollectionError: there is no train split, or too few queries to hold some out.
        ExpertError: the name cannot be used or is taken.
    """
    config, progress = config or TrainingConfig(), progress or Silent()
    collections = [collection] if isinstance(collection, Collection) else list(collection)
    if not collections:
        raise CollectionError("Give at least one collection to train on.")
    name = check_expert_name(name or (collections[0].name if len(collections) == 1 else "generalist"))
    if name in model.experts and not force:
        raise ExpertError(
            f"The model already has an expert '{name}'. Remove it first, choose another name (--name), or "
            "pass force=True (--force) to replace it."
        )
    for source in collections:
        source.train_and_held_out()  # a missing split should be known before anything is embedded
    documents = [model.embed_collection(source, progress=progress) for source in collections]
    started = time.perf_counter()
    budget = HIDDEN_BUDGET // len(collections)
    parts = [
        Part.prepare(model, source, vectors, config, budget)
        for source, vectors in zip(collections, documents, strict=True)
    ]
    run = Trainer(model, parts, config, name)
    report, adapter = run.run(progress, started)
    if adapter is None or report.info.gain <= 0:
        message = (
            f"The expert '{name}' did not beat the base on {report.info.held_out} held-out queries of "
            f"'{report.info.collection}' (nDCG@10 {report.info.expert_ndcg:.4f} against "
            f"{report.info.base_ndcg:.4f}), so it was not added. Give it more or cleaner queries, or pass "
            "force=True (--force) to keep it."
        )
        if not force:
            run.forget()
            raise NoGainError(message)
    model.add_expert(name, adapter or run.adapter.detached(), report.info, replace=force)
    run.forget()
    return report
