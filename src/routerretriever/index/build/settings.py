"""How to build, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from routerretriever.errors import BuildError, CollectionError
from routerretriever.index.build.shards import Piece, Problem
from routerretriever.index.build.worker import Encode, Job, Record, Worker

ON_ERROR = ("stop", "skip", "quarantine")
Run = Callable[[Job, Sequence[Piece]], Iterable[Record]]
"""Does pieces, anywhere and in any order, and yields the record of each as it is done."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What became of a build.

    Attributes:
        collection: that was built.
        documents: read from the source.
        encoded: were new or changed; ``recorded`` of them by an earlier attempt.
        unchanged: stand in the index with the very same content.
        replaced: rows of the index that newer ones took the place of.
        gone: rows of the collection that the source no longer has; ``pruned`` says whether they were deleted.
        problems: what was left out.
        quarantine: where the lines left out were written; empty if they were not.
        pieces: the source was cut into.
        seconds: it took.
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
    pieces: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to build.

    Attributes:
        on_error: ``stop`` at the first problem, ``skip`` what cannot be indexed, or ``quarantine`` it: skip it and
            keep the lines in a file beside the index.
        resume: take over the build that stands unfinished.
        prune: delete documents of the collection that the source no longer has.
    """

    on_error: str = "stop"
    resume: bool = False
    prune: bool = False

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise CollectionError(f"on_error is one of {', '.join(ON_ERROR)}, not '{self.on_error}'.")


def run_here(encode: Encode) -> Run:
    """Do the pieces in this process."""

    def run(job: Job, pieces: Sequence[Piece]) -> Iterator[Record]:
        worker = Worker(job, encode)
        return map(worker.process, pieces)

    return run


def check_workers(cluster: str | None, workers: int | None) -> None:
    """Refuse workers where there is nothing for them to work on.

    Raises:
        BuildError: there is no cluster.
    """
    if workers is not None and cluster is None:
        raise BuildError("Workers need a cluster to run on. Give --cluster ADDRESS, or local for this machine.")


def stopped(problem: Problem) -> CollectionError:
    """Return the error of a build that stops at a problem."""
    return CollectionError(
        f"{problem} Mend it and run the same command again: what was encoded is kept. To go on without it: "
        "--on-error skip, or quarantine."
    )
