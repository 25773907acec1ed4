"""What became of a synthesis: counts, and what was dropped and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from routerretriever.errors import SynthesisError

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisReport:
    """The outcome of one synthesis.

    It counts queries as they were made, each for one passage: ``generated`` is the sum of
    ``kept`` and all of ``dropped``.

    Attributes:
        method: how queries were made.
        source: name of the collection they were made for.
        settings: everything that decided them.
        documents, passages, asked: documents read, different texts among them (of long documents
            their passages), and texts that queries were made for.
        in_passages: documents that were cut into several passages.
        set_aside: reason → texts that no query was made for.
        generated: queries before the filter.
        dropped: reason → queries that the filter dropped, or merged into one that is for
            several passages.
        examples: reason → some of these.
        short_answers: reason → answers of a model with fewer queries than asked for; the
            missing ones were never made.
        train, held_out: queries that were kept.
        notes: what is remarkable.
        tokens_in, tokens_out, cost: what may be billed for a model, over all runs.
    """

    method: str
    source: str
    settings: Mapping[str, Any]
    documents: int
    passages: int
    asked: int
    set_aside: Mapping[str, int]
    generated: int
    dropped: Mapping[str, int]
    examples: Mapping[str, Sequence[str]]
    short_answers: Mapping[str, int]
    train: int
    held_out: int
    notes: tuple[str, ...] = ()
    in_passages: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    format: int = FORMAT

    @property
    def kept(self) -> int:
        """Queries of the new collection."""
        return self.train + self.held_out

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"kept": self.kept}


def check_enough(report: SynthesisReport) -> None:
    """Check that an expert can be trained on the queries that were kept.

    Raises:
        SynthesisError: there are too few.
    """
    if report.train < 2 or report.held_out < 1:
        raise SynthesisError(
            f"Of {report.generated} queries {report.kept} are left, too few to train on. "
            f"Dropped: {_counted(report.dropped)}. Answers with too few queries: "
            f"{_counted(report.short_answers)}. Choose another method (--with), a base that "
            "knows the language (--base), or a larger depth (-k)."
        )


def _counted(counts: Mapping[str, int]) -> str:
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {reason}" for reason, count in ranked) or "none"


def report_table(report: SynthesisReport) -> Table:
    """Return a table of what was made, dropped and kept."""
    from rich.table import Column, Table

    table = Table(
        Column("", no_wrap=True),
        Column("number", justify="right"),
        Column("for example", overflow="ellipsis"),
        title=f"Queries for '{report.source}' by {report.method}",
    )
    table.add_row("documents", str(report.documents), "")
    if report.in_passages:
        table.add_row("  cut into passages", str(report.in_passages), "")
    for reason, count in report.set_aside.items():
        table.add_row(f"  {reason}", str(count), "")
    table.add_row("texts queries were made for", f"{report.asked} of {report.passages}", "")
    table.add_section()
    for reason, count in report.short_answers.items():
        table.add_row(f"  answers: {reason}", str(count), "")
    table.add_row("queries made", str(report.generated), "")
    for reason, count in sorted(report.dropped.items(), key=lambda item: -item[1]):
        example = next(iter(report.examples.get(reason, ())), "")
        table.add_row(f"  dropped: {reason}", str(count), example[:60])
    kept = f"{report.train} to train on, {report.held_out} held out"
    table.add_row("kept", str(report.kept), kept)
    return table
