"""Kinds of vector index: which there are, which one ``auto`` takes, and building it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from lancedb.index import FTS, HnswSq, IvfFlat, IvfPq, IvfRq

from routerretriever.errors import StorageError, VectorIndexError
from routerretriever.index.conflicts import retrying_conflicts

EXACT_LIMIT = 20_000
"""Up to this many rows an exact scan is as fast as an approximate index, and never wrong."""

PARTITION_ROWS, MOST_PARTITIONS = 8192, 4096
"""Of an IVF index, as LanceDB chooses them: so many rows each, until there are so many."""

Metric = Literal["cosine", "dot"]
KINDS = ("auto", "flat", "ivf_flat", "ivf_pq", "ivf_rq", "hnsw")
TEXT_COLUMNS = ("title", "text")

_ENGINE_NAMES = {"IvfFlat": "ivf_flat", "IvfPq": "ivf_pq", "IvfRq": "ivf_rq", "IvfHnswSq": "hnsw"}
_NOTE = "routerretriever.kind"  # metadata of the vector column, where the choice is remembered


@dataclass(frozen=True, slots=True)
class IndexKind:
    """The vector index of a table.

    Attributes:
        kind: one of :data:`KINDS` but ``auto``; ``flat`` scans all vectors.
        reason: why this one.
        rows: documents there were when it was built.
        seconds: what building took.
    """

    kind: str
    reason: str
    rows: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def choose(rows: int) -> tuple[str, str]:
    """The kind that ``auto`` takes for so many rows, and why.

    IVF_RQ keeps one bit a dimension and re-scores candidates with the full vectors: of the kinds LanceDB has, it
    builds fastest, takes the least memory, and reaches .99 of the exact ten best.
    """
    if rows <= EXACT_LIMIT:
        return "flat", f"up to {EXACT_LIMIT} documents an exact scan is as fast as an index, and never wrong"
    return "ivf_rq", f"over {EXACT_LIMIT} documents, IVF_RQ builds fastest and takes the least memory"


def partitions(rows: int) -> int:
    """How many partitions an IVF index of so many rows has."""
    return max(1, min(rows // PARTITION_ROWS, MOST_PARTITIONS))


def build(table: Any, kind: str, metric: Metric, make: Callable[[str], None] | None = None) -> IndexKind:
    """Build the vector index of a table anew, or drop it for ``flat``, and remember the choice.

    Args:
        table: of LanceDB.
        kind: one of :data:`KINDS`.
        metric: of the vectors.
        make: builds an index of the kind it is given; default LanceDB, in this process.

    Raises:
        VectorIndexError: there is no such kind, or the engine cannot build it for these vectors.
        StorageError: the disk is full or cannot be written.
    """
    if kind not in KINDS:
        raise VectorIndexError(f"There is no kind of index '{kind}'. Choose one of: {', '.join(KINDS)}.")
    rows = int(table.count_rows())
    wanted, reason = choose(rows) if kind == "auto" else (kind, "asked for")
    start = time.perf_counter()
    if wanted == "flat":
        for index in vector_indices(table):
            table.drop_index(index.name)
    else:
        work = partial(make or partial(_make_here, table, metric), wanted)
        _guarded(work, f"The index '{wanted}' could not be built")
        table.checkout_latest()
    built = IndexKind(wanted, reason, rows, round(time.perf_counter() - start, 2))
    remember(table, built, by_size=kind == "auto")
    return built


def _make_here(table: Any, metric: Metric, kind: str) -> None:
    table.create_index("vector", config=_configs(table)[kind](metric))


def remember(table: Any, built: IndexKind, *, by_size: bool) -> None:
    """Note in the table how its index came to be; ``by_size`` where ``auto`` chose, so that it may choose again."""
    note = json.dumps(built.to_dict() | {"auto": by_size})
    retrying_conflicts(lambda: table.update_field_metadata({"path": "vector", "metadata": {_NOTE: note}}))


def rebuild(table: Any, metric: Metric) -> None:
    """Build the present kind anew, which makes one segment of many and fits its partitions to the documents."""
    note, kind = _note(table), present(table).kind
    by_size = note is not None and note["auto"] and note["kind"] == kind
    build(table, "auto" if by_size else kind, metric)


def build_text(table: Any) -> float:
    """Build the full-text index of title and text anew; returns the seconds it took.

    Words are split at white space and punctuation, lower-cased, freed of accents, and stemmed as English, without
    English stop words; languages that do not put spaces between words are found badly.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    start = time.perf_counter()
    for column in TEXT_COLUMNS:
        _guarded(partial(table.create_index, column, config=FTS()), "The text index could not be built")
    return round(time.perf_counter() - start, 2)


