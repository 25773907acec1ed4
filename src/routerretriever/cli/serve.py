"""``routerretriever serve`` and ``mcp``: a model behind HTTP, or behind an agent's protocol."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routerretriever.cli.common import (
    AsJson,
    Device,
    Engine,
    EngineName,
    Model,
    OptionalIndex,
    open_model,
)
from routerretriever.cli.fast_start import use_arrow_without_pandas
from routerretriever.cli.formatting import print_json, say
from routerretriever.errors import MissingExtraError, ServerError
from routerretriever.index.postgres_uri import shown_uri

if TYPE_CHECKING:
    from routerretriever.server import Settings

Host = Annotated[
    str,
    typer.Option(help="Address to listen on; any but loopback needs --api-key-file or --keys."),
]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
ApiKeys = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        help="Keys for the API, one per line; without it, anyone can read.",
    ),
]
AdminKeys = Annotated[
    Path | None,
    typer.Option(
        "--admin-key-file",
        help="Keys that may change documents and experts, one per line; without it, nobody can.",
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="FILE",
        help="Keys with scopes (TOML or JSON): collections, experts and documents that exist for each, and what "
        "it may write.",
    ),
]
Rerank = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Cross-encoder that searches may ask for with `rerank`: a folder or a name on the hub.",
    ),
]
LogQueries = Annotated[bool, typer.Option("--log-queries", help="Write the text of queries to the log.")]
FeedbackLog = Annotated[
    Path | None,
    typer.Option(help="Append clicks and judgements to this file, for routerretriever feedback."),
]
Shadowed = Annotated[
    str | None,
    typer.Option(
        "--shadow",
        metavar="EXPERT",
        help="An expert of MODEL that does not answer: what it would change is counted at /v1/shadow.",
    ),
]
ShadowLog = Annotated[
    Path | None,
    typer.Option(
        help="Append what the expert of --shadow would change to this file, for routerretriever shadow."
    ),
]
Trace = Annotated[
    str | None,
    typer.Option(
        metavar="URL|console",
        help="Send OpenTelemetry spans of queue, encode, route and search to a collector (OTLP over HTTP), or "
        "write them to stderr. Default: as the environment's OTEL_… variables say, else none.",
        show_default=False,
    ),
]
ServeCluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Serve by replicas on a Ray cluster: its address, auto, or local for this machine.",
    ),
]
ReplicaCount = Annotated[
    str | None,
    typer.Option(
        "--replicas",
        help="On the cluster: N, or MIN-MAX to follow the length of the queue. "
        "Each replica takes one accelerator or one processor.",
        show_default="2",
    ),
]


ServedFolder = Annotated[
    Path | None,
    typer.Option(
        "--files",
        metavar="FOLDER",
        help="Folder that was indexed: the page links results to its files, as far as they are in the index.",
    ),
]


def serve(
    model: Model,
    index: OptionalIndex = None,
    files: ServedFolder = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    api_keys: ApiKeys = None,
    admin_keys: AdminKeys = None,
    keys: KeyFile = None,
    rerank: Rerank = None,
    log_queries: LogQueries = False,
    feedback_log: FeedbackLog = None,
    shadow: Shadowed = None,
    shadow_log: ShadowLog = None,
    trace: Trace = None,
    cluster: ServeCluster = None,
    replicas: ReplicaCount = None,
    device: Device = None,
    engine: Engine = EngineName.AUTO,
    as_json: AsJson = False,
) -> None:
    """Serve MODEL: an OpenAI-compatible API under /v1, search, and a page that shows the routing."""
    if cluster is None:
        use_arrow_without_pandas()
    try:
        from routerretriever.server import (
            Settings,
            check_settings,
            read_key_file,
            read_keys,
        )
        from routerretriever.server.trace_target import trace_target
    except ImportError as error:
        raise MissingExtraError("server", error.name or "fastapi") from error

    read_admin, scoped = read_keys(admin_keys), read_key_file(keys)
    changeable = bool(read_admin) or any("experts" in key.access.rights for key in scoped)
    settings = Settings(
        model=_served_folder(model, changeable=changeable),
        index=index,
        files=files,
        host=host,
        port=port,
        api_keys=read_keys(api_keys),
        admin_keys=read_admin,
        keys=scoped,
        key_file=keys,
        engine=engine,
        device=device,
        rerank=rerank,
        log_queries=log_queries,
        feedback_log=feedback_log,
        shadow=shadow,
        shadow_log=shadow_log,
        trace=trace_target(trace, os.environ),
    )
    check_settings(settings)
    _start(settings, model, cluster=cluster, replicas=replicas, as_json=as_json)


def _start(
    settings: Settings,
    model: str,
    *,
    cluster: str | None,
    replicas: str | None,
    as_json: bool,
) -> None:
    """Serve in this process, or by replicas on a cluster, and say where."""

    def announce() -> None:
        address = settings.url
        if as_json:
            index = settings.index and shown_uri(settings.index)
            print_json({"url": address, "model": model, "index": index})
            sys.stdout.flush()
        else:
            say(f"The page: {address}   The API: {address}/v1   Stop: Ctrl-C")

    if cluster is None and replicas is not None:
        raise ServerError(
            "Replicas need a cluster to run on. Give --cluster ADDRESS, or local for this machine."
        )
    if cluster is None:
        announce()
        _serve_here(settings)
        return
    from routerretriever.server.replicas import Replicas, serve_replicas

    wanted = Replicas.parse(replicas or "2")
    serve_replicas(settings, cluster=cluster, replicas=wanted, started=announce)


def mcp(
    model: Model,
    index: OptionalIndex = None,
    device: Device = None,
    engine: Engine = EngineName.AUTO,
) -> None:
    """Serve search and routing with MODEL to agents (MCP, over standard input and output)."""
    from contextlib import redirect_stdout

    use_arrow_without_pandas()
    from routerretriever.index.index import Index
    from routerretriever.integrations.mcp_server import make_server

    # A library that prints a greeting would break the protocol.
    with redirect_stdout(sys.stderr):
        loaded = open_model(model, device, engine)
        opened: Index | None = None
        if index is not None:
            opened = Index.open(index, loaded)
        server = make_server(loaded, opened)
    server.run()


def _served_folder(model: str, *, changeable: bool) -> Path:
    """Return the folder to serve; one whose experts may change is no copy in the hub's cache."""
    from routerretriever.storage.hub_download import own_folder, read_folder
    from routerretriever.storage.model_folder import read_model_info

    folder = own_folder(model) if changeable else read_folder(model)
    read_model_info(folder)
    return folder


def _serve_here(settings: Settings) -> None:
    from routerretriever.server import serve as serve_here

    serve_here(settings)
