"""Train the experts of a saved model again, for a model with another base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from routerretriever.data.collection import Collection
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.errors import CollectionError, ExpertError, HubError, MissingExtraError
from routerretriever.experts.training_config import TrainedKinds, TrainingConfig
from routerretriever.lora.expert_info import ExpertInfo, TrainedOn
from routerretriever.storage.hub_download import read_folder
from routerretriever.storage.model_folder import EXPERTS, read_expert_info, read_model_info


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RememberedExpert:
    """An expert, and what it was trained on.

    Attributes:
        name: of the expert.
        info: what is known of it.
        collections: that it was trained on, as they were then.
        config: how it was trained.
    """

    name: str
    info: ExpertInfo
    collections: tuple[Collection, ...]
    config: TrainingConfig

    def config_for(self, model: RoutedModel) -> TrainingConfig:
        """Return how it is trained for a model: a map, where the base cannot be opened."""
        if model.encoder.is_opened:
            return self.config
        return TrainingConfig(
            kind=TrainedKinds.MAP, seed=self.config.seed, max_queries=self.config.max_queries
        )

    def is_made_for(self, model: RoutedModel) -> bool:
        """Return whether a model has an expert of this name that was trained on the same data."""
        found = model.experts.get(self.name)
        return found is not None and _digests(found) == _digests(self.info)


def remembered_experts(path: str | Path, names: Sequence[str] = ()) -> list[RememberedExpert]:
    """Return the experts of a saved model, with the collections that they were trained on.

    Args:
        path: of the model.
        names: the experts wanted; default all.

    Raises:
        ExpertError: there is no such expert, or the data of one is not remembered, no longer there
            or has changed; names all of them.
        FormatError: there is no model.
    """
    root = read_folder(path)
    known: list[str] = read_model_info(root)["experts"]
    if unknown := sorted(set(names) - set(known)):
        raise ExpertError(f"{path} has no expert '{unknown[0]}'. It has: {', '.join(known) or 'none'}.")
    experts, problems = [], []
    for name in names or known:
        try:
            experts.append(_remembered(name, read_expert_info(root / EXPERTS / name)))
        except (CollectionError, ExpertError, HubError, MissingExtraError) as error:
            problems.append(f"'{name}': {error}")
    if problems:
        raise ExpertError(
            f"Not every expert of {path} can be trained again. "
            + " ".join(problems)
            + " Restore the data, train those experts by their collections, or name others: --name NAME"
        )
    return experts


def _remembered(name: str, info: ExpertInfo) -> RememberedExpert:
    if not info.trained_on_data:
        raise ExpertError(
            "what it was trained on is not remembered; it was combined, imported, or trained by an older version."
        )
    return RememberedExpert(
        name=name,
        info=info,
        collections=tuple(map(_loaded, info.trained_on_data)),
        config=TrainingConfig(**info.config),
    )


def _loaded(data: TrainedOn) -> Collection:
    if not data.place:
        raise CollectionError(f"the collection '{data.name}' was made in memory, not read from a place.")
    collection = Collection.load(
        data.place,
        name=data.name,
        strict=data.strict,
        ignore_identical_ids=data.ignore_identical_ids,
        cut_off=data.cut_off,
    )
    if collection.training_digest() != data.digest:
        raise CollectionError(f"the collection at {data.place} has changed since.")
    return collection


def _digests(info: ExpertInfo) -> list[str]:
    return [data.digest for data in info.trained_on_data]
