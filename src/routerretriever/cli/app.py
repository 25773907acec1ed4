"""The command line: one command per verb, each a thin layer over the Python of the same name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table
from rich.text import Text

from routerretriever.cli import experts as cli_experts
from routerretriever.cli import index as cli_index
from routerretriever.cli.common import (
    AsJson,
    Device,
    IndexUri,
    Lenient,
    Model,
    OwnModel,
    Sources,
    err,
    guarded,
    load_collection,
    load_model,
    out,
    print_json,
    quiet_libraries,
    say,
)
from routerretriever.cli.feedback import feedback
from routerretriever.cli.synthesize import synthesize
from routerretriever.errors import ExpertError, MissingExtraError, ServerError
from routerretriever.progress import Bars
from routerretriever.version import __version__

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever

__all__ = ["app", "quiet_libraries"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One frozen base encoder, one index, an expert for every domain.",
)
PinnedExpert = Annotated[str | None, typer.Option(help="Pin base, merged or an expert instead of routing.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a verb."""
    return app.command(name=function.__name__.removesuffix("_command"))(guarded(function))


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """One frozen base encoder, one index, an expert for every domain."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@command
def train(
    model: OwnModel,
    collections: Sources,
    name: Annotated[
        str | None, typer.Option(help="Name of the expert; default the collection's, or generalist for several.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Base encoder of a new MODEL: hub id or path.", show_default="all-MiniLM-L6-v2"),
    ] = None,
    preset: Annotated[str, typer.Option(help="default, or paper (arXiv 2409.02685's setting).")] = "default",
    epochs: Annotated[int | None, typer.Option(min=1, help="At most this many passes over the queries.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="LoRA rank r.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", min=0.0, help="Learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Queries a step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Keep an expert without gain; replace one of that name.")
    ] = False,
    lenient: Lenient = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Train one expert and add it to MODEL, which is created if it is not there.

    Several collections make one generalist, trained on all of them in turn.
    """
    from dataclasses import replace

    from routerretriever.experts.train import train_expert
    from routerretriever.experts.training_config import PRESETS
    from routerretriever.routing.pilot_library import GENERATED_GAIN
    from routerretriever.storage.hub_download import own_folder

    if preset not in PRESETS:
        raise ExpertError(f"There is no preset '{preset}'. Choose one of: {', '.join(PRESETS)}.")
    given: dict[str, Any] = {
        "epochs": epochs,
        "rank": rank,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "seed": seed,
    }
    config = replace(PRESETS[preset], **{key: value for key, value in given.items() if value is not None})
    own_folder(model, new=True)
    loaded = [load_collection(source, lenient) for source in collections]
    router = _open_or_create(model, base, preset, device)
    report = train_expert(router, loaded, name=name, config=config, force=force, progress=Bars())
    router.save_pretrained(model)
    if as_json:
        print_json(report.to_dict() | {"model": str(model)})
        return
    info = report.info
    made = " generated" if info.gain_on_generated else ""
    say(
        Text.assemble(
            (report.expert, "bold"),
            f": held-out nDCG@10 {_points(info.expert_ndcg)} against {_points(info.base_ndcg)} for the base "
            f"({100 * info.gain:+.1f} points, p = {report.p_value:.3g}, {info.held_out}{made} queries), "
            f"{report.steps} steps in {report.seconds:.0f} s. Saved in {model}.",
        )
    )
    if info.gain_on_generated:
        say(f"This gain was {GENERATED_GAIN} Evaluate it with queries that somebody asked.", err)
    say(f"Next: routerretriever library {model} {' '.join(collections)} …")


def _open_or_create(path: Path, base: str | None, preset: str, device: str | None) -> RouterRetriever:
    from routerretriever.encoder.base_models import base_info
    from routerretriever.model import RouterRetriever

    if path.is_dir() and any(path.iterdir()):
        router = load_model(path, device)
        if base is not None and base_info(base).id != router.encoder.base.id:
            raise ExpertError(
                f"{path} has the base '{router.encoder.base.id}', not '{base}'. "
                "Leave out --base, or choose a new folder."
            )
        if preset == "paper" and not router.is_like_paper:
            raise ExpertError(
                f"{path} exists and has other layers, another router input or another similarity than "
                "--preset paper asks for; those cannot be changed. Give --preset paper a new folder, or "
                "leave it out."
            )
        return router
    base = base or "all-MiniLM-L6-v2"
    if preset != "paper":
        return RouterRetriever.create(base, device=device)
    return RouterRetriever.create_like_paper(base, device=device)


