"""How to put a source into an index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from routerretriever.errors import CollectionError

OnError = Literal["stop", "skip", "quarantine"]
ReadAs = Literal["auto", "files", "shards"]
READ_AS: tuple[str, ...] = get_args(ReadAs)
ON_ERROR: tuple[str, ...] = get_args(OnError)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """How to put a source into an index.

    Attributes:
        on_error: ``stop`` at the first document that cannot be indexed, ``skip`` it, or
            ``quarantine`` it: skip it and keep its line in a file beside the index.
        resume: take over an unfinished build.
        prune: delete documents of the collection that the source no longer has; ``if-listed`` does
            so unless a folder of the source cannot be listed, which ``True`` refuses.
        read_as: what a folder holds: ``shards`` of documents, ``files`` of one document each, or
            ``auto``, which looks.
        ignore: patterns of files that are not read, as in ``.gitignore``.

    Raises:
        CollectionError: ``on_error`` or ``read_as`` is none of the three.
    """

    on_error: OnError = "stop"
    resume: bool = False
    prune: bool | Literal["if-listed"] = False
    read_as: ReadAs = "auto"
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise CollectionError(f"on_error is one of {', '.join(ON_ERROR)}, not '{self.on_error}'.")
        if self.read_as not in READ_AS:
            raise CollectionError(f"read_as is one of {', '.join(READ_AS)}, not '{self.read_as}'.")
