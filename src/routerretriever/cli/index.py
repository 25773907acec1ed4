"""The commands of ``routerretriever index``: adding documents, and keeping the index in shape."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from routerretriever.cli.common import (
    AsJson,
    Cluster,
    DefaultGroup,
    Device,
    Engine,
    EngineName,
    IndexUri,
    Lenient,
    Model,
    Workers,
    guarded,
    load_model,
    open_model,
)
from routerretriever.cli.formatting import err, print_json, say, show_table, size
from routerretriever.errors import BuildError, VectorIndexError
from routerretriever.index.build.settings import BuildSettings, OnError, ReadAs
from routerretriever.index.postgres_uri import shown_uri
from routerretriever.progress import Bars

if TYPE_CHECKING:
    from routerretriever.index.build.report import BuildReport
    from routerretriever.index.build.worker import Runner
    from routerretriever.index.kinds import IndexKind
    from routerretriever.index.maintenance import Builder
    from routerretriever.index.reports import MigrationState, Report
    from routerretriever.index.texts import TextIndex
    from routerretriever.model import RouterRetriever
    from routerretriever.opening import OpenedModel

_SHOWN_PROBLEMS = 20

Source = Annotated[
    str,
    typer.Argument(
        metavar="COLLECTION|SHARDS|FOLDER",
        help="A collection; documents: a file, folder or URI of .jsonl, .jsonl.gz, .jsonl.zst or .parquet; or "
        "a folder of files: Markdown, text, HTML, PDF, DOCX, PPTX, CSV, e-mail.",
        show_default=False,
    ),
]
CollectionName = Annotated[
    str | None,
    typer.Option("--collection", help="Name of the collection.", show_default="the source's"),
]
AtErrors = Annotated[
    OnError,
    typer.Option(
        "--on-error",
        help="At a document that cannot be indexed: stop, skip it, or quarantine it, which "
        "also keeps its line in a file next to the index.",
    ),
]
Ignored = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="PATTERN",
        help="Leave out files of a folder, as in .gitignore; may be repeated. A file .routerretrieverignore "
        "in the folder holds such patterns too.",
    ),
]
Kinds = Annotated[
    ReadAs,
    typer.Option("--as", help="What a folder holds: shards of documents, or files of one document each."),
]
Prune = Annotated[
    bool,
    typer.Option("--prune", help="Delete documents that the source no longer has."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Take over a build that was killed.")]
Precision = Annotated[
    str,
    typer.Option(
        help="fp32, bf16 (if the device has instructions for it), auto, or int8 (for x86; less exact)."
    ),
]
Kind = Annotated[
    str | None,
    typer.Option(
        help="auto, flat (no index: scan all vectors), ivf_flat, ivf_pq, ivf_rq or hnsw.",
        show_default="auto, or none with --text",
    ),
]
BuildText = Annotated[
    bool | None,
    typer.Option(
        "--text/--no-text",
        help="Rebuild the text index, or drop it, so that later writes build none.",
        show_default="as it is",
    ),
]
Tokens = Annotated[
    str,
    typer.Option(
        "--tokenizer",
        help="How texts are split into words: auto, simple, icu (for scripts without spaces), ngram or whitespace.",
    ),
]
Language = Annotated[
    str,
    typer.Option(help="Whose words are stemmed in the text index: auto, none, or a language such as German."),
]
OlderThan = Annotated[
    float,
    typer.Option(min=0.0, metavar="DAYS", help="Remove versions that are older than this."),
]


class _IndexGroup(DefaultGroup):
    default = "add"


app = typer.Typer(
    cls=_IndexGroup,
    no_args_is_help=True,
    subcommand_metavar="[MODEL INDEX COLLECTION | COMMAND …]",
    help="Add documents to an index, or keep one in shape.\n\n"
    "`index MODEL INDEX COLLECTION` is short for `index add MODEL INDEX COLLECTION`. Write "
    "./build for a model in a folder that has the name of a command.",
)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command."""
    return app.command(name=function.__name__)(guarded(function))


