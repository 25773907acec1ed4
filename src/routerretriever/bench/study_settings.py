"""What a suite may say about each study; :mod:`routerretriever.bench.studies` runs them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class StudySettings(BaseModel):
    """Settings of a study that has none; base class of the others."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OnSomeCollections(StudySettings):
    """Settings of a study on some of the collections with an expert; none named means all."""

    collections: tuple[str, ...] = ()


class ExpertsSettings(StudySettings):
    """Numbers of experts; none means each from one to all."""

    counts: tuple[Count, ...] = ()


class PilotsSettings(StudySettings):
    """Largest numbers of pilots of each collection."""

    counts: tuple[Count, ...] = (1, 5, 20, 100, 500)


class CautionSettings(StudySettings):
    """Shares of in-domain queries below the reject threshold and below the trust threshold."""

    settings: tuple[tuple[Share, Share], ...] = (
        (0.0, 0.0),
        (0.02, 0.1),
        (0.06, 0.12),
        (0.07, 0.3),
        (0.15, 0.3),
    )


class TopicsSettings(StudySettings):
    """Number of experts after the split by topic, and of training queries of each at most."""

    experts: Count = 20
    max_queries: Count = 1000


class TrainingQueriesSettings(OnSomeCollections):
    """Numbers of training queries; null means all."""

    counts: tuple[Count | None, ...] = (50, 200, 800, None)


class BranchLayerSettings(OnSomeCollections):
    """First layers that experts change; none named means each layer of the base."""

    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()


class LoraSettings(OnSomeCollections):
    """LoRA ranks, and label → names of the layers to adapt (null means all linear layers)."""

    ranks: tuple[Count, ...] = (2, 8, 32)
    targets: dict[str, tuple[str, ...] | None] = {
        "all linear": None,
        "query, value": ("query", "value"),
    }


STUDY_SETTINGS: dict[str, type[StudySettings]] = {
    "experts": ExpertsSettings,
    "pilots": PilotsSettings,
    "caution": CautionSettings,
    "route-layer": StudySettings,
    "leave-one-out": StudySettings,
    "second-expert": OnSomeCollections,
    "topics": TopicsSettings,
    "training-queries": TrainingQueriesSettings,
    "branch-layer": BranchLayerSettings,
    "lora": LoraSettings,
    "multi-task": StudySettings,
}
"""Name of a study → its settings."""
