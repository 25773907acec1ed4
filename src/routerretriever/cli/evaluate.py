"""``routerretriever evaluate`` and ``bench``: one model, or a whole comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from routerretriever.cli.common import (
    AsJson,
    CutOff,
    Device,
    IgnoreIdenticalIds,
    Lenient,
    Model,
    Sources,
    load_collections,
    load_model,
)
from routerretriever.cli.formatting import err, points, print_json, say, show_table
from routerretriever.progress import Bars

if TYPE_CHECKING:
    from collections.abc import Mapping

SplitName = Annotated[str, typer.Option(help="Split to evaluate.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Evaluate at most N queries of each collection.")]
Seed = Annotated[int, typer.Option(help="Random seed of --limit.")]
ReportFolder = Annotated[
    Path | None, typer.Option("--out", help="Write report, JSON and TREC runs to this folder.")
]
GroupedBy = Annotated[
    str,
    typer.Option(
        "--by",
        metavar="FIELD",
        help="Group the queries of the report by length, or by this metadata field of their relevant documents.",
    ),
]
SuiteFile = Annotated[
    Path, typer.Argument(metavar="SUITE", help="YAML file; see suites/.", show_default=False)
]
BenchFolder = Annotated[
    Path,
    typer.Option(
        "--out",
        help="Folder for models, cached vectors, results and report.",
        show_default=False,
    ),
]


def evaluate(
    model: Model,
    collections: Sources,
    split: SplitName = "test",
    limit: Limit = None,
    seed: Seed = 0,
    out_dir: ReportFolder = None,
    by: GroupedBy = "length",
    lenient: Lenient = False,
    ignore_identical_ids: IgnoreIdenticalIds = None,
    cut_off: CutOff = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compare the default search, base, experts and oracles on judged queries.

    Documents longer than the base reads are ranked by their best passage, as
    in an index.
    """
    from routerretriever.evaluation.evaluate import evaluate as evaluate_model
    from routerretriever.evaluation.query_groups import by_field, by_length
    from routerretriever.evaluation.report import evaluation_table, report_content, write_report

    loaded = load_model(model, device)
    judged = load_collections(
        collections, lenient=lenient, ignore_identical_ids=ignore_identical_ids, cut_off=cut_off
    )
    result = evaluate_model(loaded, judged, split=split, limit=limit, seed=seed, progress=Bars())
    groups = by_length(result) if by == "length" else by_field(result, judged, by)
    page = None
    if out_dir is not None:
        page = write_report(result, out_dir, title=f"RouterRetriever: {Path(model).name}", groups=groups)
    if as_json:
        print_json(report_content(result, groups))
        return
    show_table(evaluation_table(result))
    for found in result.collections:
        if found.documents.in_passages or found.documents.cut_off:
            say(f"{found.name}: {found.documents}.", err)
    if page is not None:
        say(str(page))


def bench(suite: SuiteFile, out_dir: BenchFolder, as_json: AsJson = False) -> None:
    """Train what is missing, compare all systems of a suite, and write a report.

    Rerun an interrupted command to continue where it stopped.
    """
    from routerretriever.bench import report, results
    from routerretriever.bench.runner import Bench
    from routerretriever.bench.studies.registry import run_studies
    from routerretriever.bench.suite import Suite

    run = Bench(Suite.load(suite), out_dir, progress=Bars())
    seeds = run.run()
    document = results.summarise(run, seeds, run_studies(run))
    report.write_runs(run, seeds, out_dir / "runs")
    page = report.write(document, out_dir)
    if as_json:
        print_json(document)
        return
    show_table(_bench_table(document))
    say(str(page))


def _bench_table(document: Mapping[str, Any]) -> Table:
    groups = [group for group, members in document["groups"].items() if members]
    table = Table("system", *groups, title=f"{document['suite']}: mean nDCG@10 × 100")
    for name, row in document["systems"].items():
        table.add_row(name, *[points(row[group]["mean"]) for group in groups])
    return table
