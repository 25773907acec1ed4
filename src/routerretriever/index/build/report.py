"""What became of a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from routerretriever.index.build.chunks import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What became of a build.

    Attributes:
        collection: that was built.
        documents: read from the source.
        encoded: documents that were new or changed.
        recorded: of those, encoded by an earlier attempt.
        unchanged: documents that are in the index with the very same content.
        replaced: rows of the index that newer ones replaced.
        gone: rows of the collection that the source no longer has.
        pruned: whether those were deleted.
        problems: documents that were left out.
        quarantine: file with the lines left out; empty if they were not kept.
        left_out: fields that were not stored, because they hold lists or other values that
            nothing can be filtered by.
        other_files: suffix → files of kinds that are not read.
        chunks: that the source was cut into.
        seconds: that it took.
    """

    collection: str
    documents: int = 0
    encoded: int = 0
    recorded: int = 0
    unchanged: int = 0
    replaced: int = 0
    gone: int = 0
    pruned: bool = False
    problems: tuple[Problem, ...] = ()
    quarantine: str = ""
    left_out: tuple[str, ...] = ()
    other_files: Mapping[str, int] = field(default_factory=dict)
    chunks: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)
