"""A suite: a YAML file that names base, collections, systems, seeds and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import yaml

from routerretriever.bench.catalogue import SYSTEMS
from routerretriever.bench.studies import STUDIES
from routerretriever.data.collection import Collection
from routerretriever.errors import RouterRetrieverError, SuiteError
from routerretriever.experts.training_config import PRESETS, TrainingConfig


@dataclass(frozen=True, slots=True)
class Suite:
    """What one run of ``routerretriever bench`` does.

    Attributes:
        name: title of the report.
        base: hub id or path of the base encoder.
        data: folder that collections are looked up in, relative to the suite file; ``None`` for hub names.
        experts: names of the collections that get an expert.
        unseen: names of those without one.
        sources: name → what :meth:`Collection.load` reads; the name is the last part of the source.
        systems: what is compared, in table order.
        seeds: every seed trains its own experts.
        test_queries: at most this many test queries a collection, chosen by seed 0; ``None`` for all.
        whole: collections of which all test queries count.
        test_splits: collection → split, where it is not ``test``; training does not touch that split.
        generated_queries: collection → generated queries that are its train split.
        preset: how the model and its experts are made: ``default`` or ``paper``.
        training: changes to the preset's :class:`TrainingConfig`.
        multi_task: the same for the multi-task rivals.
        studies: name → settings, see :mod:`routerretriever.bench.studies`.
        published: system → collection → published nDCG@10 × 100, shown beside ours.
    """

    name: str
    base: str
    experts: tuple[str, ...]
    unseen: tuple[str, ...] = ()
    systems: tuple[str, ...] = tuple(SYSTEMS)
    sources: Mapping[str, str] = field(default_factory=dict)
    data: Path | None = None
    seeds: tuple[int, ...] = (0,)
    test_queries: int | None = None
    whole: tuple[str, ...] = ()
    test_splits: Mapping[str, str] = field(default_factory=dict)
    generated_queries: Mapping[str, str] = field(default_factory=dict)
    preset: str = "default"
    training: Mapping[str, Any] = field(default_factory=dict)
    multi_task: Mapping[str, Any] = field(default_factory=dict)
    studies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a suite file.

        Raises:
            SuiteError: it is not readable or names something that does not exist; the line is named.
        """
        try:
            text = path.read_text(encoding="utf-8")
            content = yaml.safe_load(text)
            lines = _lines(yaml.compose(text))
        except OSError as error:
            raise SuiteError(f"The suite {path} cannot be read: {error.strerror}.") from error
        except yaml.YAMLError as error:
            raise SuiteError(f"{path} is not valid YAML: {error}") from error
        return cls._checked(_Source(path, lines), content)

    @classmethod
    def _checked(cls, source: _Source, content: Any) -> Self:
        known = {f.name for f in fields(cls)} - {"sources"}
        if not isinstance(content, dict):
            raise source.error("a suite is a mapping of keys to values", ())
        content = {key: value for key, value in content.items() if value is not None}
        for key in content:
            source.check_choice(key, known, "key", (key,))
        for key in ("name", "base", "experts"):
            if key not in content:
                raise source.error(f"the key '{key}' is missing", ())
        _check_choices(source, content)
        names: dict[str, str] = {}
        for key in ("experts", "unseen"):
            for index, given in enumerate(content.get(key, ())):
                name = _short(given)
                if name in names:
                    raise source.error(f"the collection '{name}' is named twice", (key, index))
                names[name] = given
        for key in ("whole", "test_splits", "generated_queries"):
            for index, name in enumerate(content.get(key, ())):
                source.check_choice(name, names, "collection", (key, index if key == "whole" else name))
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        for key in ("experts", "unseen"):
            values[key] = tuple(_short(given) for given in values.get(key, ()))
        if "data" in values:
            values["data"] = (source.path.parent / str(values["data"])).resolve()
        return cls(**values, sources=names)

    def training_config(self, seed: int) -> TrainingConfig:
        """How the experts of one seed are trained."""
        return _config(self.preset, self.training, seed)

    def multi_task_config(self, seed: int) -> TrainingConfig:
        """How the multi-task rivals of one seed are trained."""
        return _config(self.preset, {**self.training, **self.multi_task}, seed)

    def load_collections(self) -> dict[str, Collection]:
        """Every collection, checked for the splits that the suite needs.

        Raises:
            SuiteError: one is missing, damaged, or lacks a split.
        """
        loaded = {}
        for name, given in self.sources.items():
            try:
                collection = Collection.load(self.data / given if self.data else given, name=name)
                if name in self.generated_queries:
                    collection = collection.with_generated_queries(self.generated_queries[name])
                loaded[name] = collection.tested_on(self.test_splits.get(name, "test"))
                if name in self.experts:
                    collection.split("train")
            except RouterRetrieverError as error:
                raise SuiteError(f"The collection '{name}' of the suite '{self.name}': {error}") from error
        return loaded

    def limit(self, name: str) -> int | None:
        """How many of a collection's test queries are used; ``None`` is all."""
        return None if name in self.whole else self.test_queries


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a suite comes from, to name the line of a mistake."""

    path: Path
    lines: Mapping[tuple[Any, ...], int]

    def error(self, message: str, where: tuple[Any, ...]) -> SuiteError:
        return SuiteError(f"{self.path}, line {self.lines.get(where, 1)}: {message}.")

    def check_choice(self, value: Any, choices: Any, kind: str, where: tuple[Any, ...]) -> None:
        if value not in choices:
            raise self.error(f"unknown {kind} '{value}'; choose among: {', '.join(sorted(choices))}", where)


def _check_choices(source: _Source, content: Mapping[str, Any]) -> None:
    for key in ("experts", "unseen", "systems", "whole"):
        value = content.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise source.error(f"'{key}' must be a list of names", (key,))
    for index, system in enumerate(content.get("systems", ())):
        source.check_choice(system, SYSTEMS, "system", ("systems", index))
    for study in content.get("studies", {}):
        source.check_choice(study, STUDIES, "study", ("studies", study))
    source.check_choice(content.get("preset", "default"), PRESETS, "preset", ("preset",))
    options = {f.name for f in fields(TrainingConfig)} - {"seed"}
    for key in ("training", "multi_task"):
        for option in content.get(key, {}):
            source.check_choice(option, options, "training option", (key, option))


def _short(given: str) -> str:
    return given.rstrip("/").split("/")[-1]


def _lines(node: yaml.Node | None, where: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], int]:
    """Path of keys and positions → line number."""
    if node is None:
        return {}
    lines = {where: node.start_mark.line + 1}
    children: Sequence[tuple[Any, yaml.Node, int]] = ()
    if isinstance(node, yaml.MappingNode):
        children = [(key.value, value, key.start_mark.line + 1) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(index, item, item.start_mark.line + 1) for index, item in enumerate(node.value)]
    for key, child, line in children:
        lines |= _lines(child, (*where, key)) | {(*where, key): line}
    return lines


def _config(preset: str, changes: Mapping[str, Any], seed: int) -> TrainingConfig:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    return replace(PRESETS[preset], **values, seed=PRESETS[preset].seed + seed)
