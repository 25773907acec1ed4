"""Every study by its name, and how a suite's are run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from routerretriever.bench.runner import Bench
from routerretriever.bench.studies.abstention import caution_study
from routerretriever.bench.studies.experts import (
    experts_study,
    leave_one_out_study,
    second_expert_study,
)
from routerretriever.bench.studies.pilots import pilots_study
from routerretriever.bench.studies.route_layer import route_layer_study
from routerretriever.bench.studies.study import StudyResult
from routerretriever.bench.studies.topics import topics_study
from routerretriever.bench.studies.training import (
    branch_layer_study,
    lora_study,
    multi_task_study,
    training_queries_study,
)

STUDIES: dict[str, Callable[[Bench, int, Any], StudyResult]] = {
    "experts": experts_study,
    "pilots": pilots_study,
    "caution": caution_study,
    "route-layer": route_layer_study,
    "leave-one-out": leave_one_out_study,
    "second-expert": second_expert_study,
    "topics": topics_study,
    "training-queries": training_queries_study,
    "branch-layer": branch_layer_study,
    "lora": lora_study,
    "multi-task": multi_task_study,
}
"""Name → study; what a suite may say about it is in ``STUDY_SETTINGS``."""


def run_studies(bench: Bench) -> list[StudyResult]:
    """Run all studies of a suite with its first seed."""
    seed = bench.suite.seeds[0]
    return [STUDIES[name](bench, seed, given) for name, given in bench.suite.studies.items()]
