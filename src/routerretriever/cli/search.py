"""``routerretriever route`` and ``search``: where a query goes, and what it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table
from rich.text import Text

from routerretriever.cli.common import AsJson, Device, Engine, EngineName, IndexUri, Model, open_model
from routerretriever.cli.fast_start import use_arrow_without_pandas
from routerretriever.cli.formatting import points, print_json, say, show_table
from routerretriever.data.text import check_queries
from routerretriever.words.highlight import matched_words, window

if TYPE_CHECKING:
    from routerretriever.index.answer import Answer
    from routerretriever.index.search import Hit, Mode
    from routerretriever.reranking.reranker import Reranker
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
    str | None,
    typer.Option(
        "--mode",
        help="hybrid (vectors and words), vector, or text (words alone, without the model).",
        show_default="hybrid, or vector without a text index",
    ),
]
Rerank = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Reorder the best fifty with this cross-encoder: a folder or a name on the hub."
    ),
]
MinRelevance = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Leave out documents whose relevance, a probability from 0 to 1, is below this.",
    ),
]
Passages = Annotated[
    bool,
    typer.Option("--passages", help="Return passages; several may be of one document."),
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
    engine: Engine = EngineName.AUTO,
    as_json: AsJson = False,
) -> None:
    """Say which expert each query goes to, and why."""
    check_queries(queries)
    routes = open_model(model, device, engine).route(queries, n_pilots=pilots)
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
    mode: SearchMode = None,
    rerank: Rerank = None,
    min_relevance: MinRelevance = None,
    passages: Passages = False,
    model: OtherModel = None,
    device: Device = None,
    engine: Engine = EngineName.AUTO,
    as_json: AsJson = False,
) -> None:
    """Search INDEX with a query that the model routes."""
    use_arrow_without_pandas()
    from routerretriever.index.index import Index
    from routerretriever.index.search import check_mode

    # Before the model is loaded, which may take seconds.
    if mode is not None:
        check_mode(mode)
    check_queries([query])
    opened = Index.open(index, None if model is None else open_model(model, device, engine), engine=engine)
    found = opened.answer(
        [query],
        k,
        expert=expert,
        where=where,
        exact=exact,
        mode=cast("Mode | None", mode),
        rerank=None if rerank is None else _reranker(rerank, device),
        min_relevance=min_relevance,
        passages=passages,
    )[0]
    if as_json:
        print_json({"query": query, **found.to_dict()})
    else:
        _show_answer(query, found)


def _reranker(source: str, device: str | None) -> Reranker:
    from routerretriever.reranking.reranker import Reranker

    return Reranker.load(source, device=device)


def _show_route(item: Route) -> None:
    heading = Text.assemble((item.query, "bold"), " → ", (item.expert, "bold green"))
    say(heading.append(f": {item.reason}"))
    say(f"  words {1 - item.vector_weight:.1%}: {item.words_reason}")
    gains = sorted(item.gains.items(), key=lambda pair: -pair[1])
    say("  " + "  ".join(f"{name} {points(gain, signed=True)}" for name, gain in gains))
    for pilot in item.pilots:
        say(f"  {pilot.similarity:.2f}  {pilot.collection}: {pilot.example}")


def _show_answer(query: str, found: Answer) -> None:
    if found.expert is None:
        say("by words alone")
    else:
        line = Text.assemble("expert: ", (found.expert, "bold green"))
        if found.vector_weight is not None:
            line.append(f"; vectors {found.vector_weight:.1%}, words {1 - found.vector_weight:.1%}")
        say(line)
    if found.nothing_relevant:
        say("Nothing relevant here: 95% of the judged queries with an answer have a better first hit.")
    if not found.hits:
        return
    table = Table("", "score", "relevance", "id", "collection", "text", box=None)
    for rank, hit in enumerate(found.hits, start=1):
        shown = _shown_text(query, hit)
        relevance = "" if hit.relevance is None else f"{hit.relevance:.0%}"
        table.add_row(str(rank), f"{hit.score:.3f}", relevance, hit.id, hit.collection, shown)
    show_table(table)


def _shown_text(query: str, hit: Hit) -> Text:
    """Return what is shown of a hit: its title, where the passage is, and the text around the query's words."""
    shown = Text()
    if hit.title:
        shown.append(f"{hit.title}: ")
    if hit.passage is not None:
        place = f"characters {hit.passage.start}–{hit.passage.stop}"
        if hit.passage.page is not None:
            place = f"page {hit.passage.page}, {place}"
        if hit.passage.heading:
            place = f"{hit.passage.heading}, {place}"
        shown.append(f"[{place}] ", "dim")
    start, stop = window(hit.text, matched_words(query, hit.text), _SHOWN_CHARACTERS)
    text = " ".join(hit.text[start:stop].split())
    shown.append("… " if start > 0 else "")
    begun = len(shown)
    shown.append(text)
    for begin, end in matched_words(query, text):
        shown.stylize("bold yellow", begun + begin, begun + end)
    return shown
