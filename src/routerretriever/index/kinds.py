"""Kinds of vector index: which there are, which one ``auto`` takes, and building it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, get_args

import lancedb

from routerretriever.errors import StorageError, VectorIndexError
from routerretriever.index.conflicts import retrying_conflicts
from routerretriever.index.view import Metric

EXACT_LIMIT = 20_000
"""Up to this many rows an exact scan is as fast as an approximate index, and never wrong."""

PARTITION_ROWS = 8192
"""Rows of each partition of an IVF index, as LanceDB chooses them."""

MOST_PARTITIONS = 4096
"""An IVF index never has more partitions than this."""

Kind = Literal["auto", "flat", "ivf_flat", "ivf_pq", "ivf_rq", "hnsw"]
KINDS: tuple[str, ...] = get_args(Kind)

_ENGINE_NAMES = {"IvfFlat": "ivf_flat", "IvfPq": "ivf_pq", "IvfRq": "ivf_rq", "IvfHnswSq": "hnsw"}
_NOTE = "routerretriever.kind"  # metadata of the vector column, where the choice is remembered


@dataclass(frozen=True, slots=True)
class IndexKind:
    """The vector index of a table.

    Attributes:
        kind: one of :data:`KINDS` except ``auto``; ``flat`` scans all vectors.
        reason: why this one.
        rows: documents at the time when it was built.
        seconds: that building took.
    """

    kind: str
    reason: str
    rows: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def choose(rows: int) -> tuple[str, str]:
    """Return the kind that ``auto`` takes for this many rows, and why.

    IVF_RQ keeps one bit a dimension and re-scores candidates with the full vectors: of the
    kinds LanceDB has, it builds fastest, takes the least memory, and reaches .99 of the exact
    ten best.
    """
    if rows <= EXACT_LIMIT:
        return (
            "flat",
            f"up to {EXACT_LIMIT} documents an exact scan is as fast as an index, and never wrong",
        )
    return "ivf_rq", f"over {EXACT_LIMIT} documents, IVF_RQ builds fastest and takes the least memory"


def partitions(rows: int) -> int:
    """Return the number of partitions of an IVF index of this many rows."""
    return max(1, min(rows // PARTITION_ROWS, MOST_PARTITIONS))


def build(table: Any, kind: str, metric: Metric, make: Callable[[str], None] | None = None) -> IndexKind:
    """Build the vector index of a table again, or drop it for ``flat``, and remember the choice.

    Args:
        table: of LanceDB.
        kind: one of :data:`KINDS`.
        metric: of the vectors.
        make: builds an index of the kind it is given; default LanceDB, in this process.

    Raises:
        VectorIndexError: there is no such kind, or it cannot be built for these vectors.
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
        guarded(work, f"The index '{wanted}' could not be built")
        table.checkout_latest()

    built = IndexKind(wanted, reason, rows, round(time.perf_counter() - start, 2))
    remember(table, built, by_size=kind == "auto")
    return built


def _make_here(table: Any, metric: Metric, kind: str) -> None:
    table.create_index("vector", config=_configs(table)[kind](metric))


def remember(table: Any, built: IndexKind, *, by_size: bool) -> None:
    """Note in the table how its index was chosen.

    Args:
        table: of LanceDB.
        built: the index.
        by_size: ``auto`` chose it, so that it may choose again.
    """
    note = json.dumps(built.to_dict() | {"auto": by_size})
    change = {"path": "vector", "metadata": {_NOTE: note}}
    retrying_conflicts(lambda: table.update_field_metadata(change))


def rebuild(table: Any, metric: Metric) -> None:
    """Build the present kind again.

    This makes one segment of many and fits the partitions to the documents.
    """
    note, kind = _note(table), present(table).kind
    by_size = note is not None and note["auto"] and note["kind"] == kind
    build(table, "auto" if by_size else kind, metric)


def present(table: Any) -> IndexKind:
    """Return the kind of vector index a table has now."""
    note = _note(table)
    rows = int(table.count_rows())
    found = vector_indices(table)
    if not found:
        return IndexKind("flat", _reason_for_none(note, rows), rows, 0.0)

    kind = _ENGINE_NAMES.get(found[0].index_type, found[0].index_type)
    if note is not None and note["kind"] == kind:
        return IndexKind(kind, note["reason"], note["rows"], note["seconds"])
    return IndexKind(kind, "reason not recorded", rows, 0.0)


def _reason_for_none(note: dict[str, Any] | None, rows: int) -> str:
    if note is not None and not note["auto"] and note["kind"] == "flat":
        return "asked for"
    if rows > EXACT_LIMIT:
        return "no approximate index was built"
    return choose(rows)[1]


def chosen_by_size(table: Any) -> bool:
    """Return whether nobody asked for a certain kind."""
    note = _note(table)
    return note is None or bool(note["auto"])


def vector_indices(table: Any) -> list[Any]:
    """Return LanceDB's indexes of the vectors: one, or none."""
    return [index for index in table.list_indices() if "vector" in index.columns]


def _note(table: Any) -> dict[str, Any] | None:
    metadata = table.schema.field("vector").metadata or {}
    try:
        note: dict[str, Any] = json.loads(metadata[_NOTE.encode()])
    except (KeyError, ValueError):
        return None
    return note


def _configs(table: Any) -> Mapping[str, Callable[[Metric], Any]]:
    parts = pq_parts(table.schema.field("vector").type.list_size)
    return {
        "ivf_flat": lambda metric: lancedb.index.IvfFlat(distance_type=metric),
        "ivf_pq": lambda metric: lancedb.index.IvfPq(distance_type=metric, num_sub_vectors=parts),
        "ivf_rq": lambda metric: lancedb.index.IvfRq(distance_type=metric),
        "hnsw": lambda metric: lancedb.index.HnswSq(distance_type=metric),
    }


def pq_parts(dimension: int) -> int | None:
    """Return the bytes of a vector in IVF_PQ: one for 8 dimensions.

    LanceDB's default, one for 16, loses half of the ten best even after refinement. ``None``
    leaves it to the engine.
    """
    return dimension // 8 if dimension % 8 == 0 else None


def guarded(work: Callable[[], Any], what: str) -> None:
    """Run a build again where writers conflict, and name what could not be built."""
    try:
        retrying_conflicts(work)
    except OSError as error:
        raise StorageError(f"{what}: {error}. Free some space, or check who may write there.") from error
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise VectorIndexError(f"{what}: {reason}") from error
