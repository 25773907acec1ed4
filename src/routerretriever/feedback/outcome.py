"""What became of a log, as plain records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from routerretriever.feedback.log import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """The outcome for one group of queries.

    Attributes:
        name: the collection whose pilots are nearest, or ``out-of-domain-N``.
        out_of_domain: the in-domain scores are below the library's reject threshold.
        share: fraction of the log's lines.
        queries, lines: number of different queries and of lines.
        queries_with_signal: queries with a click or a relevant document.
        clicks: number of clicked or relevant documents.
        gains: expert → estimated gain over the base, in nDCG@10 on the shown documents.
        errors: expert → standard error of that gain.
        significant: expert → shrunk gain if it is significant, otherwise 0.
        predicted: expert → gain that the router predicts.
        shown: collections of the documents shown, most frequent first.
        examples: typical queries.
        applied: whether pilots were made of the group.
        reason: why it was applied, or why not.
    """

    name: str
    out_of_domain: bool
    share: float
    queries: int
    lines: int
    queries_with_signal: int
    clicks: int
    gains: dict[str, float]
    errors: dict[str, float | None]
    significant: dict[str, float]
    predicted: dict[str, float]
    shown: tuple[str, ...]
    examples: tuple[str, ...]
    applied: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackReport:
    """The outcome for a whole log.

    Attributes:
        batch: name of the batch that was added; empty if nothing was applied.
        pilots: number of pilots added.
        lines: number of lines in the log.
        used: number of lines used.
        applied_before: number of lines that earlier batches used.
        too_old: number of lines left out because the log has more than ``MAX_LINES``.
        problems: lines that were refused.
        judged: number of used lines with judgements; the others have clicks.
        estimator: how clicks were weighed.
        reject_threshold: in-domain score below which a query is out of domain.
        out_of_domain_share: fraction of the used lines with such a query.
        groups: of the queries.
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
    reject_threshold: float
    out_of_domain_share: float
    groups: tuple[GroupReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)
