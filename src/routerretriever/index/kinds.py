"""Kinds of vector index: which there are, which one ``auto`` takes, and building it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, get_args

from routerretriever.errors import StorageError, VectorIndexError
from routerretriever.index.conflicts import retrying_conflicts
from routerretriever.index.lance_errors import reason_of
from routerretriever.index.table import IndexTable

EXACT_LIMIT = 20_000
"""Up to this many rows an exact scan is as fast as an approximate index, and never wrong."""

PARTITION_ROWS = 8192
"""Rows of each partition of an IVF index, as Lance chooses them."""

MOST_PARTITIONS = 4096
"""An IVF index never has more partitions than this."""

Kind = Literal["auto", "flat", "ivf_flat", "ivf_pq", "ivf_rq", "hnsw"]
KINDS: tuple[str, ...] = get_args(Kind)

ENGINE_KINDS = {"ivf_flat": "IVF_FLAT", "ivf_pq": "IVF_PQ", "ivf_rq": "IVF_RQ", "hnsw": "IVF_HNSW_SQ"}
"""How Lance names the kinds of index that it builds."""

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
    kinds Lance has, it builds fastest, takes the least memory, and reaches .99 of the exact
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


def build(table: IndexTable, kind: str, make: Callable[[str], None] | None = None) -> IndexKind:
    """Build the vector index of a table again, or drop it for ``flat``, and remember the choice.

    Args:
        table: whose vectors are searched.
        kind: one of :data:`KINDS`.
        make: builds an index of the kind it is given; default Lance, in this process.

    Raises:
        VectorIndexError: there is no such kind, or it cannot be built for these vectors.
        StorageError: the disk is full or cannot be written.
    """
    if kind not in KINDS:
        raise VectorIndexError(f"There is no kind of index '{kind}'. Choose one of: {', '.join(KINDS)}.")
    rows = int(table.newest().count_rows())
    wanted, reason = choose(rows) if kind == "auto" else (kind, "asked for")

    start = time.perf_counter()
    if wanted == "flat":
        guarded(partial(_drop, table), "The vector index could not be dropped")
    else:
        work = partial(make or partial(_make_here, table), wanted)
        guarded(work, f"The index '{wanted}' could not be built")

    built = IndexKind(wanted, reason, rows, round(time.perf_counter() - start, 2))
    remember(table, built, by_size=kind == "auto")
    return built


def _make_here(table: IndexTable, kind: str) -> None:
    options = engine_options(kind, table.dimension)
    table.newest().create_index("vector", ENGINE_KINDS[kind], metric=table.metric, replace=True, **options)


def engine_options(kind: str, dimension: int) -> dict[str, Any]:
    """Return what Lance is told of a kind of index for vectors of this length.

    IVF_PQ keeps one byte for 8 dimensions; with one for 16, half of the ten best are lost even
    after refinement. IVF_RQ keeps one bit for each dimension.
    """
    if kind == "ivf_pq":
        return {"num_sub_vectors": dimension // 8 if dimension % 8 == 0 else 1}
    if kind == "ivf_rq":
        return {"num_bits": 1}
    return {"ef_construction": 300} if kind == "hnsw" else {}


def _drop(table: IndexTable) -> None:
    dataset = table.newest()
    for index in vector_indices(dataset):
        dataset.drop_index(index.name)


def remember(table: IndexTable, built: IndexKind, *, by_size: bool) -> None:
    """Note in the table how its index was chosen.

    Args:
        table: that has it.
        built: the index.
        by_size: ``auto`` chose it, so that it may choose again.
    """
    note = json.dumps(built.to_dict() | {"auto": by_size})
    retrying_conflicts(lambda: table.newest().update_field_metadata({"vector": {_NOTE: note}}))


def rebuild(table: IndexTable) -> None:
    """Build the present kind again.

    This makes one segment of many and fits the partitions to the documents.
    """
    dataset = table.newest()
    note, kind = _note(dataset), present(dataset).kind
    by_size = note is not None and note["auto"] and note["kind"] == kind
    build(table, "auto" if by_size else kind)


def present(dataset: Any) -> IndexKind:
    """Return the kind of vector index that this version of a table has."""
    note = _note(dataset)
    rows = int(dataset.count_rows())
    found = vector_indices(dataset)
    if not found:
        return IndexKind("flat", _reason_for_none(note, rows), rows, 0.0)

    engine_kind = found[0].index_type
    kind = next((kind for kind, name in ENGINE_KINDS.items() if name == engine_kind), engine_kind)
    if note is not None and note["kind"] == kind:
        return IndexKind(kind, note["reason"], note["rows"], note["seconds"])
    return IndexKind(kind, "reason not recorded", rows, 0.0)


def _reason_for_none(note: dict[str, Any] | None, rows: int) -> str:
    if note is not None and not note["auto"] and note["kind"] == "flat":
        return "asked for"
    if rows > EXACT_LIMIT:
        return "no approximate index was built"
    return choose(rows)[1]


def chosen_by_size(dataset: Any) -> bool:
    """Return whether nobody asked for a certain kind."""
    note = _note(dataset)
    return note is None or bool(note["auto"])


def vector_indices(dataset: Any) -> list[Any]:
    """Return Lance's descriptions of the indexes of the vectors: one, or none."""
    return [index for index in dataset.describe_indices() if "vector" in index.field_names]


def _note(dataset: Any) -> dict[str, Any] | None:
    metadata = dataset.schema.field("vector").metadata or {}
    try:
        note: dict[str, Any] = json.loads(metadata[_NOTE.encode()])
    except (KeyError, ValueError):
        return None
    return note


def guarded(work: Callable[[], Any], what: str) -> None:
    """Run a build again where writers conflict, and name what could not be built."""
    try:
        retrying_conflicts(work)
    except OSError as error:
        raise StorageError(f"{what}: {error}. Free some space, or check who may write there.") from error
    except (ValueError, RuntimeError) as error:
        raise VectorIndexError(f"{what}: {reason_of(error)}") from error