@command
def add(
    model: Model,
    index: IndexUri,
    source: Source,
    collection: CollectionName = None,
    on_error: AtErrors = "stop",
    prune: Prune = False,
    read_as: Kinds = "auto",
    ignore: Ignored = None,
    resume: Resume = False,
    cluster: Cluster = None,
    workers: Workers = None,
    precision: Precision = "fp32",
    lenient: Lenient = False,
    device: Device = None,
    engine: Engine = EngineName.AUTO,
    as_json: AsJson = False,
) -> None:
    """Encode new and changed documents into INDEX, as one new version.

    A build that was interrupted continues with the same command; one that was killed also
    needs --resume.
    """
    from routerretriever.index.index import Index

    _check_workers(cluster, workers)
    if cluster is not None and device is not None:
        raise BuildError(
            "Workers of a cluster take the device their node has. Leave out --device, or --cluster."
        )
    runner: Runner | None = None
    loaded: OpenedModel
    if cluster is not None:
        loaded = load_model(model, device)
        runner = _runner(cluster, loaded, workers)
    else:
        loaded = open_model(model, device, engine, precision=precision)
    opened = Index.create(index, loaded, model_path=model)
    report = opened.add(
        source,
        collection=collection,
        settings=BuildSettings(
            on_error=on_error, resume=resume, prune=prune, read_as=read_as, ignore=tuple(ignore or ())
        ),
        strict=not lenient,
        precision=precision,
        runner=runner,
        progress=Bars(),
    )
    if as_json:
        print_json({"index": shown_uri(index), **report.to_dict(), "total": len(opened)})
        return
    search = "approximate" if opened.is_approximate else "exact"
    show_report(report, f"{shown_uri(index)} now holds {len(opened)} ({search} search).")


def _check_workers(cluster: str | None, workers: int | None) -> None:
    if workers is not None and cluster is None:
        raise BuildError(
            "Workers need a cluster to run on. Give --cluster ADDRESS, or local for this machine."
        )


def _runner(cluster: str, model: RouterRetriever, workers: int | None) -> Runner:
    # Here and below inside the function: a cluster needs an extra.
    from routerretriever.cluster import encode_on

    return encode_on(cluster, model, workers=workers)


def _builder(cluster: str, workers: int | None) -> Builder:
    from routerretriever.cluster import build_index_on

    return build_index_on(cluster, workers=workers)


def show_report(report: BuildReport, total: str) -> None:
    """Say what became of a build, and what the index holds in ``total``."""
    before = f", {report.recorded} of them before" if report.recorded else ""
    say(
        f"{report.documents} documents of '{report.collection}': "
        f"{report.encoded} new or changed{before}, {report.unchanged} unchanged. {total}"
    )
    if report.gone:
        fate = "deleted" if report.pruned else "kept; --prune deletes them"
        say(f"No longer in the source: {report.gone} ({fate}).")
    if report.left_out:
        names = ", ".join(report.left_out)
        say(f"Fields left out, since they hold lists or the like: {names}.", err)
    if report.other_files:
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in sorted(report.other_files.items()))
        say(f"Files of kinds that are not read: {kinds}.", err)
    for problem in report.problems[:_SHOWN_PROBLEMS]:
        say(f"Left out: {problem}", err)
    if report.problems:
        hidden = len(report.problems) - _SHOWN_PROBLEMS
        shown = f", {hidden} of them not shown; --json lists all" if hidden > 0 else ""
        place = f" Their lines are in {report.quarantine}." if report.quarantine else ""
        say(f"{len(report.problems)} left out{shown}.{place}", err)


