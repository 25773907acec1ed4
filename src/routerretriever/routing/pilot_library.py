"""The pilot library: everything the router knows.

A pilot is a centroid of queries in route-embedding space together with the mean measured gain of
every expert there. It generalises the library of Algorithm 1 in Lee et al. (arXiv 2409.02685),
whose pilots carry only the name of the best expert. Training queries are pilots too, without gains of
their own, since an expert's gain on what it was trained on says little: they show how far a collection
extends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routerretriever.errors import LibraryError
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.abstention import PilotSpace
from routerretriever.routing.gain_table import copy_with_room, mean_by_group, only_adds, with_columns
from routerretriever.routing.relevance import RelevanceTable
from routerretriever.routing.word_gains import WordGains

FEEDBACK = "feedback:"
"""Prefix of the sources of pilots that were measured with a log of use: ``feedback:BATCH/GROUP``."""
GENERATED_MARK = "(generated)"
GENERATED_GAIN = (
    "measured on generated queries. It shows that the expert learned something, not that real queries profit."
)


def marked(text: str, generated: bool) -> str:
    """Return a text, marked if it is about gains on generated queries."""
    return f"{text} {GENERATED_MARK}" if generated else text


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FeedbackBatch:
    """Record of what one log of use added.

    Attributes:
        id: its name; the sources of its pilots begin with :attr:`prefix`.
        weight: of each of its queries; a query that was measured with judgements weighs 1.
        lines: digests of the log's lines that were used (n,), so that none counts twice.
        info: when and from what it was made, with which settings, as plain data.
    """

    id: str
    weight: float
    lines: NDArray[np.uint64]
    info: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        """The beginning of its pilots' sources."""
        return f"{FEEDBACK}{self.id}/"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PilotLibrary:
    """All pilots, as one value that never changes.

    Attributes:
        experts: names of the gain columns.
        centroids: unit vectors (P, d).
        gains: mean nDCG@10 of an expert minus that of the base (P, E); NaN where not measured.
        counts: queries behind each pilot (P,).
        sources: the collection each pilot comes from (P,).
        examples: the query nearest to each centroid (P,), for explanations.
        space: the space in which similarities to these pilots are computed; ``None`` until :meth:`fitted`.
        versions: expert → fingerprint of the adapter that its gains were measured with, if known.
        feedback: batches that :mod:`routerretriever.feedback` added.
        words: what words add to a search at each pilot; ``None`` if it was not measured.
        relevance: calibrations of what hits are worth; ``None`` if nothing was measured.
        generated: collection whose measured queries were generated → what they were generated from, if known.
    """

    experts: tuple[str, ...]
    centroids: Vectors
    gains: NDArray[np.float32]
    counts: NDArray[np.int64]
    sources: tuple[str, ...]
    examples: tuple[str, ...]
    space: PilotSpace | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    feedback: tuple[FeedbackBatch, ...] = ()
    generated: Mapping[str, str] = field(default_factory=dict)
    words: WordGains | None = None
    relevance: RelevanceTable | None = None

    def __post_init__(self) -> None:
        rows = len(self.centroids)
        shapes = (self.gains.shape, self.counts.shape, len(self.sources), len(self.examples))
        words = rows if self.words is None else len(self.words.values)
        if shapes != ((rows, len(self.experts)), (rows,), rows, rows) or words != rows:
            raise LibraryError("The pilot library is damaged: its parts differ in size. Build it again.")

    def __len__(self) -> int:
        return len(self.centroids)

    @classmethod
    def empty(cls, dimension: int, experts: Sequence[str] = ()) -> Self:
        """Return a library without pilots."""
        return cls(
            experts=tuple(experts),
            centroids=np.empty((0, dimension), np.float32),
            gains=np.empty((0, len(experts)), np.float32),
            counts=np.empty(0, np.int64),
            sources=(),
            examples=(),
        )

    def groups(self) -> tuple[str, ...]:
        """Return the collections and groups of feedback that pilots come from, in order of their first pilot."""
        return tuple(dict.fromkeys(self.sources))

    def group_numbers(self) -> NDArray[np.int64]:
        """Return the place of each pilot's source among :meth:`groups` (P,)."""
        place = {name: number for number, name in enumerate(self.groups())}
        return np.array([place[source] for source in self.sources], np.int64)

    def collections(self) -> tuple[str, ...]:
        """Return the collections that pilots come from, in order of their first pilot."""
        return tuple(name for name in self.groups() if not name.startswith(FEEDBACK))

    def label(self, name: str) -> str:
        """Return a collection's name, marked if its gains were measured on generated queries."""
        return marked(name, name in self.generated)

    @property
    def from_feedback(self) -> NDArray[np.bool_]:
        """Whether each pilot was measured with a log of use (P,)."""
        return np.array([source.startswith(FEEDBACK) for source in self.sources], bool)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weight of each pilot (P,): its number of queries, times the weight of its batch of feedback."""
        weights = self.counts.astype(np.float64)
        for batch in self.feedback:
            own = [source.startswith(batch.prefix) for source in self.sources]
            weights[own] *= batch.weight
        return weights

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Whether a gain of at least one expert was measured at each pilot (P,)."""
        return np.asarray(np.isfinite(self.gains).any(axis=1))

    def mean_gains(self) -> dict[str, NDArray[np.float64]]:
        """Return collection or group of feedback → mean gain of every expert (E,), NaN where not measured."""
        means = mean_by_group(self.gains, self.counts, self.group_numbers())
        return dict(zip(self.groups(), means, strict=True))

    def unmeasured(self) -> dict[str, list[str]]:
        """Return expert → the collections on whose pilots its gain was not measured."""
        gaps: dict[str, list[str]] = {}
        for name, means in self.mean_gains().items():
            if name.startswith(FEEDBACK):  # there is no collection to measure again
                continue
            for expert, mean in zip(self.experts, means, strict=True):
                if np.isnan(mean):
                    gaps.setdefault(expert, []).append(name)
        return gaps

    def with_experts(self, experts: Sequence[str]) -> Self:
        """Return the same pilots with exactly these columns; new ones are not measured yet (NaN).

        Where columns are only added, the gains usually share this library's memory.
        """
        gains = with_columns(self.gains, self.experts, experts)
        versions = {name: self.versions[name] for name in experts if name in self.versions}
        words = self.words and self.words.among(tuple(experts))
        return replace(self, experts=tuple(experts), gains=gains, versions=versions, words=words)

    def only_adds_to(self, other: PilotLibrary) -> bool:
        """Return whether these are the other's gains, in the same memory, and experts that were not measured."""
        return self.experts[: len(other.experts)] == other.experts and only_adds(self.gains, other.gains)

    def renamed(self, old: str, new: str) -> Self:
        """Return the same library with another name for an expert."""

        def name_of(expert: str) -> str:
            return new if expert == old else expert

        versions = {name_of(expert): version for expert, version in self.versions.items()}
        words = self.words and self.words.renamed(old, new)
        return replace(self, experts=tuple(map(name_of, self.experts)), versions=versions, words=words)

    def with_gains(self, expert: str, gains: Mapping[str, float | Sequence[float]]) -> Self:
        """Return the same pilots with an expert's gains on some collections filled in.

        Args:
            expert: one of :attr:`experts`.
            gains: collection → one gain for all its measured pilots, or a gain for each of them.

        Raises:
            LibraryError: the expert or a collection is not in the library, or the gains do not fit.
        """
        if expert not in self.experts:
            known = ", ".join(self.experts) or "none"
            raise LibraryError(f"The pilot library has no column for '{expert}'. Its experts: {known}.")
        filled = copy_with_room(self.gains, len(self.experts))
        measured = np.where(self.measured, np.array(self.sources), "")
        for name, given in gains.items():
            rows = np.flatnonzero(measured == name)
            if not len(rows):
                known = ", ".join(self.collections())
                raise LibraryError(
                    f"The pilot library has no measured pilots of '{name}'. It knows: {known}."
                )
            try:
                values = np.asarray(given, np.float32)
            except (TypeError, ValueError) as error:
                raise LibraryError(f"The gains on '{name}' are not numbers.") from error
            if values.shape not in ((), rows.shape) or not bool(np.all(np.abs(values) <= 1.0)):
                raise LibraryError(
                    f"The gains on '{name}' must be one number or {len(rows)}, between -1 and 1: nDCG@10 over base."
                )
            filled[rows, self.experts.index(expert)] = values
        return replace(self, gains=filled)

    def fitted(self) -> Self:
        """Return this library with the space fitted to its pilots, except to those of feedback."""
        if self.feedback:
            judged = self._only(~self.from_feedback).fitted()
            space = judged.space and judged.space.with_added_pilots(
                self.centroids, self.sources, self.from_feedback
            )
            return replace(self, space=space)
        space = PilotSpace.fit(self.centroids, self.sources, self.measured) if len(self) else None
        return replace(self, space=space)

    def without_collection(self, name: str) -> Self:
        """Return all pilots but those of one collection."""
        generated = {source: made_from for source, made_from in self.generated.items() if source != name}
        others = [source != name for source in self.sources]
        kept = self.only(np.array(others, bool))
        return replace(kept, space=None, generated=generated)

    def only(self, kept: NDArray[np.bool_]) -> Self:
        """Return some of the pilots, in the space that was fitted to all."""
        space = self.space and replace(self.space, density=self.space.density[kept])
        return replace(self, **self._rows(kept), space=space)

    def with_feedback(self, batch: FeedbackBatch, pilots: PilotLibrary) -> Self:
        """Return the library with a batch's pilots at the end; the space stays as it is.

        Raises:
            LibraryError: there is a batch of that name, or the pilots have other columns.
        """
        if any(batch.id == known.id for known in self.feedback):
            raise LibraryError(f"The library already has a feedback batch '{batch.id}'. Undo it first.")
        whole = replace(self.extended(pilots), feedback=(*self.feedback, batch))
        if self.space is None:
            return whole.fitted()
        added = np.arange(len(whole)) >= len(self)
        return replace(whole, space=self.space.with_added_pilots(whole.centroids, whole.sources, added))

    def without_feedback(self, batch_id: str) -> Self:
        """Return the library as it would be without a batch, to the last bit.

        Raises:
            LibraryError: there is no such batch.
        """
        batch = next((batch for batch in self.feedback if batch.id == batch_id), None)
        if batch is None:
            known = ", ".join(batch.id for batch in self.feedback) or "none"
            raise LibraryError(
                f"There is no feedback batch '{batch_id}' in this model. Its batches: {known}."
            )
        kept = np.array([not source.startswith(batch.prefix) for source in self.sources], bool)
        rest = list(self.feedback)
        rest.remove(batch)
        return replace(self.only(kept), feedback=tuple(rest))

    def _only(self, kept: NDArray[np.bool_]) -> Self:
        return replace(self, **self._rows(kept), space=None, feedback=())

    def _rows(self, kept: NDArray[np.bool_]) -> dict[str, Any]:
        return {
            "centroids": self.centroids[kept],
            "gains": self.gains[kept],
            "counts": self.counts[kept],
            "sources": tuple(compress(self.sources, kept)),
            "examples": tuple(compress(self.examples, kept)),
            "words": self.words and self.words.only(kept),
        }

    def extended(self, other: PilotLibrary) -> Self:
        """Return this library with another's rows at the end.

        Raises:
            LibraryError: the columns differ.
        """
        if self.experts != other.experts:
            raise LibraryError("Pilots can only be added to a library with the same experts.")
        return replace(
            self,
            centroids=np.concatenate([self.centroids, other.centroids]),
            gains=np.concatenate([self.gains, other.gains]),
            counts=np.concatenate([self.counts, other.counts]),
            sources=self.sources + other.sources,
            examples=self.examples + other.examples,
            words=self._words_with(other),
            space=None,
        )

    def _words_with(self, other: PilotLibrary) -> WordGains | None:
        if self.words is None and other.words is None:
            return None
        own = self.words or WordGains.unmeasured(len(self))
        return own.extended(other.words or WordGains.unmeasured(len(other)))
