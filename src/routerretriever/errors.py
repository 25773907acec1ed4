"""Every error a user can meet.

    RouterRetrieverError
    ├── CollectionError        a collection cannot be read, or contradicts itself
    ├── ModelError             a model directory or base encoder cannot be used
    │   ├── FormatError        written by a newer version, or not a model at all
    │   └── FingerprintError   made for another base encoder
    ├── ExpertError            an expert is missing, misplaced or unusable
    │   ├── SilentExpertError  an adapter that changes nothing
    │   ├── NoGainError        training ended without beating the base
    │   └── HarmError          an expert costs a collection more than is allowed
    ├── LibraryError           the pilot library is missing or contradicts the experts
    ├── HistoryError           a model's log is damaged, or a former state of it is not kept
    ├── VectorIndexError       an index cannot be opened, or does not fit the model
    │   ├── FilterError        a condition on documents cannot be understood
    │   └── BuildError         a build cannot start or end: another holds the index, or a cluster does not fit
    ├── QueryError             a query is empty
    ├── FeedbackError          a log of use cannot be read, was applied before, or has nothing to apply it to
    ├── SynthesisError         queries cannot be generated as asked
    │   └── PausedError        generating stopped before its end; what was paid for is kept
    ├── SuiteError             a benchmark suite is wrong or cannot be run
    ├── HubError               something could not be fetched from the hub or put there
    ├── StorageError           the disk is full or cannot be written
    │   └── LockedError        another process is changing the same thing
    ├── ServerError            the server cannot be started as asked
    └── MissingExtraError      an optional dependency is not installed

Each message says what is wrong and what to do about it.
"""

from __future__ import annotations


class RouterRetrieverError(Exception):
    """Base class of all errors raised on purpose by this package."""


class CollectionError(RouterRetrieverError):
    """A collection cannot be read, or contradicts itself."""


class ModelError(RouterRetrieverError):
    """A model directory or a base encoder cannot be used."""


class FormatError(ModelError):
    """A directory is not a model, is incomplete, or was written by a newer version."""


class FingerprintError(ModelError):
    """Something was made with another base encoder than the one at hand."""


class ExpertError(RouterRetrieverError):
    """An expert is missing, is named badly, or does not fit the base encoder."""


class SilentExpertError(ExpertError):
    """An adapter was loaded, but it changes no query vector."""


class NoGainError(ExpertError):
    """Training ended without an expert that beats the base on held-out queries."""


class HarmError(ExpertError):
    """With a new expert, routed queries of some collection lose more than the margin."""


class LibraryError(RouterRetrieverError):
    """The pilot library is missing, damaged, or contradicts the experts."""


class HistoryError(RouterRetrieverError):
    """The log of a model's versions is damaged, or the files of a former state are not kept any more."""


class VectorIndexError(RouterRetrieverError):
    """An index cannot be opened, or was made with another base encoder."""


class FilterError(VectorIndexError):
    """A condition on documents names something that does not exist, or a value of the wrong type."""


class BuildError(VectorIndexError):
    """A build of an index cannot start or end: another one holds it, or the cluster does not fit."""


class QueryError(RouterRetrieverError):
    """A query is empty."""


class FeedbackError(RouterRetrieverError):
    """A log of use cannot be read, was applied before, or the model has nothing to apply it to."""


class SynthesisError(RouterRetrieverError):
    """Queries cannot be generated: a wrong setting, an unusable collection, or a model that does not answer."""


class PausedError(SynthesisError):
    """Generating stopped at a limit or a fault; the same command goes on from there."""


class SuiteError(RouterRetrieverError):
    """A benchmark suite names something that does not exist, or cannot be run as it stands."""


class HubError(RouterRetrieverError):
    """Something could not be fetched from the hub or put there."""


class StorageError(RouterRetrieverError):
    """Something could not be written: the disk is full or the path is not writable."""


class LockedError(StorageError):
    """Another process or thread is changing the same model, index or journal."""


class ServerError(RouterRetrieverError):
    """The server cannot be started as asked: an unsafe address, or a key file that cannot be used."""


class MissingExtraError(RouterRetrieverError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(f"This needs the package '{package}'. Install it with: pip install 'routerretriever[{extra}]'")
