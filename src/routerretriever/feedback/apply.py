"""Apply a log of use to the pilot library as a batch of its own, and undo batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from routerretriever.errors import FeedbackError
from routerretriever.feedback.config import FeedbackConfig
from routerretriever.feedback.gains import MIN_QUERIES, Estimate, Evidence, estimate, measure
from routerretriever.feedback.groups import Group, make_groups
from routerretriever.feedback.log import Log, read_log
from routerretriever.feedback.outcome import FeedbackReport, GroupReport
from routerretriever.progress import Progress
from routerretriever.routing.form_pilots import Measurement, measured_pilots
from routerretriever.routing.pilot_library import FEEDBACK, FeedbackBatch, PilotLibrary
from routerretriever.routing.policy import RoutingPolicy

if TYPE_CHECKING:
    from routerretriever.index.index import Index
    from routerretriever.model import RouterRetriever

MAX_LINES = 50_000
"""Of a longer log, the last lines are used."""
EXAMPLES = 5

Gains = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _NewLines:
    """The lines of a log to use, and how many are left out for which reason."""

    log: Log
    applied_before: int
    too_old: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Outcome:
    """A group, its estimate, and the gains (E,) that its pilots get; ``None`` if it is not applied."""

    group: Group
    found: Estimate
    gains: Gains | None


def apply_feedback(
    model: RouterRetriever,
    path: str | Path,
    index: Index,
    config: FeedbackConfig | None = None,
    *,
    progress: Progress | None = None,
) -> FeedbackReport:
    """Read a log and add what is significant to the model's pilot library; the caller saves the model.

    Args:
        model: with a pilot library and the gain router.
        path: of the log.
        index: has the vectors of the documents that the log shows; none is encoded again.
        config: how the log is read.
        progress: where to report.

    Raises:
        LibraryError: the model has no pilot library.
        FeedbackError: the log cannot be read, is empty or was applied before, or a line of it is refused and
            ``config.on_error`` is ``stop``.
    """
    config, path = config or FeedbackConfig(), Path(path)
    policy = _gain_policy(model)
    library = policy.library
    new = _new_lines(model, path, index, config, library)

    evidence = measure(
        model,
        new.log,
        cosine=index.metric == "cosine",
        eta=config.position_bias,
        clip=config.clip,
        progress=progress,
    )
    outcomes = []
    for group in make_groups(policy, evidence):
        found = estimate(evidence, group.rows, config.min_clicks)
        outcomes.append(_Outcome(group=group, found=found, gains=gains_to_apply(group, found)))

    report = _report(policy, new, evidence, outcomes, config)
    applied = [outcome for outcome in outcomes if outcome.gains is not None]
    if not applied:
        return report
    batch, pilots = _batch(library, evidence, applied, new.log, report, config)
    model.set_library(library.with_feedback(batch, pilots))
    return replace(report, batch=batch.id, pilots=len(pilots))


def undo_feedback(model: RouterRetriever, batch: str | None = None) -> str:
    """Remove a batch, by default the last, and return its name. The caller saves the model.

    Raises:
        LibraryError: the model has no pilot library, or no such batch.
        FeedbackError: it has no batch at all.
    """
    library = model.state.required_policy().library
    if not library.feedback:
        raise FeedbackError("Nothing to undo: the model's pilot library has no feedback.")
    batch = batch or library.feedback[-1].id
    model.set_library(library.without_feedback(batch))
    return batch


def gains_to_apply(group: Group, found: Estimate) -> Gains | None:
    """Return the gains (E,) that a group's pilots get; ``None`` if the group is not applied.

    Out of domain, pilots get the significant gains, and the group is applied only if some expert gains. In domain,
    the pilots' predictions stay, except for experts of which the log shows the opposite.
    """
    significant = found.significant
    if group.out_of_domain:
        some_gain = (significant > 0).any()
        return significant if some_gain else None

    opposite = (significant > 0) & (group.predicted <= 0)
    opposite |= (significant < 0) & (group.predicted > 0)
    if not opposite.any():
        return None
    return np.where(opposite, significant, group.predicted)


def estimator_name(config: FeedbackConfig, clicked: int) -> str:
    """Return the name of the estimator, as reports state it."""
    if not clicked:
        return "judgements: nDCG@10 on the shown documents; no position bias to correct"
    if config.position_bias == 0:
        return "unweighted clicks: position bias is NOT corrected (--position-bias 0)"
    return (
        "self-normalised inverse propensity weighting (Joachims, Swaminathan and Schnabel 2017), examination "
        f"1 / rank^{config.position_bias:g}, weights clipped at {config.clip:g}"
    )


# -- the log ---------------------------------------------------------------------------------------


def _gain_policy(model: RouterRetriever) -> RoutingPolicy:
    policy = model.state.required_policy()
    if not policy.router.knows_base:
        raise FeedbackError(
            f"The router '{policy.router.name}' does not predict gains, which feedback needs. Build the library "
            "with: routerretriever library MODEL COLLECTION… --router gain"
        )
    return policy


def _new_lines(
    model: RouterRetriever, path: Path, index: Index, config: FeedbackConfig, library: PilotLibrary
) -> _NewLines:
    """Read a log, and leave out the lines that batches have used and those beyond ``MAX_LINES``."""
    log = read_log(path, model.fingerprint, index.lookup)
    _check(log, library, path, config)
    nothing = np.empty(0, np.uint64)
    used = np.concatenate([nothing, *(batch.lines for batch in library.feedback)])
    digests = np.array([event.digest for event in log.events], np.uint64)
    fresh = np.flatnonzero(~np.isin(digests, used))
    last = fresh[-MAX_LINES:]
    before = len(digests) - len(fresh)
    if not len(last):
        if before:
            raise FeedbackError(
                f"Every usable line of {path} was applied before. Give a newer log, or undo first."
            )
        raise FeedbackError(f"No line of {path} can be used; the first fault is in {log.problems[0]}.")
    events = tuple(log.events[row] for row in last)
    return _NewLines(log=replace(log, events=events), applied_before=before, too_old=len(fresh) - len(last))


def _check(log: Log, library: PilotLibrary, path: Path, config: FeedbackConfig) -> None:
    for batch in library.feedback:
        if batch.info.get("log") == log.digest:
            raise FeedbackError(
                f"{path} was applied before, as batch {batch.id}. Give a newer log, or undo it first: "
                f"routerretriever feedback MODEL --undo {batch.id}"
            )
    if log.problems and config.on_error == "stop":
        raise FeedbackError(
            f"{path}, {log.problems[0]} ({len(log.problems)} of {log.lines} lines cannot be used). Fix them, or "
            "skip them with --on-error skip."
        )


# -- the report ------------------------------------------------------------------------------------


def _report(
    policy: RoutingPolicy,
    new: _NewLines,
    evidence: Evidence,
    outcomes: Sequence[_Outcome],
    config: FeedbackConfig,
) -> FeedbackReport:
    events = new.log.events
    clicked = [event.judged for event in events].count(False)
    groups = []
    for outcome in outcomes:
        groups.append(_group_report(policy.library.experts, evidence, len(events), outcome, config))
    out_of_domain_shares = [group.share for group in groups if group.out_of_domain]
    return FeedbackReport(
        batch="",
        pilots=0,
        lines=new.log.lines,
        used=len(events),
        applied_before=new.applied_before,
        too_old=new.too_old,
        problems=new.log.problems,
        judged=len(events) - clicked,
        estimator=estimator_name(config, clicked),
        reject_threshold=float(policy.router.space.reject_threshold),
        out_of_domain_share=sum(out_of_domain_shares),
        groups=tuple(groups),
    )


def _group_report(
    experts: Sequence[str], evidence: Evidence, total: int, outcome: _Outcome, config: FeedbackConfig
) -> GroupReport:
    def by_expert(values: Gains) -> dict[str, float]:
        rounded = [round(float(value), 4) for value in values]
        return dict(zip(experts, rounded, strict=True))

    group, found = outcome.group, outcome.found
    lines = int(evidence.lines[group.rows].sum())

    # JSON has no infinity.
    errors: dict[str, float | None] = {}
    for name, error in by_expert(found.errors).items():
        errors[name] = error if np.isfinite(error) else None
    return GroupReport(
        name=group.name,
        out_of_domain=group.out_of_domain,
        share=lines / total,
        queries=len(group.rows),
        lines=lines,
        queries_with_signal=found.queries,
        clicks=found.clicks,
        gains=by_expert(found.gains),
        errors=errors,
        significant=by_expert(found.significant),
        predicted=by_expert(group.predicted),
        shown=group.shown,
        examples=tuple(evidence.queries[row] for row in group.rows[:EXAMPLES]),
        applied=outcome.gains is not None,
        reason=_reason(experts, outcome, config),
    )


def _reason(experts: Sequence[str], outcome: _Outcome, config: FeedbackConfig) -> str:
    found = outcome.found
    if outcome.gains is not None:
        gains = []
        for name, value in zip(experts, found.significant, strict=True):
            if value != 0:
                gains.append(f"{name} {100 * value:+.1f}")
        return "significant: " + ", ".join(gains)
    if found.queries < MIN_QUERIES or found.clicks < config.min_clicks:
        return f"too little evidence: {found.queries} queries, {found.clicks} clicks"
    if outcome.group.out_of_domain:
        return "no expert has a significant gain"
    return "nothing contradicts the library"


# -- the batch -------------------------------------------------------------------------------------


def _batch(
    library: PilotLibrary,
    evidence: Evidence,
    applied: Sequence[_Outcome],
    log: Log,
    report: FeedbackReport,
    config: FeedbackConfig,
) -> tuple[FeedbackBatch, PilotLibrary]:
    """Return the record of the batch, and its pilots."""
    name = log.digest[:8]
    pilots = PilotLibrary.empty(library.centroids.shape[1], library.experts)
    digests: list[int] = []
    for outcome in applied:
        rows = outcome.group.rows[evidence.weights[outcome.group.rows] > 0]
        for row in rows:
            digests += [event.digest for event in evidence.events[row]]
        measured = Measurement(
            collection=f"{FEEDBACK}{name}/{outcome.group.name}",
            queries=tuple(evidence.queries[row] for row in rows),
            embeddings=evidence.route_embeddings[rows],
            gains=np.tile(np.asarray(outcome.gains, np.float32), (len(rows), 1)),
            training_queries=(),
            training_embeddings=evidence.route_embeddings[:0],
        )
        pilots = pilots.extended(measured_pilots(library.experts, measured))
    info: dict[str, Any] = {
        "log": log.digest,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "lines": report.used,
        "pilots": len(pilots),
        "groups": [outcome.group.name for outcome in applied],
        "estimator": report.estimator,
        "settings": asdict(config),
    }
    lines = np.unique(np.array(digests, np.uint64))
    return FeedbackBatch(id=name, weight=config.weight, lines=lines, info=info), pilots
