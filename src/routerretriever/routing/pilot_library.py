"""The pilot library: the router's whole knowledge, in a file of its own.

A pilot is a centroid of queries in route-embedding space together with the mean measured gain of
every expert there. It generalises the library of Algorithm 1 in Lee et al. (arXiv 2409.02685),
whose pilots carry the name of the best expert alone. Training queries are pilots too, without gains of
their own, since an expert's gain on what it was trained on says little: they show how far a collection
reaches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from routerretriever.errors import LibraryError
from routerretriever.kernels.exact_search import Vectors
from routerretriever.routing.abstention import PilotSpace

LIBRARY_FORMAT = 2
"""1 where there is no feedback; earlier versions would take its pilots for judged ones."""
FEEDBACK = "feedback:"
"""How the sources of pilots begin that were measured with a log of use: ``feedback:BATCH/GROUP``."""
GENERATED_MARK = "(generated)"
GENERATED_GAIN = (
    "measured on generated queries, which shows that something was learnt, not that people's queries profit."
)
PILOT_TENSORS, PILOT_INFO = "pilots.safetensors", "pilots.json"


_ROOM = 16  # columns of NaN behind the gains, into which a library grows without being copied


def marked(text: str, generated: bool) -> str:
    """A text, marked if it tells of gains on generated queries."""
    return f"{text} {GENERATED_MARK}" if generated else text


@dataclass(frozen=True, slots=True, eq=False)
class FeedbackBatch:
    """What one log of use added.

    Attributes:
        id: names it; the sources of its pilots begin with :attr:`prefix`.
        weight: of each of its queries, where one that was measured with judgements weighs 1.
        lines: digests of the log's lines that it rests on (n,), so that none counts twice.
        info: when, from what and how, as plain data.
    """

    id: str
    weight: float
    lines: NDArray[np.uint64]
    info: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        """What the sources of its pilots begin with."""
        return f"{FEEDBACK}{self.id}/"


@dataclass(frozen=True, slots=True, eq=False)
class PilotLibrary:
    """All pilots.

    Attributes:
        experts: names of the gain columns.
        centroids: unit vectors (P, d).
        gains: mean nDCG@10 of an expert minus that of the base (P, E); NaN where not measured.
        counts: queries behind each pilot (P,).
        sources: the collection each pilot comes from (P,).
        examples: the query nearest to each centroid (P,), for explanations.
        space: where similarities to these pilots are measured; ``None`` until :meth:`fitted`.
        versions: expert → fingerprint of the adapter that its gains were measured with, where that is known.
        feedback: the batches that :mod:`routerretriever.feedback` added.
        generated: collection whose measured queries were generated → what they were generated from, if that is known.
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

    def __post_init__(self) -> None:
        rows = len(self.centroids)
        shapes = (self.gains.shape, self.counts.shape, len(self.sources), len(self.examples))
        if shapes != ((rows, len(self.experts)), (rows,), rows, rows):
            raise LibraryError("The pilot library is damaged: its parts differ in size. Build it again.")

    def __len__(self) -> int:
        return len(self.centroids)

    @classmethod
    def empty(cls, dimension: int, experts: Sequence[str] = ()) -> Self:
        """A library without pilots."""
        return cls(
            tuple(experts),
            np.empty((0, dimension), np.float32),
            np.empty((0, len(experts)), np.float32),
            np.empty(0, np.int64),
            (),
            (),
        )

    def groups(self) -> tuple[str, ...]:
        """Where pilots come from, collections and groups of feedback, in order of their first pilot."""
        return tuple(dict.fromkeys(self.sources))

    def group_numbers(self) -> NDArray[np.int64]:
        """The place of each pilot's source among :meth:`groups` (P,)."""
        place = {name: number for number, name in enumerate(self.groups())}
        return np.array([place[source] for source in self.sources], np.int64)

    def collections(self) -> tuple[str, ...]:
        """The collections that pilots come from, in order of their first pilot."""
        return tuple(name for name in self.groups() if not name.startswith(FEEDBACK))

    def label(self, name: str) -> str:
        """A collection's name, marked where its gains were measured on generated queries."""
        return marked(name, name in self.generated)

    @property
    def from_feedback(self) -> NDArray[np.bool_]:
        """Which pilots were measured with a log of use (P,)."""
        return np.array([source.startswith(FEEDBACK) for source in self.sources], bool)

    @property
    def weights(self) -> NDArray[np.float64]:
        """What each pilot weighs (P,): its queries, those of feedback by the weight of their batch."""
        weights = self.counts.astype(np.float64)
        for batch in self.feedback:
            weights[[source.startswith(batch.prefix) for source in self.sources]] *= batch.weight
        return weights

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Which pilots have a measured gain of at least one expert (P,)."""
        return np.asarray(np.isfinite(self.gains).any(axis=1))

    def mean_gains(self) -> dict[str, NDArray[np.float64]]:
        """Collection or group of feedback → mean gain of every expert over its measured queries (E,), or NaN."""
        numbers, names, means = self.group_numbers(), self.groups(), {}
        bounds = np.cumsum(np.bincount(numbers, minlength=len(names)))[:-1]
        for name, rows in zip(names, np.split(np.argsort(numbers, kind="stable"), bounds), strict=True):
            gains, counts = self.gains[rows], self.counts[rows].astype(np.float64)
            finite = np.isfinite(gains)
            with np.errstate(invalid="ignore"):
                means[name] = (counts @ np.where(finite, gains, 0.0)) / (counts @ finite)
        return means

    def unmeasured(self) -> dict[str, list[str]]:
        """Expert → the collections on whose pilots its gain is not measured."""
        gaps: dict[str, list[str]] = {}
        for name, means in self.mean_gains().items():
            if name.startswith(FEEDBACK):  # no collection that could be named again
                continue
            for expert, mean in zip(self.experts, means, strict=True):
                if np.isnan(mean):
                    gaps.setdefault(expert, []).append(name)
        return gaps

    def with_experts(self, experts: Sequence[str]) -> Self:
        """The same pilots with exactly these columns; new ones are not measured yet (NaN).

        Where columns are only added, the gains are shared with this library as a rule, not copied.
        """
        known, wanted = len(self.experts), tuple(experts)
        if wanted[:known] == self.experts:
            gains = _widened(self.gains, len(wanted))
        else:
            place = {name: column for column, name in enumerate(self.experts)}
            columns = [place.setdefault(name, len(place)) for name in wanted]
            gains = _widened(self.gains, len(place)).take(columns, axis=1)
        measured_with = self.versions
        versions = {name: measured_with[name] for name in wanted if name in measured_with}
        return replace(self, experts=wanted, gains=gains, versions=versions)

    def only_adds_to(self, other: PilotLibrary) -> bool:
        """Whether this is the other library's gains, in the same memory, and experts whose gain nobody measured."""
        known = len(other.experts)
        same = _at(self.gains) == _at(other.gains) and self.experts[:known] == other.experts
        return same and bool(np.isnan(self.gains[:, known:]).all())

    def renamed(self, old: str, new: str) -> Self:
        """The same columns, one of them under another name."""

        def name_of(expert: str) -> str:
            return new if expert == old else expert

        versions = {name_of(expert): version for expert, version in self.versions.items()}
        return replace(self, experts=tuple(map(name_of, self.experts)), versions=versions)

    def with_gains(self, expert: str, gains: Mapping[str, float | Sequence[float]]) -> Self:
        """The same pilots with an expert's gains on some collections filled in.

        Args:
            expert: one of :attr:`experts`.
            gains: collection → one gain for all its measured pilots, or a gain for each of them.

        Raises:
            LibraryError: a collection is not in the library, or the gains are too few, too many or no gains.
        """
        filled, sources, measured = _with_room(self.gains, len(self.experts)), np.array(self.sources), self.measured
        for name, given in gains.items():
            rows = np.flatnonzero((sources == name) & measured)
            if not len(rows):
                known = ", ".join(self.collections())
                raise LibraryError(f"The pilot library has no measured pilots of '{name}'. It knows: {known}.")
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
        """This library with the space learnt from its pilots; those of feedback only take their place in it."""
        if self.feedback:
            judged = self._only(~self.from_feedback).fitted()
            space = judged.space and judged.space.placing(self.centroids, self.sources, self.from_feedback)
            return replace(self, space=space)
        space = PilotSpace.fit(self.centroids, self.sources, self.measured) if len(self) else None
        return replace(self, space=space)

    def without_collection(self, name: str) -> Self:
        """All pilots but those of one collection."""
        generated = {source: made_from for source, made_from in self.generated.items() if source != name}
        kept = self.only(np.array([source != name for source in self.sources], bool))
        return replace(kept, space=None, generated=generated)

    def only(self, kept: NDArray[np.bool_]) -> Self:
        """Some of the pilots, in the space that was learnt with all."""
        space = self.space and replace(self.space, density=self.space.density[kept])
        return replace(self, **self._rows(kept), space=space)

    def with_feedback(self, batch: FeedbackBatch, pilots: PilotLibrary) -> Self:
        """A batch's pilots after the others; what is known of the space stays as it is.

        Raises:
            LibraryError: a batch of that name is there, or the pilots have other columns.
        """
        if any(batch.id == known.id for known in self.feedback):
            raise LibraryError(f"The library has a feedback batch '{batch.id}' already.")
        whole = replace(self.extended(pilots), feedback=(*self.feedback, batch))
        if self.space is None:
            return whole.fitted()
        added = np.arange(len(whole)) >= len(self)
        return replace(whole, space=self.space.placing(whole.centroids, whole.sources, added))

    def without_feedback(self, batch_id: str) -> Self:
        """The library as it would be without a batch, to the last bit.

        Raises:
            LibraryError: there is no such batch.
        """
        batch = next((batch for batch in self.feedback if batch.id == batch_id), None)
        if batch is None:
            known = ", ".join(batch.id for batch in self.feedback) or "none"
            raise LibraryError(f"There is no feedback batch '{batch_id}' in this model. Its batches: {known}.")
        kept = np.array([not source.startswith(batch.prefix) for source in self.sources], bool)
        rest = tuple(other for other in self.feedback if other is not batch)
        return replace(self.only(kept), feedback=rest)

    def _only(self, kept: NDArray[np.bool_]) -> Self:
        return replace(self, **self._rows(kept), space=None, feedback=())

    def _rows(self, kept: NDArray[np.bool_]) -> dict[str, Any]:
        return {
            "centroids": self.centroids[kept],
            "gains": self.gains[kept],
            "counts": self.counts[kept],
            "sources": tuple(s for s, keep in zip(self.sources, kept, strict=True) if keep),
            "examples": tuple(e for e, keep in zip(self.examples, kept, strict=True) if keep),
        }

    def extended(self, other: PilotLibrary) -> Self:
        """This library with another's rows added; both must have the same columns."""
        if self.experts != other.experts:
            raise LibraryError("Pilots can only be added to a library with the same experts.")
        return replace(
            self,
            centroids=np.concatenate([self.centroids, other.centroids]),
            gains=np.concatenate([self.gains, other.gains]),
            counts=np.concatenate([self.counts, other.counts]),
            sources=self.sources + other.sources,
            examples=self.examples + other.examples,
            space=None,
        )

    def save(self, directory: Path, **info: Any) -> None:
        """Write ``pilots.safetensors`` and ``pilots.json``; ``info`` goes into the latter."""
        tensors: dict[str, Any] = {
            "centroids": np.ascontiguousarray(self.centroids),
            "gains": np.ascontiguousarray(self.gains),
            "counts": np.ascontiguousarray(self.counts),
        }
        space = self.space
        if space is not None:
            tensors |= {"mean": space.mean, "whitening": space.whitening, "density": space.density}
        tensors |= {f"{FEEDBACK}{batch.id}": batch.lines for batch in self.feedback}
        save_file(tensors, directory / PILOT_TENSORS)
        batches = [{"id": batch.id, "weight": batch.weight, "info": dict(batch.info)} for batch in self.feedback]
        description = {
            "format_version": LIBRARY_FORMAT if batches else 1,
            **info,
            "experts": self.experts,
            "measured_with": dict(self.versions),
            "familiarity": None if space is None else {"unsure": space.unsure, "sure": space.sure},
            "collections": self.groups(),
            "sources": self.group_numbers().tolist(),
            "examples": self.examples,
            **({"feedback": batches} if batches else {}),
            **({"generated": dict(self.generated)} if self.generated else {}),
        }
        text = json.dumps(description, ensure_ascii=False, indent=1)
        (directory / PILOT_INFO).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> tuple[Self, dict[str, Any]]:
        """Read a library and the info it was saved with.

        Raises:
            LibraryError: the files are damaged or of a newer format.
        """
        try:
            tensors = load_file(directory / PILOT_TENSORS)
            info = json.loads((directory / PILOT_INFO).read_text(encoding="utf-8"))
            if info["format_version"] > LIBRARY_FORMAT:
                raise LibraryError(
                    f"{directory / PILOT_INFO} has format {info['format_version']}, this version reads up "
                    f"to {LIBRARY_FORMAT}. Upgrade routerretriever."
                )
            limits = info["familiarity"]
            space = limits and PilotSpace(tensors["mean"], tensors["whitening"], tensors["density"], **limits)
            batches = [
                FeedbackBatch(row["id"], row["weight"], tensors[f"{FEEDBACK}{row['id']}"], row["info"])
                for row in info.get("feedback", ())
            ]
            library = cls(
                tuple(info["experts"]),
                tensors["centroids"],
                _with_room(tensors["gains"], tensors["gains"].shape[1]),
                tensors["counts"],
                tuple(info["collections"][number] for number in info["sources"]),
                tuple(info["examples"]),
                space,
                info.get("measured_with", {}),
                tuple(batches),
                info.get("generated", {}),
            )
        except (OSError, ValueError, KeyError, IndexError, SafetensorError) as error:
            raise LibraryError(
                f"The pilot library in {directory} is damaged ({type(error).__name__}: {error}). Build it "
                "again with: routerretriever library MODEL COLLECTION…"
            ) from error
        return library, info


