"""The commands of ``routerretriever index``: adding documents, and keeping the index in shape."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from routerretriever.cli.common import (
    AsJson,
    Cluster,
    DefaultGroup,
    Device,
    IndexUri,
    Lenient,
    Model,
    Workers,
    guarded,
    load_model,
)
from routerretriever.cli.formatting import err, out, print_json, say
from routerretriever.errors import BuildError
from routerretriever.progress import Bars

if TYPE_CHECKING:
    from routerretriever.index.build.report import BuildReport
    from routerretriever.index.build.settings import OnError
    from routerretriever.index.reports import Report

_SHOWN_PROBLEMS = 5


class _IndexGroup(DefaultGroup):
    default = "add"


app = typer.Typer(
    cls=_IndexGroup,
    no_args_is_help=True,
    subcommand_metavar="[MODEL INDEX COLLECTION | VERB …]",
    help="Add documents to an index, or keep one in shape.\n\n"
    "`index MODEL INDEX COLLECTION` is short for `index add MODEL INDEX COLLECTION`. A model in a folder that is "
    "called like a verb is written ./build.",
)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a verb."""
    return app.command(name=function.__name__)(guarded(function))


@command
def add(
    model: Model,
    index: IndexUri,
    source: Annotated[
        str,
        typer.Argument(
            metavar="COLLECTION|SHARDS",
            help="A collection, or documents: a file, a folder or a URI of .jsonl, .jsonl.gz, .jsonl.zst or .parquet.",
            show_default=False,
        ),
    ],
    collection: Annotated[str | None, typer.Option(help="Name of the collection; default the source's.")] = None,
    on_error: Annotated[
        str,
        typer.Option(
            help="At a document that cannot be indexed: stop, skip it, or quarantine it (skip it and keep its line in "
            "a file beside the index)."
        ),
    ] = "stop",
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete documents of the collection that the source no longer has.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Take over a build that was killed.")] = False,
    cluster: Cluster = None,
    workers: Workers = None,
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, bf16 (where the device has instructions for it), auto, or int8 (for x86; less exact)."
        ),
    ] = "fp32",
    lenient: Lenient = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Encode what is new or changed and put it into INDEX, as one new version.

    A build that was interrupted continues with the same command; one that was killed also needs --resume.
    """
    from routerretriever.index.build.settings import BuildSettings
    from routerretriever.index.index import Index

    _check_workers(cluster, workers)
    if cluster is not None and device is not None:
        raise BuildError("Workers of a cluster take the device their node has. Leave out --device, or --cluster.")
    settings = BuildSettings(on_error=cast("OnError", on_error), resume=resume, prune=prune)

    loaded = load_model(model, device)
    runner = None
    if cluster is not None:
        from routerretriever.cluster import encode_on

        runner = encode_on(cluster, loaded, workers=workers)

    opened = Index.create(index, loaded, model_path=model)
    report = opened.add(
        source,
        collection=collection,
        settings=settings,
        strict=not lenient,
        precision=precision,
        runner=runner,
        progress=Bars(),
    )
    if as_json:
        print_json({"index": index, **report.to_dict(), "total": len(opened)})
        return
    _tell(report, index, len(opened), "approximate" if opened.is_approximate else "exact")


def _check_workers(cluster: str | None, workers: int | None) -> None:
    if workers is not None and cluster is None:
        raise BuildError("Workers need a cluster to run on. Give --cluster ADDRESS, or local for this machine.")


def _tell(report: BuildReport, index: str, total: int, kind: str) -> None:
    before = f", {report.recorded} of them before" if report.recorded else ""
    say(
        f"{report.documents} documents of '{report.collection}': {report.encoded} new or changed{before}, "
        f"{report.unchanged} unchanged. {index} now holds {total} ({kind} search)."
    )
    if report.gone:
        fate = "deleted" if report.pruned else "kept; --prune deletes them"
        say(f"{report.gone} documents are no longer in the source: {fate}.")
    if report.left_out:
        say(f"Fields left out, since they hold lists or the like: {', '.join(report.left_out)}.", err)
    for problem in report.problems[:_SHOWN_PROBLEMS]:
        say(f"Left out: {problem}", err)
    if report.problems:
        place = f" Their lines are in {report.quarantine}." if report.quarantine else ""
        say(f"{len(report.problems)} left out.{place}", err)


@command
def build(
    index: IndexUri,
    kind: Annotated[
        str | None,
        typer.Option(
            help="auto, flat (no index: scan all vectors), ivf_flat, ivf_pq, ivf_rq or hnsw.",
            show_default="auto, or none with --text",
        ),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Build the text index of title and text, which --mode text and hybrid need.")
    ] = False,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Build the vector index of INDEX again, its text index, or both."""
    from routerretriever.index.index import Index

    _check_workers(cluster, workers)
    if cluster is not None and text and kind is None:
        raise BuildError("The text index is built by one process. Leave out --cluster, or add --kind auto.")
    builder = None
    if cluster is not None:
        from routerretriever.cluster import build_index_on

        builder = build_index_on(cluster, workers=workers)

    opened = Index.open(index)
    vectors = None
    if kind is not None or not text:
        vectors = opened.build_index(kind or "auto", builder=builder)
    seconds = opened.build_text_index() if text else None
    opened.flush()
    if as_json:
        print_json({"index": index, "vectors": vectors and vectors.to_dict(), "text_seconds": seconds})
        return
    if vectors is not None:
        say(f"Vectors of {index}: {vectors.kind} ({vectors.reason}), {vectors.seconds:.1f} s.")
    if seconds is not None:
        say(f"Text of {index}: indexed, {seconds:.1f} s. Search it with --mode text or --mode hybrid.")


