"""How to put a source into an index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from routerretriever.errors import CollectionError

OnError = Literal["stop", "skip", "quarantine"]
ON_ERROR: tuple[str, ...] = get_args(OnError)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """How to put a source into an index.

    Attributes:
        on_error: ``stop`` at the first document that cannot be indexed, ``skip`` it, or
            ``quarantine`` it: skip it and keep its line in a file beside the index.
        resume: take over an unfinished build.
        prune: delete documents of the collection that the source no longer has.

    Raises:
        CollectionError: ``on_error`` is none of the three.
    """

    on_error: OnError = "stop"
    resume: bool = False
    prune: bool = False

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise CollectionError(f"on_error is one of {', '.join(ON_ERROR)}, not '{self.on_error}'.")