def _widened(gains: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """Gains (P, E) with columns of NaN after them: those that stand behind them in memory, or a copy's."""
    known = gains.shape[1]
    if columns == known:
        return gains
    # Nobody writes into a library, so several may share what lies behind their columns.
    whole = _whole(gains)
    if whole.shape[1] >= columns and np.isnan(whole[:, known:columns]).all():
        return whole[:, :columns]
    return _with_room(gains, columns)


def _whole(gains: NDArray[np.float32]) -> NDArray[np.float32]:
    """The array whose first columns gains (P, E) are, or they themselves."""
    whole = gains.base
    if isinstance(whole, np.ndarray) and whole.shape[:1] == gains.shape[:1] and _at(whole) == _at(gains):
        return whole
    return gains


def _at(gains: NDArray[np.float32]) -> tuple[int, tuple[int, ...]]:
    """Where an array begins in memory, and how far apart its rows and columns are."""
    return gains.ctypes.data, gains.strides


def _with_room(gains: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """A copy of gains (P, E) with so many columns, those added NaN, and more such behind them."""
    # Torch's memory: numpy asks for huge pages, which may take several times as long to get.
    whole: NDArray[np.float32] = torch.full((len(gains), columns + _ROOM), torch.nan).numpy()
    whole[:, : gains.shape[1]] = gains
    return whole[:, :columns]
