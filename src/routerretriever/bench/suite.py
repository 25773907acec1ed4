"""A suite: a YAML file that names base, collections, systems, seeds and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, create_model

from routerretriever.bench.catalogue import SYSTEMS
from routerretriever.bench.study_settings import STUDY_SETTINGS, OnSomeCollections
from routerretriever.bench.suite_file import SuiteFile
from routerretriever.data.collection import Collection
from routerretriever.data.names import collection_name
from routerretriever.errors import ExpertError, RouterRetrieverError, SuiteError
from routerretriever.experts.training_config import PRESETS, Preset, TrainingConfig
from routerretriever.lora.expert_info import check_expert_name

Text = Annotated[str, Field(min_length=1)]
_OPTIONS: dict[str, Any] = dict(getattr(TrainingConfig, "__pydantic_fields__"))  # noqa: B009
del _OPTIONS["seed"]  # each of the suite's seeds is one
_TrainingChanges: type[BaseModel] = create_model(
    "_TrainingChanges",
    __config__=ConfigDict(extra="forbid", strict=True),
    **{name: (field.annotation, field) for name, field in _OPTIONS.items()},  # type: ignore[call-overload]
)
"""The options of :class:`TrainingConfig` with the same rules, but without lenience for types."""


class Suite(BaseModel):
    """What one run of ``routerretriever bench`` does.

    Attributes:
        name: title of the report.
        base: hub id or path of the base encoder.
        data: folder of the collections, relative to the suite file; ``None`` for hub
            names.
        experts: names of the collections that get an expert.
        unseen: names of those without one.
        sources: name → what :meth:`Collection.load` reads; the name is that of
            :func:`collection_name`.
        systems: what is compared, in the order of the table.
        seeds: each seed trains its own experts.
        test_queries: most test queries of a collection, chosen by seed 0; ``None`` for
            all.
        whole: collections all of whose test queries are used.
        test_splits: collection → split, if it is not ``test``; training leaves it
            alone.
        ignore_identical_ids: collection → whether the document with a query's own id is
            neither a result nor a negative; default yes for ArguAna and Quora, as in
            BEIR.
        cut_off: whether the end of long documents is left unread, as the paper and BEIR's
            leaderboards do; otherwise they are ranked by their best passage.
        generated_queries: collection → generated queries, which become its train split.
        preset: how the model and its experts are made: ``default`` or ``paper``.
        training: changes to the preset's :class:`TrainingConfig`.
        multi_task: the same for the multi-task rivals.
        studies: name → settings, see :mod:`routerretriever.bench.study_settings`.
        published: system → collection → published nDCG@10 × 100, shown beside ours.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Text
    base: Text
    experts: Annotated[tuple[Text, ...], Field(min_length=1)]
    unseen: tuple[Text, ...] = ()
    systems: tuple[str, ...] = tuple(SYSTEMS)
    sources: dict[str, str] = {}
    data: Path | None = None
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    test_queries: Annotated[int, Field(ge=1)] | None = None
    whole: tuple[str, ...] = ()
    test_splits: dict[str, Text] = {}
    ignore_identical_ids: dict[str, bool] = {}
    cut_off: bool = False
    generated_queries: dict[str, Text] = {}
    preset: str = "default"
    training: dict[str, Any] = {}
    multi_task: dict[str, Any] = {}
    studies: dict[str, Any] = {}
    published: dict[str, dict[str, float]] = {}

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a suite file.

        Raises:
            SuiteError: it cannot be read, has a value of the wrong type, or names
                something that does not exist; the message names the line.
        """
        file = SuiteFile.read(path)
        keys = set(cls.model_fields) - {"sources"}
        content = {}
        for key, value in file.content.items():
            if value is not None:  # a key without a value keeps its default
                file.check_choice(key, keys, "key", (key,))
                content[key] = value
        suite = file.checked(cls, content)

        data = suite.data and (path.parent / suite.data).resolve()
        named = _named(file, suite, data)
        sources = named["experts"] | named["unseen"]
        _check_names(file, suite, sources)
        return suite.model_copy(
            update={
                "experts": tuple(named["experts"]),
                "unseen": tuple(named["unseen"]),
                "sources": sources,
                "data": data,
                "training": _checked_training(file, suite, "training"),
                "multi_task": _checked_training(file, suite, "multi_task"),
                "studies": _studies(file, suite, named["experts"]),
            }
        )

    def training_config(self, seed: int) -> TrainingConfig:
        """Return how the experts of one seed are trained."""
        return _training_config(self.preset, self.training, seed)

    def multi_task_config(self, seed: int) -> TrainingConfig:
        """Return how the multi-task rivals of one seed are trained."""
        changes = {**self.training, **self.multi_task}
        return _training_config(self.preset, changes, seed)

    def load_collections(self) -> dict[str, Collection]:
        """Load all collections, and check that they have the splits that the suite needs.

        Raises:
            SuiteError: one is missing, damaged, or lacks a split.
        """
        loaded = {}
        for name, given in self.sources.items():
            try:
                collection = Collection.load(
                    self.data / given if self.data else given,
                    name=name,
                    ignore_identical_ids=self.ignore_identical_ids.get(name),
                    cut_off=self.cut_off,
                )
                if name in self.generated_queries:
                    collection = collection.with_generated_queries(self.generated_queries[name])
                loaded[name] = collection.tested_on(self.test_splits.get(name, "test"))
                if name in self.experts:
                    collection.split("train")
            except RouterRetrieverError as error:
                message = f"The collection '{name}' of the suite '{self.name}': {error}"
                raise SuiteError(message) from error
        return loaded

    def limit(self, name: str) -> int | None:
        """Return how many of a collection's test queries are used; ``None`` is all."""
        return None if name in self.whole else self.test_queries