@command
def build(
    index: IndexUri,
    kind: Kind = None,
    text: BuildText = None,
    tokenizer: Tokens = "auto",
    language: Language = "auto",
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the vector index of INDEX, its text index, or both."""
    from routerretriever.index.index import Index

    _check_workers(cluster, workers)
    if cluster is not None and text and kind is None:
        raise BuildError("The text index is built by one process. Leave out --cluster, or add --kind auto.")
    if not text and (tokenizer, language) != ("auto", "auto"):
        raise VectorIndexError("A tokenizer or a language is for the text index. Add --text.")
    builder = None if cluster is None else _builder(cluster, workers)
    opened = Index.open(index)
    vectors = None
    if kind is not None or text is None:
        vectors = opened.build_index(kind or "auto", builder=builder)
    words = None
    if text:
        words = opened.build_text_index(tokenizer=tokenizer, language=language)
    elif text is False:
        opened.drop_text_index()
    opened.flush()

    if as_json:
        described = None if vectors is None else vectors.to_dict()
        words_described = None if words is None else words.to_dict()
        print_json({"index": shown_uri(index), "vectors": described, "text": words_described})
        return
    _show_built(index, vectors, words)
    if text is False:
        say(f"Text of {shown_uri(index)}: dropped. Searches use vectors alone.")


def _show_built(index: str, vectors: IndexKind | None, words: TextIndex | None) -> None:
    if vectors is not None:
        say(f"Vectors of {shown_uri(index)}: {vectors.kind} ({vectors.reason}), {vectors.seconds:.1f} s.")
    if words is not None:
        say(
            f"Text of {shown_uri(index)}: {words.tokenizer} words, language {words.language}, {words.seconds:.1f} s."
        )


@command
def compact(index: IndexUri, as_json: AsJson = False) -> None:
    """Merge the small files that writes have left.

    Until `clean`, the index may take three times the space.
    """
    from routerretriever.index.index import Index

    done = Index.open(index).compact()
    merged = f"{done.fragments_before} fragments became {done.fragments_after}; "
    if done.fragments_before is None:
        merged = ""
    text = (
        f"{shown_uri(index)}: {merged}{size(done.bytes_before)} before, {size(done.bytes_after)} now, "
        f"in {done.seconds:.1f} s."
    )
    show(index, done, text, as_json)


@command
def refresh(index: IndexUri, as_json: AsJson = False) -> None:
    """Add documents that are not indexed yet to the vector and text indexes."""
    from routerretriever.index.index import Index

    done = Index.open(index).refresh()
    rebuilt = ", which was built again" if done.rebuilt else ""
    text = (
        f"{shown_uri(index)}: {done.vectors} documents or passages taken into the vector index{rebuilt}, "
        f"{done.texts} into the text index, in {done.seconds:.1f} s."
    )
    show(index, done, text, as_json)


@command
def clean(index: IndexUri, older_than: OlderThan = 7.0, as_json: AsJson = False) -> None:
    """Remove old versions of INDEX and the files that only they used."""
    from routerretriever.index.index import Index

    done = Index.open(index).clean(timedelta(days=older_than))
    text = (
        f"{shown_uri(index)}: {done.versions_before} versions became {done.versions_after}; "
        f"{size(done.bytes_before)} before, {size(done.bytes_after)} now."
    )
    show(index, done, text, as_json)


@command
def info(index: IndexUri, as_json: AsJson = False) -> None:
    """Show what INDEX holds, how it is searched, and the space it takes."""
    from routerretriever.index.index import Index

    found = Index.open(index).describe()
    text_index = "none; make one with: routerretriever index build INDEX --text"
    if found.text is not None:
        text_index = f"{found.text.tokenizer} words, language {found.text.language}"
    rows: dict[str, Any] = {
        "documents": found.documents,
        **{f"  of '{name}'": count for name, count in found.collections.items()},
        "passages": found.passages,
        "vectors": f"{found.kind.kind} ({found.kind.reason})",
        "not in it yet": found.unindexed,
        "text index": text_index,
        "fragments": found.fragments,
        "versions": found.versions,
        "size": size(found.bytes),
        "model": found.model,
        **_migration_rows(found.migration),
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, str(value))
    show(index, found, table, as_json)


def _migration_rows(state: MigrationState | None) -> dict[str, str]:
    if state is None:
        return {}
    bridge = f"{state.method}; the new model can search" if state.method else "not fitted yet"
    rows = {"migrating to": state.model or f"a base with fingerprint {state.fingerprint[:12]}"}
    rows["  encoded"] = f"{state.encoded} documents"
    rows["  bridge"] = bridge
    return rows


def show(index: str, report: Report, shown: str | Table, as_json: bool) -> None:
    """Print what a command did."""
    if as_json:
        print_json({"index": shown_uri(index), **report.to_dict()})
    elif isinstance(shown, str):
        say(shown)
    else:
        show_table(shown)