def present(table: Any) -> IndexKind:
    """The kind a table has now."""
    note = _note(table)
    rows = int(table.count_rows())
    found = vector_indices(table)
    kind = _ENGINE_NAMES.get(found[0].index_type, found[0].index_type) if found else "flat"
    if note is not None and note["kind"] == kind and kind != "flat":
        return IndexKind(kind, note["reason"], note["rows"], note["seconds"])
    if kind == "flat":
        asked = note is not None and not note["auto"] and note["kind"] == "flat"
        reason = "asked for" if asked else "no approximate index was built" if rows > EXACT_LIMIT else choose(rows)[1]
        return IndexKind(kind, reason, rows, 0.0)
    return IndexKind(kind, "why was not noted", rows, 0.0)


def chosen_by_size(table: Any) -> bool:
    """Whether nobody asked for a certain kind."""
    note = _note(table)
    return note is None or bool(note["auto"])


def vector_indices(table: Any) -> list[Any]:
    """LanceDB's indexes of the vectors: one, or none."""
    return [index for index in table.list_indices() if "vector" in index.columns]


def has_text(table: Any) -> bool:
    """Whether there is a full-text index."""
    indexed = {column for index in table.list_indices() if index.index_type == "FTS" for column in index.columns}
    return indexed.issuperset(TEXT_COLUMNS)


def check_text(table: Any) -> None:
    """Refuse a search by words where there is no text index.

    Raises:
        VectorIndexError: there is none.
    """
    if not has_text(table):
        raise VectorIndexError(
            "The index has no text index yet, so it can only be searched by vectors. "
            "Make one: routerretriever index build INDEX --text"
        )


def _note(table: Any) -> dict[str, Any] | None:
    try:
        note: dict[str, Any] = json.loads((table.schema.field("vector").metadata or {})[_NOTE.encode()])
    except (KeyError, ValueError):
        return None
    return note


def _configs(table: Any) -> Mapping[str, Callable[[Metric], Any]]:
    parts = pq_parts(table.schema.field("vector").type.list_size)
    return {
        "ivf_flat": lambda metric: IvfFlat(distance_type=metric),
        "ivf_pq": lambda metric: IvfPq(distance_type=metric, num_sub_vectors=parts),
        "ivf_rq": lambda metric: IvfRq(distance_type=metric),
        "hnsw": lambda metric: HnswSq(distance_type=metric),
    }


def pq_parts(dimension: int) -> int | None:
    """Bytes of a vector in IVF_PQ, one for 8 dimensions; ``None`` leaves it to the engine.

    LanceDB's default, one for 16, loses half of the ten best even after refinement.
    """
    return dimension // 8 if dimension % 8 == 0 else None


def _guarded(work: Callable[[], Any], what: str) -> None:
    try:
        retrying_conflicts(work)
    except OSError as error:
        raise StorageError(f"{what}: {error}. Free some space, or check who may write there.") from error
    except (ValueError, RuntimeError) as error:
        raise VectorIndexError(f"{what}: {str(error).splitlines()[0]} Choose another --kind.") from error