@command
def library(
    model: OwnModel,
    collections: Sources,
    router: Annotated[
        str | None, typer.Option(help="gain, pilot-mean (the paper's rule) or pilot-max (the official code's).")
    ] = None,
    lenient: Lenient = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure the experts on held-out queries and build or extend the pilot library."""
    from routerretriever.storage.hub_download import own_folder

    loaded = load_model(own_folder(model), device)
    built = loaded.build_library([load_collection(s, lenient) for s in collections], router=router, progress=Bars())
    loaded.save_pretrained(model)
    policy = loaded.state.policy
    assert policy is not None
    counts = {name: built.sources.count(name) for name in built.groups()}
    unmeasured = built.unmeasured()
    if as_json:
        print_json(
            {
                "router": policy.router.name,
                "experts": built.experts,
                "pilots": counts,
                "reject_threshold": built.space and built.space.reject_threshold,
                "trust_threshold": built.space and built.space.trust_threshold,
                "unmeasured": unmeasured,
            }
        )
        return
    table = Table("collection", "pilots", *built.experts, title="Mean measured gain (nDCG@10 points over base)")
    for name, means in built.mean_gains().items():
        table.add_row(built.label(name), str(counts[name]), *(f"{100 * m:+.1f}" if m == m else "–" for m in means))
    out.print(table)
    for expert, missing in unmeasured.items():
        say(f"Not measured: {expert} on {', '.join(missing)}. Name these collections again to measure it there.", err)


app.add_typer(cli_experts.app, name="experts")


@command
def route(
    model: Model,
    queries: Annotated[list[str], typer.Argument(metavar="QUERY…", show_default=False)],
    pilots: Annotated[int, typer.Option(min=0, help="Nearest pilots to show.")] = 3,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Say which expert each query goes to, and why."""
    routes = load_model(model, device).route(queries, n_pilots=pilots)
    if as_json:
        print_json({"routes": [route.to_dict() for route in routes]})
        return
    for item in routes:
        say(Text.assemble((item.query, "bold"), " → ", (item.expert, "bold green"), f": {item.reason}"))
        ranked = sorted(item.gains.items(), key=lambda pair: -pair[1])
        say("  " + "  ".join(f"{name} {100 * gain:+.1f}" for name, gain in ranked))
        for pilot in item.pilots:
            say(f"  {pilot.similarity:.2f}  {pilot.collection}: {pilot.example}")


app.add_typer(cli_index.app, name="index")


@command
def search(
    index: IndexUri,
    query: Annotated[str, typer.Argument(metavar="QUERY", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="Results.")] = 10,
    expert: PinnedExpert = None,
    where: Annotated[str | None, typer.Option(help="SQL condition, e.g. \"collection = 'scifact'\".")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Scan all vectors.")] = False,
    mode: Annotated[
        str, typer.Option(help="vector, text (words alone, without the model), or hybrid (both, fused).")
    ] = "vector",
    model: Annotated[str | None, typer.Option(help="The model, if it is not where it was: folder or hub name.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Search INDEX with a query that the model routes."""
    from routerretriever.index.index import Index
    from routerretriever.index.search import Mode

    opened = Index.open(index, None if model is None else load_model(model, device))
    hits = opened.search(query, k, expert=expert, where=where, exact=exact, mode=cast("Mode", mode))
    taken = None
    if mode != "text":
        taken = expert or (opened.model.route(query)[0].expert if opened.model.library else "base")
    if as_json:
        print_json({"query": query, "expert": taken, "mode": mode, "hits": [hit.to_dict() for hit in hits]})
        return
    say(Text.assemble("expert: ", (taken, "bold green")) if taken else "by words alone")
    table = Table("", "score", "id", "collection", "text", box=None)
    for rank, hit in enumerate(hits, start=1):
        text = f"{hit.title}: {hit.text}" if hit.title else hit.text
        table.add_row(str(rank), f"{hit.score:.3f}", hit.id, hit.collection, text[:160].replace("[", r"\["))
    out.print(table)


@command
def serve(
    model: Model,
    index: Annotated[
        str | None, typer.Option(help="Folder or URI of the index; without it there is no search.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback needs --api-key-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys that open the API, one a line; without it anyone may read.")
    ] = None,
    admin_key_file: Annotated[
        Path | None, typer.Option(help="Keys that may change documents and experts; without it nobody may.")
    ] = None,
    log_queries: Annotated[bool, typer.Option("--log-queries", help="Write query texts to the log.")] = False,
    feedback_log: Annotated[
        Path | None, typer.Option(help="File to keep clicks and judgements in, for `routerretriever feedback`.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="Serve by replicas on a Ray cluster: its address, auto, or local for one of this machine."),
    ] = None,
    replicas: Annotated[
        str | None,
        typer.Option(
            help="On the cluster: N, or MIN-MAX to follow the length of the queue; each takes an accelerator or one "
            "processor; default 2."
        ),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Serve MODEL: an OpenAI-compatible API under /v1, search, and a page that shows the routing."""
    try:
        from routerretriever.server import Settings, read_keys
        from routerretriever.server import serve as run_server
    except ImportError as error:
        raise MissingExtraError("server", error.name or "fastapi") from error

    from routerretriever.storage.hub_download import own_folder, read_folder
    from routerretriever.storage.model_folder import read_model_info

    admin_keys = read_keys(admin_key_file)
    folder = own_folder(model) if admin_keys else read_folder(model)  # whoever holds such a key changes experts
    read_model_info(folder)
    settings = Settings(
        folder,
        index,
        host,
        port,
        api_keys=read_keys(api_key_file),
        admin_keys=admin_keys,
        device=device,
        log_queries=log_queries,
        feedback_log=feedback_log,
    )

    def announce() -> None:
        if as_json:
            print_json({"url": f"http://{host}:{port}", "model": model, "index": index})
            sys.stdout.flush()
            return
        say(f"The page: http://{host}:{port}   The API: http://{host}:{port}/v1   Stop: Ctrl-C")

    if cluster is None:
        if replicas is not None:
            raise ServerError("Replicas need a cluster to run on. Give --cluster ADDRESS, or local for this machine.")
        announce()
        run_server(settings)
        return
    from routerretriever.server.replicas import Replicas, serve_replicas

    serve_replicas(settings, cluster=cluster, replicas=Replicas.parse(replicas or "2"), started=announce)


@command
def mcp(
    model: Model,
    index: Annotated[
        str | None, typer.Option(help="Folder or URI of the index; without it there is no search.")
    ] = None,
    device: Device = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Report what prevents the start as JSON; after it the protocol owns the output."),
    ] = False,
) -> None:
    """Serve MODEL to agents over standard input and output (Model Context Protocol): search and route."""
    from contextlib import redirect_stdout

    from routerretriever.index.index import Index
    from routerretriever.integrations.mcp_server import make_server

    with redirect_stdout(sys.stderr):  # a library that greets would break the protocol
        loaded = load_model(model, device)
        server = make_server(loaded, None if index is None else Index.open(index, loaded))
    server.run()


@command
def export(
    model: Model,
    expert: Annotated[str, typer.Option(help="Expert to merge into the base, or merged.", show_default=False)],
    out_dir: Annotated[Path, typer.Option("--out", help="New folder for the plain model.", show_default=False)],
    licence: Annotated[str | None, typer.Option(help="Licence to state in its card, e.g. apache-2.0.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Merge one expert into a plain Sentence Transformers model that any server loads; for queries only."""
    loaded = load_model(model, device)
    written = loaded.export_expert(expert, out_dir, licence=licence)
    base = loaded.encoder.base.id
    if as_json:
        print_json({"out": str(written), "expert": expert, "base": base})
        return
    say(f"{written} encodes queries as '{expert}'; encode the documents with {base}.")


@command
def push(
    model: Model,
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="Repository on the hub.", show_default=False)],
    expert: Annotated[str | None, typer.Option(help="Only this expert, in PEFT's format.", show_default=False)] = None,
    licence: Annotated[str | None, typer.Option(help="Licence to state in the card, e.g. apache-2.0.")] = None,
    data_licence: Annotated[
        list[str] | None,
        typer.Option(metavar="EXPERT=LICENCE", help="Licence of what an expert was trained on; once for each."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Only you may see it, if it is new.")] = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Put MODEL, or one expert of it, on the hub, with a card. The token is HF_TOKEN's or that of `hf auth login`."""
    from routerretriever.sharing.hub_upload import push_expert, push_model

    stated = dict(given.partition("=")[::2] for given in data_licence or ())
    if not all(stated.values()):
        raise ExpertError("--data-licence wants an expert and a licence, as in ops=cc-by-4.0.")
    loaded, hidden = load_model(model, device), True if private else None
    if expert is None:
        url = push_model(loaded, name, licence=licence, data_licences=stated, private=hidden)
    else:
        url = push_expert(loaded, expert, name, licence=licence, data_licences=stated, private=hidden)
    if as_json:
        print_json({"url": url, "expert": expert})
        return
    say(f"It is at {url}")


@command
def pull(
    name: Annotated[
        str,
        typer.Argument(metavar="USER/NAME", help="On the hub; also USER/NAME@REVISION.", show_default=False),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for it.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Copy a model, or an expert that stands alone, from the hub into FOLDER, where it can be changed.

    What only reads a model, such as search, serve or evaluate, takes its name on the hub instead.
    """
    from routerretriever.sharing.hub_upload import pull as run_pull

    copied = run_pull(name, folder)
    if as_json:
        print_json({"name": name, "folder": str(copied)})
        return
    say(f"{name} is in {copied}")


@command
def evaluate(
    model: Model,
    collections: Sources,
    split: Annotated[str, typer.Option(help="Split to evaluate.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many queries a collection.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of queries.")] = 0,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Write report, JSON and TREC runs here.")] = None,
    lenient: Lenient = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compare base, routed, merged, every expert and the oracles on judged queries."""
    from routerretriever.evaluation.evaluate import evaluate as run_evaluation
    from routerretriever.evaluation.report import evaluation_table, write_report

    loaded = load_model(model, device)
    sources = [load_collection(source, lenient) for source in collections]
    result = run_evaluation(loaded, sources, split=split, limit=limit, seed=seed, progress=Bars())
    written = None if out_dir is None else write_report(result, out_dir, title=f"RouterRetriever: {Path(model).name}")
    if as_json:
        print_json(result.to_dict())
        return
    out.print(evaluation_table(result))
    if written is not None:
        say(str(written))


@command
def bench(
    suite: Annotated[Path, typer.Argument(metavar="SUITE", help="YAML file; see suites/.", show_default=False)],
    out_dir: Annotated[Path, typer.Option("--out", help="Models, cached vectors, results and report go here.")],
    as_json: AsJson = False,
) -> None:
    """Train what is missing, compare every system of a suite, and write the report; resumes where it was."""
    from routerretriever.bench import report, results
    from routerretriever.bench.runner import Bench
    from routerretriever.bench.suite import Suite

    run = Bench(Suite.load(suite), out_dir, progress=Bars())
    seeds = run.run()
    document = results.summarise(run, seeds, run.studies())
    report.write_runs(run, seeds, out_dir / "runs")
    page = report.write(document, out_dir)
    if as_json:
        print_json(document)
        return
    groups = [group for group, members in document["groups"].items() if members]
    table = Table("system", *groups, title=f"{document['suite']}: mean nDCG@10 × 100")
    for name, row in document["systems"].items():
        table.add_row(name, *(_points(row[group]["mean"]) for group in groups))
    out.print(table)
    say(str(page))


command(synthesize)
command(cli_experts.doctor)
command(feedback)


if __name__ == "__main__":
    app()
