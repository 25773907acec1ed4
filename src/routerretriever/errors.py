"""The errors that this package raises on purpose.

    RouterRetrieverError
    ├── CollectionError        a collection cannot be read, or contradicts itself
    ├── ModelError             a model folder or base encoder cannot be used
    │   ├── FormatError        not a model, incomplete, or written by a newer version
    │   ├── FingerprintError   made with another base encoder
    │   └── EngineError        a compiled engine is missing, stale or damaged, or cannot be made
    ├── ExpertError            an expert is missing, has a wrong name, or does not fit the base
    │   ├── SilentExpertError  an adapter changes no query vector
    │   ├── NoGainError        a trained expert's gain is not significant
    │   └── HarmError          an expert costs a collection more than is allowed
    ├── LibraryError           the pilot library is missing, damaged, or contradicts the experts
    ├── HistoryError           a model's log is damaged, or a former state is no longer kept
    ├── VectorIndexError       an index cannot be opened or searched, or does not fit the model
    │   ├── FilterError        a condition on documents is wrong
    │   └── BuildError         a build of an index cannot start or finish
    ├── QueryError             a query is empty
    ├── FeedbackError          feedback cannot be read, or cannot be applied to the model
    ├── SynthesisError         queries cannot be generated as asked
    │   └── PausedError        generation stopped early and can be continued
    ├── SuiteError             a benchmark suite is wrong or cannot be run
    ├── HubError               a download from the hub or an upload to it failed
    ├── StorageError           a file or folder cannot be written
    │   └── LockedError        another process is changing the same model, index or journal
    ├── ServerError            the server cannot be started as asked
    └── MissingExtraError      an optional dependency is not installed

Each message says what is wrong and what to do about it; it is written where the error is raised.
"""

from __future__ import annotations


class RouterRetrieverError(Exception):
    """Base class of all errors that this package raises on purpose."""


class CollectionError(RouterRetrieverError):
    """A collection cannot be read, or contradicts itself."""


class ModelError(RouterRetrieverError):
    """A model folder or a base encoder cannot be used."""


class FormatError(ModelError):
    """A folder is not a model, is incomplete, or was written by a newer version."""


class FingerprintError(ModelError):
    """An index, expert or library was made with another base encoder."""


class EngineError(ModelError):
    """A compiled engine is missing, stale or damaged, or the base cannot be compiled."""


class ExpertError(RouterRetrieverError):
    """An expert is missing, has a wrong name, or does not fit the base encoder."""


class SilentExpertError(ExpertError):
    """An adapter changes no query vector, although it was loaded."""


class NoGainError(ExpertError):
    """A trained expert has no significant gain on held-out queries that did not choose it."""


class HarmError(ExpertError):
    """With a new expert, the routed queries of a collection lose more than the margin."""


class LibraryError(RouterRetrieverError):
    """The pilot library is missing, damaged, or contradicts the experts."""


class HistoryError(RouterRetrieverError):
    """The log of a model is damaged, or the files of a former state are no longer kept."""


class VectorIndexError(RouterRetrieverError):
    """An index cannot be opened or searched, or does not fit the model."""


class FilterError(VectorIndexError):
    """A condition on documents names an unknown field, or has a value of the wrong type."""


class BuildError(VectorIndexError):
    """A build of an index cannot start or finish: another build holds it, or the cluster is unsuitable."""


class QueryError(RouterRetrieverError):
    """A query is empty."""


class FeedbackError(RouterRetrieverError):
    """A feedback log cannot be read, was applied before, or the model has no pilot library."""


class SynthesisError(RouterRetrieverError):
    """Queries cannot be generated: a wrong setting, an unusable collection, or no answer from a model."""


class PausedError(SynthesisError):
    """Generation stopped at a limit or a fault; rerun the same command to continue."""


class SuiteError(RouterRetrieverError):
    """A benchmark suite has a wrong value, names something unknown, or cannot be run."""


class HubError(RouterRetrieverError):
    """A download from the hub or an upload to it failed."""


class StorageError(RouterRetrieverError):
    """A file or folder cannot be written: the disk is full, or the path is not writable."""


class LockedError(StorageError):
    """Another process or thread is changing the same model, index or journal."""


class ServerError(RouterRetrieverError):
    """The server cannot be started as asked: an unsafe address, or a key file that cannot be used."""


class MissingExtraError(RouterRetrieverError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(
            f"This needs the package '{package}'. Install it with: pip install 'routerretriever[{extra}]'"
        )
