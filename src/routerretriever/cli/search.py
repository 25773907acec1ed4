"""``routerretriever route`` and ``search``: where a query goes, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table
from rich.text import Text

from routerretriever.cli.common import AsJson, Device, IndexUri, Model, load_model
from routerretriever.cli.formatting import points, print_json, say, show_table
from routerretriever.data.text import check_queries

if TYPE_CHECKING:
    from routerretriever.index.search import Hit, Mode
    from routerretriever.routing.explain import Route

_SHOWN_CHARACTERS = 160

Queries = Annotated[
    list[str],
    typer.Argument(
        metavar="QUERY…",
        help="Queries; put -- before one that begins with a hyphen.",
        show_default=False,
    ),
]
Query = Annotated[
    str,
    typer.Argument(
        metavar="QUERY",
        help="The query; put -- before it if it begins with a hyphen.",
        show_default=False,
    ),
]
Pilots = Annotated[int, typer.Option(min=0, help="Show the N nearest pilots.")]
Results = Annotated[int, typer.Option("-k", min=1, help="Return at most K documents.")]
PinnedExpert = Annotated[
    str | None,
    typer.Option(help="Encode with base, merged or this expert instead of routing."),
]
Where = Annotated[str | None, typer.Option(help="SQL condition, such as \"collection = 'scifact'\".")]
Exact = Annotated[bool, typer.Option("--exact", help="Scan all vectors.")]
SearchMode = Annotated[
    str,
    typer.Option(
        "--mode",
        help="vector, text (BM25, without the model), or hybrid (both, fused).",
    ),
]
OtherModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Folder or hub name of the model, if it has moved since the index was made.",
    ),
]


def route(
    model: Model,
    queries: Queries,
    pilots: Pilots = 3,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Say which expert each query goes to, and why."""
    check_queries(queries)
    routes = load_model(model, device).route(queries, n_pilots=pilots)
    if as_json:
        print_json({"routes": [route.to_dict() for route in routes]})
        return
    for item in routes:
        _show_route(item)


def search(
    index: IndexUri,
    query: Query,
    k: Results = 10,
    expert: PinnedExpert = None,
    where: Where = None,
    exact: Exact = False,
    mode: SearchMode = "vector",
    model: OtherModel = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Search INDEX with a query that the model routes."""
    from routerretriever.index.answer import answer
    from routerretriever.index.index import Index
    from routerretriever.index.search import check_mode

    # Before the model is loaded, which takes seconds.
    check_mode(mode)
    check_queries([query])
    loaded = None if model is None else load_model(model, device)
    opened = Index.open(index, loaded)
    found = answer(opened, [query], k, expert=expert, where=where, exact=exact, mode=cast("Mode", mode))[0]
    if as_json:
        hits = [hit.to_dict() for hit in found.hits]
        print_json({"query": query, "expert": found.expert, "mode": mode, "hits": hits})
    else:
        _show_hits(found.hits, found.expert)


def _show_route(item: Route) -> None:
    heading = Text.assemble((item.query, "bold"), " → ", (item.expert, "bold green"))
    say(heading.append(f": {item.reason}"))
    gains = sorted(item.gains.items(), key=lambda pair: -pair[1])
    say("  " + "  ".join(f"{name} {points(gain, signed=True)}" for name, gain in gains))
    for pilot in item.pilots:
        say(f"  {pilot.similarity:.2f}  {pilot.collection}: {pilot.example}")


def _show_hits(hits: Sequence[Hit], expert: str | None) -> None:
    if expert is None:
        say("by words alone")
    else:
        say(Text.assemble("expert: ", (expert, "bold green")))
    table = Table("", "score", "id", "collection", "text", box=None)
    for rank, hit in enumerate(hits, start=1):
        text = hit.text
        if hit.title:
            text = f"{hit.title}: {hit.text}"
        shown = text[:_SHOWN_CHARACTERS]
        table.add_row(str(rank), f"{hit.score:.3f}", hit.id, hit.collection, shown)
    show_table(table)
