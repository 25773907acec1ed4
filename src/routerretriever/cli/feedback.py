"""``routerretriever feedback``: apply clicks and judgements to the pilot library, and undo it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from routerretriever.cli.common import AsJson, Device, Model, changed_model, load_model
from routerretriever.cli.formatting import err, out, print_json, say
from routerretriever.errors import FeedbackError
from routerretriever.progress import Bars

if TYPE_CHECKING:
    from routerretriever.feedback import FeedbackReport
    from routerretriever.model import RouterRetriever

LogFile = Annotated[
    str | None,
    typer.Argument(metavar="[LOG.jsonl]", help="The log, or with --undo a batch.", show_default=False),
]
ShownIndex = Annotated[
    str | None, typer.Option(help="Folder or URI of the index whose documents were shown.")
]
PositionBias = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=3.0,
        help="Exponent eta: a document at rank r is seen with probability 1 / r^eta; 0 corrects nothing.",
    ),
]
Clip = Annotated[float, typer.Option(min=1.0, help="Largest weight of a click after the correction.")]
MinClicks = Annotated[
    int,
    typer.Option(
        min=1, help="Apply a group of queries only if it has this many clicks or relevant documents."
    ),
]
Weight = Annotated[
    float,
    typer.Option(
        min=0.01, max=1.0, help="Weight of a logged query; a query measured with judgements weighs 1."
    ),
]
OnError = Annotated[Literal["stop", "skip"], typer.Option(help="At an unusable line: stop, or skip it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Report only; do not change MODEL.")]
ReportFolder = Annotated[Path | None, typer.Option("--out", help="Write an HTML page and JSON here.")]
Undo = Annotated[bool, typer.Option("--undo", help="Undo a batch: the one named, or the last.")]
Listed = Annotated[bool, typer.Option("--list", help="List the batches in MODEL.")]

_SHOWN_PROBLEMS, _SHOWN_EXAMPLES = 5, 3


def feedback(
    model: Model,
    log: LogFile = None,
    index: ShownIndex = None,
    position_bias: PositionBias = 1.0,
    clip: Clip = 10.0,
    min_clicks: MinClicks = 30,
    weight: Weight = 0.5,
    on_error: OnError = "stop",
    dry_run: DryRun = False,
    out_dir: ReportFolder = None,
    undo: Undo = False,
    listed: Listed = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Update MODEL's pilot library with clicks or judgements, and report out-of-domain queries.

    The experts do not change. A batch can be undone to the last bit.
    """
    from routerretriever.feedback import FeedbackConfig, apply_feedback
    from routerretriever.feedback.report import to_dict, write_report
    from routerretriever.index.index import Index

    config = FeedbackConfig(
        position_bias=position_bias,
        clip=clip,
        min_clicks=min_clicks,
        weight=weight,
        on_error=on_error,
    )
    if undo and listed:
        raise FeedbackError("Give either --undo or --list, not both.")
    if not (undo or listed) and (log is None or index is None):
        raise FeedbackError(
            "Name the log and the index: routerretriever feedback MODEL LOG.jsonl --index INDEX"
        )
    if listed:
        _list(load_model(model, device), as_json)
        return
    if undo:
        _undo(model, log, device, as_json)
        return

    opened = nullcontext(load_model(model, device)) if dry_run else changed_model(model, device)
    with opened as loaded:
        report = apply_feedback(loaded, str(log), Index.open(str(index), loaded), config, progress=Bars())
    page: Path | None = None
    if out_dir is not None:
        page = write_report(report, out_dir, model=str(model))
    if as_json:
        print_json(to_dict(report, str(model)) | {"model": str(model), "dry_run": dry_run})
        return
    _show(report, str(model), dry_run)
    if page is not None:
        say(str(page))


def _undo(model: str, batch: str | None, device: str | None, as_json: bool) -> None:
    from routerretriever.feedback import undo_feedback

    with changed_model(model, device) as loaded:
        gone = undo_feedback(loaded, batch)
    if as_json:
        print_json({"model": model, "undone": gone})
    else:
        say(f"Batch {gone} was undone.")


def _list(model: RouterRetriever, as_json: bool) -> None:
    batches = model.library.feedback if model.library is not None else ()
    if as_json:
        print_json({"batches": [{"id": batch.id, "weight": batch.weight, **batch.info} for batch in batches]})
        return
    table = Table("batch", "applied", "lines", "pilots", "groups")
    for batch in batches:
        info = batch.info
        table.add_row(
            batch.id, info["time"], str(info["lines"]), str(info["pilots"]), ", ".join(info["groups"])
        )
    out.print(table)


def _show(report: FeedbackReport, model: str, dry_run: bool) -> None:
    from routerretriever.feedback.report import advice, commands, feedback_table, missing, summary

    out.print(feedback_table(report))
    for line in summary(report):
        say(line)
    for group in filter(missing, report.groups):
        say(f"You need an expert here: {group.name}, {group.queries} queries, such as")
        for example in group.examples[:_SHOWN_EXAMPLES]:
            say(f"  {example}")
        for command in commands(group, model):
            say(f"  {command}")
        for line in advice(group):
            say(line)
    for problem in report.problems[:_SHOWN_PROBLEMS]:
        say(f"Refused: {problem}", err)
    if report.batch and dry_run:
        say(f"{report.pilots} pilots would be added.")
    elif report.batch:
        say(f"{report.pilots} pilots added. To undo: routerretriever feedback {model} --undo {report.batch}")
