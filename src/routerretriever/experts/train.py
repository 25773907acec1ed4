"""Train one expert on the query side, against cached document embeddings.

Documents are frozen, so training touches queries only: the hidden states below the
branch layer are computed once, and every step runs the upper layers and one product
with the document matrix.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from routerretriever.data.collection import Collection
from routerretriever.encoder.document_vectors import DocumentCounts, DocumentVectors
from routerretriever.encoder.query_batch import HIDDEN_BUDGET
from routerretriever.errors import CollectionError, ExpertError, NoGainError
from routerretriever.evaluation.statistics import SIGNIFICANCE_LEVEL
from routerretriever.experts.held_out import HeldOutPlan
from routerretriever.experts.kinds import (
    KindTraining,
    TrainedKind,
    best_kind,
    check_kind,
    default_config,
    on_device,
)
from routerretriever.experts.other_styles import measure_other_styles
from routerretriever.experts.training_config import TrainingConfig
from routerretriever.experts.training_data import TrainingData, check_queries
from routerretriever.experts.training_report import TrainingReport, trained_expert_info
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.expert_info import check_expert_name
from routerretriever.model import RouterRetriever
from routerretriever.progress import Progress, Silent


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

    Of a document that the base does not read whole, the passage counts that the frozen
    base finds most similar to a query; that is fixed before the training.

    Args:
        model: gains one expert; nothing else of it changes.
        collection: needs a train split; its dev split, or a part of train, stops the
            training early. Several collections make a generalist: every batch comes
            from one of them, all data is used, and the mean over collections decides.
        name: of the expert; default the collection's, or ``generalist``.
        config: see :class:`TrainingConfig`; by default LoRA, or a map where the base
            cannot be opened.
        force: keep the expert even if its gain is not significant, and replace one of
            that name.
        progress: where to report.

    Raises:
        NoGainError: its gain is not significant, and ``force`` is not set.
        CollectionError: there is no train split, or too few queries to hold some out.
        ExpertError: the name cannot be used or is taken, or the base has no room for
            this kind of expert.
    """
    config, progress = config or default_config(model), progress or Silent()
    collections = [collection] if isinstance(collection, Collection) else list(collection)
    if not collections:
        raise CollectionError("Give at least one collection to train on.")
    check_kind(model, config)
    name = check_expert_name(name or (collections[0].name if len(collections) == 1 else "generalist"))
    if name in model.experts and not force:
        raise ExpertError(
            f"The model already has an expert '{name}'. Remove it first, choose another name (--name), or "
            "pass force=True (--force) to replace it."
        )
    check_queries(collections, config)  # faults should be known before anything is embedded
    documents = [model.embed_collection(source, progress=progress) for source in collections]
    started = time.perf_counter()
    data = _prepared(model, collections, documents, config)
    plan = HeldOutPlan.of([part.collection.division_keys(part.held_out) for part in data])
    training = KindTraining(model=model, data=data, config=config, name=name, plan=plan, progress=progress)
    trained = training.run()
    report, adapter = _outcome(training, trained, started)
    is_kept = force or report.info.gains_significantly(SIGNIFICANCE_LEVEL)
    if is_kept:
        model.add_expert(name, adapter, report.info, replace=force)
    for kind in trained:
        kind.trainer.checkpoint.delete()
    if not is_kept:
        raise NoGainError(_no_gain(report))
    return report


def _prepared(
    model: RouterRetriever,
    collections: Sequence[Collection],
    documents: Sequence[DocumentVectors],
    config: TrainingConfig,
) -> list[TrainingData]:
    """Encode the queries of all collections, which share the memory for hidden states."""
    budget = HIDDEN_BUDGET // len(collections)
    pairs = zip(collections, documents, strict=True)
    return [TrainingData.prepare(model, source, vectors, config, budget) for source, vectors in pairs]


def _outcome(
    training: KindTraining, trained: Sequence[TrainedKind], started: float
) -> tuple[TrainingReport, Adapter]:
    """Return the report of a training, and the adapter that it ends with."""
    best, chosen = best_kind(trained, training.plan)
    trainer, scores = best.trainer, [found.scores for found in chosen]
    adapter = chosen[0].adapter
    placed = on_device(adapter, training.model.encoder)
    info = trained_expert_info(
        training.data,
        training.config,
        training.plan,
        best.base,
        scores,
        training=training.key,
        other_styles=measure_other_styles(training.model, training.data, placed, training.config.seed),
    )
    report = TrainingReport(
        expert=training.name,
        kind=adapter.kind,
        info=info,
        epochs=math.ceil(trainer.state.step / trainer.steps_per_epoch),
        steps=trainer.state.step,
        best_step=trainer.state.choices[0].step,
        adapter_weight=chosen[0].weight,
        seconds=time.perf_counter() - started,
        history=tuple(trainer.state.history),
        resumed=any(kind.trainer.state.resumed for kind in trained),
        documents=sum((part.documents.counts for part in training.data), DocumentCounts()),
    )
    return report, adapter


def _no_gain(report: TrainingReport) -> str:
    info = report.info
    return (
        f"The gain of the expert '{report.expert}' over the base is not significant: "
        f"{100 * info.gain:+.1f} nDCG@10 points ({100 * info.expert_ndcg:.1f} against "
        f"{100 * info.base_ndcg:.1f}, p = {report.p_value:.2g}, needed: a gain with "
        f"p < {SIGNIFICANCE_LEVEL:g}) on {info.held_out} held-out queries of '{info.collection}' that "
        "did not choose it. So it was not added. Give it more or cleaner queries, also to "
        "hold out, or pass force=True (--force) to keep it."
    )
