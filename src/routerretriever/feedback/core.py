"""Apply a log of use to the pilot library as a batch of its own, and take batches back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from routerretriever.errors import FeedbackError
from routerretriever.feedback.gains import Estimate, Evidence, estimate, measure
from routerretriever.feedback.groups import Group, make_groups
from routerretriever.feedback.log import Log, Problem, read_log
from routerretriever.progress import Progress
from routerretriever.routing.form_pilots import Measurement, measured_pilots
from routerretriever.routing.pilot_library import FEEDBACK, FeedbackBatch, PilotLibrary

if TYPE_CHECKING:
    from routerretriever.index.index import Index
    from routerretriever.model import RouterRetriever

ON_ERROR = ("stop", "skip")
MAX_LINES = 50_000
"""Of a longer log the last lines are used."""
EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class FeedbackConfig:
    """How a log is read.

    Attributes:
        position_bias: eta of the examination 1 / rank ** eta that clicks are corrected for; 0 for no correction.
        clip: most that a click may weigh.
        min_clicks: a group with fewer clicked (or relevant) documents changes nothing.
        weight: of a logged query beside one that was measured with judgements.
        on_error: ``stop`` at the first line that cannot be used, or ``skip`` such lines.
    """

    position_bias: float = 1.0
    clip: float = 10.0
    min_clicks: int = 30
    weight: float = 0.5
    on_error: str = "stop"

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise FeedbackError(f"on_error is one of {', '.join(ON_ERROR)}, not '{self.on_error}'.")
        if (
            not 0.0 <= self.position_bias <= 3.0
            or self.clip < 1.0
            or self.min_clicks < 1
            or not 0.0 < self.weight <= 1.0
        ):
            raise FeedbackError(
                "The position bias must be within 0..3, the clip and the clicks at least 1, the weight in 0..1."
            )


@dataclass(frozen=True, slots=True)
class GroupReport:
    """What became of a group of queries.

    Attributes:
        name: the collection whose pilots know it, or ``far-N``.
        far: no pilot knows it.
        share: of the log's lines.
        queries, lines: of different queries and of lines.
        heard: queries that tell something: with a click or a relevant document.
        clicks: clicked or relevant documents.
        gains: expert → estimated gain over base, in nDCG@10 on the shown documents.
        errors: expert → standard error of that.
        believed: expert → gain as far as it is believed; 0 where it is not.
        predicted: expert → what the router predicted.
        shown: collections of the documents shown, most frequent first.
        examples: typical queries.
        added: pilots were made of it.
        reason: why, or why not.
    """

    name: str
    far: bool
    share: float
    queries: int
    lines: int
    heard: int
    clicks: int
    gains: dict[str, float]
    errors: dict[str, float | None]
    believed: dict[str, float]
    predicted: dict[str, float]
    shown: tuple[str, ...]
    examples: tuple[str, ...]
    added: bool
    reason: str


@dataclass(frozen=True, slots=True)
class FeedbackReport:
    """What a log did.

    Attributes:
        batch: name of what was added; empty if nothing was.
        pilots: how many.
        lines: in the log, those used, those that earlier batches rest on, those beyond ``MAX_LINES``.
        problems: lines that were refused.
        judged: lines with judgements; the other used ones have clicks.
        estimator: how clicks were weighed.
        limit: familiarity below which a query is far from every pilot.
        far_share: share of the used lines with such a query.
        groups: of the traffic.
    """

    batch: str
    pilots: int
    lines: int
    used: int
    applied_before: int
    too_old: int
    problems: tuple[Problem, ...]
    judged: int
    estimator: str
    limit: float
    far_share: float
    groups: tuple[GroupReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def estimator_name(config: FeedbackConfig, clicked: int) -> str:
    """The estimator as the report states it."""
    if not clicked:
        return "judgements: nDCG@10 on the shown documents; no position bias to correct"
    if config.position_bias == 0:
        return "clicks as they are: position bias is NOT handled (--position-bias 0)"
    return (
        "self-normalised inverse propensity weighting (Joachims, Swaminathan and Schnabel 2017), examination "
        f"1 / rank^{config.position_bias:g}, weights clipped at {config.clip:g}"
    )


def apply_feedback(
    model: RouterRetriever,
    path: str | Path,
    index: Index,
    config: FeedbackConfig | None = None,
    *,
    progress: Progress | None = None,
) -> FeedbackReport:
    """Read a log and add what it supports to the model's pilot library; the caller saves the model.

    Args:
        model: with a pilot library and the gain router.
        path: of the log.
        index: holds the documents that the log shows; none is encoded again.
        config: how the log is read.
        progress: where to report.

    Raises:
        LibraryError: the model has no pilot library.
        FeedbackError: the log cannot be read, is empty, was applied before, or a line of it is refused and
            ``config.on_error`` is ``stop``.
    """
    config, path = config or FeedbackConfig(), Path(path)
    policy = model.state.required_policy()
    if not policy.router.knows_base:
        raise FeedbackError(
            f"The router '{policy.router.name}' does not predict gains, which is what feedback is about. Build the "
            "library with: routerretriever library MODEL COLLECTION… --router gain"
        )
    library = policy.library
    log = read_log(path, model.fingerprint, index.lookup)
    _check(log, library, path, config)
    log, before, old = _fresh(log, library)
    if not log.events:
        raise FeedbackError(_nothing(path, log, before))
    evidence = measure(
        model,
        log,
        cosine=index.metric == "cosine",
        eta=config.position_bias,
        clip=config.clip,
        progress=progress,
    )
    groups = make_groups(policy, evidence)
    estimates = [estimate(evidence, group.rows, config.min_clicks) for group in groups]
    kept = [credited(group, found) for group, found in zip(groups, estimates, strict=True)]
    reports = tuple(
        _report(library.experts, evidence, len(log.events), *parts, config)
        for parts in zip(groups, estimates, kept, strict=True)
    )
    clicked = sum(not event.judged for event in log.events)
    report = FeedbackReport(
        batch="",
        pilots=0,
        lines=log.lines,
        used=len(log.events),
        applied_before=before,
        too_old=old,
        problems=log.problems,
        judged=len(log.events) - clicked,
        estimator=estimator_name(config, clicked),
        limit=float(policy.router.space.reject_threshold),
        far_share=sum(group.share for group in reports if group.far),
        groups=reports,
    )
    believed = [(group, gains) for group, gains in zip(groups, kept, strict=True) if gains is not None]
    if not believed:
        return report
    batch, pilots = _batch(library, evidence, believed, log, report, config)
    model.set_library(library.with_feedback(batch, pilots))
    return replace(report, batch=batch.id, pilots=len(pilots))


def undo_feedback(model: RouterRetriever, batch: str | None = None) -> str:
    """Take a batch back, by default the last; answers which. The caller saves the model.

    Raises:
        LibraryError: the model has no pilot library, or no such batch.
        FeedbackError: it has no batch at all.
    """
    library = model.state.required_policy().router.library
    if not library.feedback:
        raise FeedbackError("Nothing to undo: the model's pilot library has no feedback.")
    batch = batch or library.feedback[-1].id
    model.set_library(library.without_feedback(batch))
    return batch


def credited(group: Group, found: Estimate) -> NDArray[np.float64] | None:
    """The gains (E,) that a group's pilots get; ``None`` if it changes nothing.

    Among strangers an expert is credited with what is believed, and the group only counts if some expert gains. Where
    the pilots know the traffic, their predictions stand but for experts of which the log shows the opposite.
    """
    believed = found.believed
    if group.far:
        return believed if (believed > 0).any() else None
    against = ((believed > 0) & (group.predicted <= 0)) | ((believed < 0) & (group.predicted > 0))
    return np.where(against, believed, group.predicted) if against.any() else None


def _check(log: Log, library: PilotLibrary, path: Path, config: FeedbackConfig) -> None:
    for batch in library.feedback:
        if batch.info.get("log") == log.digest:
            raise FeedbackError(
                f"{path} was applied before, as batch {batch.id}. Give a newer log, or take it back first: "
                f"routerretriever feedback MODEL --undo {batch.id}"
            )
    if log.problems and config.on_error == "stop":
        raise FeedbackError(
            f"{path}, {log.problems[0]} ({len(log.problems)} of {log.lines} lines cannot be used). Correct them, or "
            "leave them out with --on-error skip."
        )


def _fresh(log: Log, library: PilotLibrary) -> tuple[Log, int, int]:
    """The lines that no batch rests on, the last ones if there are too many; and how many are left out for either."""
    used = np.concatenate([np.empty(0, np.uint64), *(batch.lines for batch in library.feedback)])
    digests = np.array([event.digest for event in log.events], np.uint64)
    fresh = np.flatnonzero(~np.isin(digests, used))
    last = fresh[-MAX_LINES:]
    kept = tuple(log.events[row] for row in last)
    return replace(log, events=kept), len(digests) - len(fresh), len(fresh) - len(last)


def _nothing(path: Path, log: Log, before: int) -> str:
    if before:
        return f"Every usable line of {path} was applied before. Give a newer log, or undo first: --undo"
    return f"No line of {path} can be used; the first fault is in {log.problems[0]}."


def _report(
    experts: Sequence[str],
    evidence: Evidence,
    total: int,
    group: Group,
    found: Estimate,
    kept: NDArray[np.float64] | None,
    config: FeedbackConfig,
) -> GroupReport:
    def by_expert(values: NDArray[np.float64]) -> dict[str, float]:
        return {name: round(float(value), 4) for name, value in zip(experts, values, strict=True)}

    lines = int(evidence.lines[group.rows].sum())
    errors = {name: value if np.isfinite(value) else None for name, value in by_expert(found.errors).items()}
    return GroupReport(
        group.name,
        group.far,
        lines / total,
        len(group.rows),
        lines,
        found.queries,
        found.clicks,
        by_expert(found.gains),
        errors,
        by_expert(found.believed),
        by_expert(group.predicted),
        group.shown,
        tuple(evidence.queries[row] for row in group.rows[:EXAMPLES]),
        kept is not None,
        _reason(experts, group, found, kept, config),
    )


def _reason(
    experts: Sequence[str],
    group: Group,
    found: Estimate,
    kept: NDArray[np.float64] | None,
    config: FeedbackConfig,
) -> str:
    from routerretriever.feedback.gains import MIN_QUERIES

    if kept is not None:
        changed = [
            f"{name} {100 * value:+.1f}" for name, value in zip(experts, found.believed, strict=True) if value != 0
        ]
        return f"believed: {', '.join(changed)}"
    if found.queries < MIN_QUERIES or found.clicks < config.min_clicks:
        return f"too little evidence: {found.queries} queries, {found.clicks} clicks"
    if group.far:
        return "no expert is sure to gain here"
    return "nothing contradicts the library"


def _batch(
    library: PilotLibrary,
    evidence: Evidence,
    believed: Sequence[tuple[Group, NDArray[np.float64]]],
    log: Log,
    report: FeedbackReport,
    config: FeedbackConfig,
) -> tuple[FeedbackBatch, PilotLibrary]:
    name = log.digest[:8]
    pilots = PilotLibrary.empty(library.centroids.shape[1], library.experts)
    digests: list[int] = []
    for group, gains in believed:
        rows = group.rows[evidence.weights[group.rows] > 0]
        digests += [event.digest for row in rows for event in evidence.events[row]]
        every = np.tile(gains.astype(np.float32), (len(rows), 1))
        measured = Measurement(
            collection=f"{FEEDBACK}{name}/{group.name}",
            queries=tuple(evidence.queries[row] for row in rows),
            embeddings=evidence.route_embeddings[rows],
            gains=every,
            training_queries=(),
            training_embeddings=evidence.route_embeddings[:0],
        )
        pilots = pilots.extended(measured_pilots(library.experts, measured))
    info = {
        "log": log.digest,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "lines": report.used,
        "pilots": len(pilots),
        "groups": [group.name for group, _ in believed],
        "estimator": report.estimator,
        "settings": asdict(config),
    }
    return FeedbackBatch(
        id=name, weight=config.weight, lines=np.unique(np.array(digests, np.uint64)), info=info
    ), pilots
