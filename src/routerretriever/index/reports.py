"""What maintenance of an index did, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from routerretriever.index.kinds import IndexKind
from routerretriever.words.text_index import TextSettings


class Report:
    """Plain data for JSON."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted(Report):
    """What compaction did.

    Attributes:
        fragments_before: fragments that the documents were stored in; ``None`` where there are none.
        fragments_after: the same now.
        bytes_before: of all files of the index; ``None`` for an object store, like the next two.
        bytes_at_most: that the index can have taken meanwhile.
        bytes_after: until :meth:`routerretriever.Index.clean` removes the old versions.
        seconds: that it took.
    """

    fragments_before: int | None
    fragments_after: int | None
    bytes_before: int | None
    bytes_at_most: int | None
    bytes_after: int | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed(Report):
    """What a refresh did.

    Attributes:
        vectors: rows taken into the vector index.
        texts: rows taken into the text index.
        rebuilt: the vector index was built again, because it had too many segments.
        bytes_before, bytes_at_most, bytes_after: as for :class:`Compacted`, since a refresh
            merges fragments as well.
        seconds: that it took.
    """

    vectors: int
    texts: int
    rebuilt: bool
    bytes_before: int | None
    bytes_at_most: int | None
    bytes_after: int | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned(Report):
    """What cleaning did; bytes are ``None`` for an object store."""

    versions_before: int
    versions_after: int
    bytes_before: int | None
    bytes_after: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Flushed(Report):
    """Files and folders that were written through to the disk."""

    files: int
    folders: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted(Report):
    """A table that was there, and has become an index.

    Attributes:
        documents: with a text and a vector.
        incomplete: rows without one of them, which no search by vectors finds.
        checked: documents that were encoded again, for comparison.
        agreement: mean cosine, -1..1, of their vectors and those in the table.
        replaces: whether documents can be written: something keeps their ids unique.
        left_alone: columns of types that no field has, such as jsonb.
    """

    documents: int
    incomplete: int
    checked: int
    agreement: float
    replaces: bool
    left_alone: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeFigures:
    """What a bridge keeps of the neighbours of documents that it was not fitted on.

    Attributes:
        keeps_new: share, 0..1, of the ten documents nearest in the new base's vectors that mapped
            vectors find among the old ones; it decides which bridge is taken.
        keeps_old: the same for the ten nearest in the old base's vectors.
    """

    keeps_new: float
    keeps_old: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated(Report):
    """How far an index is on its way to another base.

    Attributes:
        documents: in the index.
        encoded: by this run.
        switched: whether the index has the new base now.
        method: of the bridge; empty where none was needed.
        figures: method → what it keeps.
        seconds: that it took.
    """

    documents: int
    encoded: int
    switched: bool
    method: str
    figures: Mapping[str, BridgeFigures]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationState:
    """A migration to another base that has begun.

    Attributes:
        fingerprint: of the new base.
        model: place of the model with it.
        encoded: documents that the new base has encoded.
        method: of the bridge; empty until there is one.
        figures: method → what it keeps.
    """

    fingerprint: str
    model: str
    encoded: int
    method: str
    figures: Mapping[str, BridgeFigures]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexInfo(Report):
    """An index at a glance.

    Attributes:
        documents: number of documents.
        passages: number of passages; a document that the base reads whole is one.
        collections: name → documents.
        kind: of the vector index.
        text: how the text index splits words; ``None`` if there is none.
        unindexed: passages that the vector index, if there is one, has not taken in yet.
        fragments: fragments that they are stored in; ``None`` in PostgreSQL, like the next.
        versions: that are kept.
        bytes: of all files; ``None`` for an object store.
        fingerprint: of the base that encoded the documents.
        model: place of the model; empty if unknown.
        migration: to another base; ``None`` if none has begun.
    """

    documents: int
    passages: int
    collections: dict[str, int]
    kind: IndexKind
    text: TextSettings | None
    unindexed: int
    fragments: int | None
    versions: int | None
    bytes: int | None
    fingerprint: str
    model: str
    migration: MigrationState | None = None
