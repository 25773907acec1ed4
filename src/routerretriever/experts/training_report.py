"""The outcome of a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from routerretriever.data.collection import Collection
from routerretriever.encoder.document_vectors import DocumentCounts
from routerretriever.evaluation.statistics import paired_p_value
from routerretriever.experts.held_out import HeldOutPlan, HeldOutScores
from routerretriever.experts.training_config import TrainingConfig
from routerretriever.experts.training_data import TrainingData
from routerretriever.lora.adapter import Kind
from routerretriever.lora.expert_info import ExpertInfo, OtherStyles, TrainedOn


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """The outcome of one training.

    Attributes:
        expert: the expert's name.
        kind: what it changes.
        info: what is stored beside it, with held-out nDCG@10 of base and expert.
        epochs: epochs begun.
        steps, best_step: optimiser steps in all, and at the kept state.
        adapter_weight: what the trained delta was scaled by.
        seconds: wall time, without embedding documents.
        history: nDCG@10 at every evaluation, on the held-out queries that choose the expert.
        resumed: whether an interrupted training was continued.
        documents: how the documents of all collections were read.
    """

    expert: str
    kind: Kind = Kind.LORA
    info: ExpertInfo
    epochs: int
    steps: int
    best_step: int
    adapter_weight: float
    seconds: float
    history: tuple[float, ...]
    resumed: bool = False
    documents: DocumentCounts = field(default_factory=DocumentCounts)

    @property
    def p_value(self) -> float:
        """Two-sided paired randomisation test of the gain."""
        return 1.0 if self.info.p_value is None else self.info.p_value

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"gain": self.info.gain, "p_value": self.p_value}


def trained_expert_info(
    data: Sequence[TrainingData],
    config: TrainingConfig,
    plan: HeldOutPlan,
    base: HeldOutScores,
    chosen: Sequence[HeldOutScores],
    *,
    training: str,
    other_styles: OtherStyles | None = None,
) -> ExpertInfo:
    """Return what is stored beside a trained expert.

    Args:
        data: what it was trained on.
        config: how.
        plan: which held-out queries chose it, and which measure it.
        base: scores of the base.
        chosen: scores of the adapter that each part of the plan chose.
        training: a hash of everything that decided the training.
        other_styles: what the chosen adapter does to other ways of asking, where that was measured.
    """
    measures, selects = plan.measures, plan.parts[0].selects
    measured = _measured(plan, base, chosen)
    collections = [part.collection for part in data]
    sources = dict.fromkeys(collection.source for collection in collections if collection.source)
    held_out_generated = 0
    for part, rows in zip(data, measures, strict=True):
        marked = [query_id in part.collection.generated for query_id in part.held_out.queries]
        held_out_generated += int(np.count_nonzero(np.array(marked, bool) & rows))
    return ExpertInfo(
        collection=", ".join(collection.name for collection in collections),
        queries=sum(len(part.train) for part in data),
        held_out=len(base.joined(measures)),
        base_ndcg=base.mean(measures),
        expert_ndcg=measured.mean(measures),
        config=asdict(config),
        generated=_generated(data),
        source=", ".join(sources),
        held_out_generated=held_out_generated,
        selection=plan.rule,
        selected_by=len(base.joined(selects)),
        selection_gain=chosen[0].mean(selects) - base.mean(selects),
        p_value=paired_p_value(measured.joined(measures), base.joined(measures)),
        training=training,
        trained_on_data=tuple(map(trained_on, collections)),
        other_styles=other_styles,
    )


def trained_on(collection: Collection) -> TrainedOn:
    """Return what is remembered of a collection, to train on it again."""
    return TrainedOn(
        name=collection.name,
        place=collection.place,
        digest=collection.training_digest(),
        strict=collection.strict,
        ignore_identical_ids=collection.ignore_identical_ids,
        cut_off=collection.cut_off,
    )


def _measured(plan: HeldOutPlan, base: HeldOutScores, chosen: Sequence[HeldOutScores]) -> HeldOutScores:
    """Return each query's score under the adapter that was chosen without it."""
    values = [np.full(len(part), np.nan) for part in base.by_collection]
    for part, scores in zip(plan.parts, chosen, strict=True):
        for target, source, rows in zip(values, scores.by_collection, part.measures, strict=True):
            target[rows] = source[rows]
    return HeldOutScores(tuple(values))


def _generated(data: Sequence[TrainingData]) -> dict[str, int]:
    """Return method → training queries that were generated by it."""
    methods = Counter(
        part.collection.generated[query_id]
        for part in data
        for query_id in part.train.queries
        if query_id in part.collection.generated
    )
    return dict(sorted(methods.items()))