def _named(file: SuiteFile, suite: Suite, data: Path | None) -> dict[str, dict[str, str]]:
    """Return ``experts`` and ``unseen``, each as the name of a collection → what is loaded.

    Raises:
        SuiteError: two collections have the same name, or an expert cannot have the
            name of its collection.
    """
    named: dict[str, dict[str, str]] = {"experts": {}, "unseen": {}}
    for key, sources in named.items():
        for index, given in enumerate(getattr(suite, key)):
            try:
                name = collection_name(data / given if data else given)
                if key == "experts":
                    check_expert_name(name)
                    _check_is_no_system(name)
            except RouterRetrieverError as error:
                raise file.error(str(error).removesuffix("."), (key, index)) from error
            if any(name in others for others in named.values()):
                raise file.error(f"the collection '{name}' is named twice", (key, index))
            sources[name] = given
    return named


def _check_is_no_system(name: str) -> None:
    # Candidates that are no experts, such as multi-task, are systems of the same name.
    if name in SYSTEMS:
        raise SuiteError(f"'{name}' is a system, so no expert can have that name. Rename the collection.")


def _check_names(file: SuiteFile, suite: Suite, sources: Mapping[str, str]) -> None:
    file.check_choice(suite.preset, PRESETS, "preset", ("preset",))
    for index, system in enumerate(suite.systems):
        file.check_choice(system, SYSTEMS, "system", ("systems", index))
    for index, name in enumerate(suite.whole):
        file.check_choice(name, sources, "collection", ("whole", index))
    for key in ("test_splits", "ignore_identical_ids", "generated_queries"):
        for name in getattr(suite, key):
            file.check_choice(name, sources, "collection", (key, name))


def _studies(file: SuiteFile, suite: Suite, experts: Mapping[str, str]) -> dict[str, Any]:
    """Return the name of each study → its checked settings."""
    checked = {}
    for name, given in suite.studies.items():
        file.check_choice(name, STUDY_SETTINGS, "study", ("studies", name))
        place = ("studies", name)
        settings = file.checked(STUDY_SETTINGS[name], given or {}, place)
        if isinstance(settings, OnSomeCollections):
            for index, collection in enumerate(settings.collections):
                inner = (*place, "collections", index)
                file.check_choice(collection, experts, "collection with an expert", inner)
        checked[name] = settings
    return checked


def _checked_training(file: SuiteFile, suite: Suite, key: str) -> dict[str, Any]:
    """Return the changes to a preset, checked as :class:`TrainingConfig` does."""
    given = getattr(suite, key)
    for option in given:
        file.check_choice(option, _OPTIONS, "training option", (key, option))
    changes = file.checked(_TrainingChanges, given, (key,)).model_dump(exclude_unset=True)
    try:
        _training_config(suite.preset, changes, seed=0)
    except ExpertError as error:
        raise file.error(str(error).removesuffix("."), (key,)) from error
    return changes


def _training_config(preset: str, changes: Mapping[str, Any], seed: int) -> TrainingConfig:
    start = PRESETS[Preset(preset)]
    return replace(start, **changes, seed=start.seed + seed)