@command
def compact(index: IndexUri, as_json: AsJson = False) -> None:
    """Merge the small fragments that writes have left; takes up to twice the space more until `clean`."""
    from routerretriever.index.index import Index

    done = Index.open(index).compact()
    text = (
        f"{index}: {done.fragments_before} fragments became {done.fragments_after}; "
        f"{_size(done.bytes_before)} before, {_size(done.bytes_after)} now, in {done.seconds:.1f} s."
    )
    _answer(index, done, text, as_json)


@command
def refresh(index: IndexUri, as_json: AsJson = False) -> None:
    """Take documents that were written since into the vector index and the text index."""
    from routerretriever.index.index import Index

    done = Index.open(index).refresh()
    rebuilt = ", which was built again" if done.rebuilt else ""
    text = (
        f"{index}: {done.vectors} documents taken into the vector index{rebuilt}, {done.texts} into the text index, "
        f"in {done.seconds:.1f} s."
    )
    _answer(index, done, text, as_json)


@command
def clean(
    index: IndexUri,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0.0, metavar="DAYS", help="Keep versions younger than this.")
    ] = 7.0,
    as_json: AsJson = False,
) -> None:
    """Remove old versions of INDEX and the files that only they used."""
    from routerretriever.index.index import Index

    done = Index.open(index).clean(timedelta(days=older_than))
    text = (
        f"{index}: {done.versions_before} versions became {done.versions_after}; "
        f"{_size(done.bytes_before)} before, {_size(done.bytes_after)} now."
    )
    _answer(index, done, text, as_json)


@command
def info(index: IndexUri, as_json: AsJson = False) -> None:
    """Say what INDEX holds, how it is searched, and what it takes."""
    from routerretriever.index.index import Index

    found = Index.open(index).describe()
    table = Table(show_header=False, box=None)
    rows: dict[str, Any] = {
        "documents": found.documents,
        **{f"  of '{name}'": count for name, count in found.collections.items()},
        "vectors": f"{found.kind.kind} ({found.kind.reason})",
        "not in it yet": found.unindexed,
        "text index": "yes" if found.text else "no; make one with: routerretriever index build INDEX --text",
        "fragments": found.fragments,
        "versions": found.versions,
        "size": _size(found.bytes),
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    _answer(index, found, table, as_json)


def _answer(index: str, result: Report, shown: str | Table, as_json: bool) -> None:
    if as_json:
        print_json({"index": index, **result.to_dict()})
    elif isinstance(shown, str):
        say(shown)
    else:
        out.print(shown)


def _size(count: int | None) -> str:
    return "size unknown" if count is None else f"{count / 2**20:.1f} MiB"
