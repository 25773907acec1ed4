"""Collections on the hub: BEIR's layout, MTEB's, and pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from routerretriever.data.pairs import PairCollector, Records, are_pairs
from routerretriever.data.qrels import judgement_columns, whole_grade
from routerretriever.data.raw_collection import Judgement, RawCollection
from routerretriever.errors import CollectionError, MissingExtraError

_QRELS_CONFIGURATIONS = ("default", "qrels")
_LAYOUTS = (
    "A collection on the hub has the configurations 'corpus' and 'queries', and its "
    "judgements in the configuration 'default' or 'qrels' or in the data set NAME-qrels; "
    "or it has one configuration of pairs with the columns query and positive."
)


def read_hub(name: str, strict: bool) -> RawCollection:
    """Read a collection from the hub.

    Raises:
        MissingExtraError: the package ``datasets`` is not installed.
        CollectionError: the data set cannot be read, has another layout, or fails a check.
    """
    datasets = _library()
    configurations = _attempt(name, datasets.get_dataset_config_names, name)
    if {"corpus", "queries"} <= set(configurations):
        return _read_parts(datasets, name, configurations, strict)
    if len(configurations) == 1:
        return _read_pairs(datasets, name, configurations[0], strict)
    raise CollectionError(
        f"The data set '{name}' has the configurations {', '.join(configurations)}. {_LAYOUTS}"
    )


def hub_rows(name: str) -> Records:
    """Return the rows of a data set's train split, each with its place.

    Raises:
        MissingExtraError: the package ``datasets`` is not installed.
        CollectionError: the data set cannot be read.
    """
    rows = _attempt(name, _library().load_dataset, name, split="train")
    return _placed(name, rows)


def _library() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("hub", "datasets") from error
    library: ModuleType = datasets
    return library


def _attempt(name: str, function: Any, *arguments: Any, **options: Any) -> Any:
    try:
        return function(*arguments, **options)
    except Exception as error:  # the library raises many kinds, some of them undocumented
        raise CollectionError(
            f"The data set '{name}' could not be read from the hub "
            f"({type(error).__name__}: {error}). Check the name and the connection, or "
            "give a local folder in BEIR's layout."
        ) from error


def _read_parts(datasets: ModuleType, name: str, configurations: list[str], strict: bool) -> RawCollection:
    raw = RawCollection()
    for part, add in (("corpus", raw.add_document), ("queries", raw.add_query)):
        splits = _attempt(name, datasets.load_dataset, name, part)
        rows = splits[part] if part in splits else _only_split(splits, f"{name}, {part}")
        for where, row in _placed(f"{name}, {part}", rows):
            add(row, where)

    own = next((c for c in _QRELS_CONFIGURATIONS if c in configurations), None)
    place = (f"{name}-qrels",) if own is None else (name, own)
    qrels = _attempt(place[0], datasets.load_dataset, *place)
    for split, rows in qrels.items():
        at = f"{'/'.join(place)}, {split}"
        query_id, document_id, grade = judgement_columns(rows.column_names, at, strict)
        for where, row in _placed(at, rows):
            judged = str(row[query_id]), str(row[document_id]), whole_grade(row[grade], where)
            raw.judge(split, Judgement(where, *judged))
    return raw


def _read_pairs(datasets: ModuleType, name: str, configuration: str, strict: bool) -> RawCollection:
    pairs = PairCollector(strict)
    splits = _attempt(name, datasets.load_dataset, name, configuration)
    for split, rows in splits.items():
        if not are_pairs(rows.column_names):
            raise CollectionError(
                f"The data set '{name}' has the columns {', '.join(rows.column_names)}. {_LAYOUTS}"
            )
        pairs.add(split, _placed(f"{name}, {split}", rows))
    return pairs.raw


def _only_split(splits: Mapping[str, Any], place: str) -> Any:
    if len(splits) != 1:
        raise CollectionError(f"The data set {place} has the splits {', '.join(splits)}; one was expected.")
    return next(iter(splits.values()))


def _placed(place: str, rows: Iterable[Mapping[str, Any]]) -> Records:
    return ((f"{place}, row {number}", row) for number, row in enumerate(rows, start=1))
