"""An MCP server, so that agents can search and see where a query goes.

Without postponed annotations, because the tools' schemas are made from them and name this model's experts.
"""

from typing import Annotated, Any, Protocol

from pydantic import Field

from routerretriever.errors import MissingExtraError, RouterRetrieverError
from routerretriever.expert_state import ExpertState
from routerretriever.index.index import Index
from routerretriever.index.search import Mode
from routerretriever.routing.explain import Route
from routerretriever.version import __version__

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations
except ImportError as error:
    raise MissingExtraError("mcp", "mcp") from error

MAX_RESULTS = 100
MAX_QUERY = 20_000
"""Characters of a query; encoders read some hundred words of it."""

Query = Annotated[
    str, Field(min_length=1, max_length=MAX_QUERY, description="What is looked for, in plain words.")
]


class Routes(Protocol):
    """What the tools need of a model."""

    @property
    def state(self) -> ExpertState:
        """Its experts."""

    def route(self, queries: str, *, n_pilots: int = 5) -> list[Route]:
        """Return where a query goes and why."""


def make_server(model: Routes, index: Index | None = None) -> MCPServer:
    """Return a server with the tools ``search`` (if there is an index) and ``route``; ``run()`` serves standard input.

    Both only read. A mistake of the caller is answered with the message of our error.
    """
    experts = ", ".join(model.state.experts) or "none"
    described = (
        ", ".join(f"{name}: {adapter.kind}" for name, adapter in model.state.experts.items()) or "none"
    )
    server = MCPServer(
        "routerretriever",
        version=__version__,
        instructions="Searches documents with queries that are routed between experts "
        f"({described}) and a base encoder.",
        log_level="WARNING",
    )
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)

    def search(
        query: Query,
        k: Annotated[int, Field(ge=1, le=MAX_RESULTS, description="At most this many results.")] = 10,
        where: Annotated[
            dict[str, Any] | None,
            Field(
                description='Condition on documents, e.g. {"collection": "notam", "year": {"gte": 2020}}; also '
                '{"or": [...]}, {"not": {...}} and {"in": [...]}.'
            ),
        ] = None,
        expert: Annotated[
            str | None, Field(description=f"Pins one of: base, merged, {experts}. Leave out to route.")
        ] = None,
        mode: Annotated[
            Mode | None,
            Field(description="hybrid (words and vectors, the default), vector, or text (words alone)."),
        ] = None,
    ) -> dict[str, Any]:
        """Find the documents that answer a query; says which expert encoded it."""
        assert index is not None
        try:
            found = index.answer([query], k, where=where, expert=expert, mode=mode)[0]
        except RouterRetrieverError as error:
            raise ToolError(str(error)) from error
        return {"query": query, **found.to_dict()}

    def route(
        query: Query, pilots: Annotated[int, Field(ge=0, le=50, description="Nearest pilots to show.")] = 3
    ) -> dict[str, Any]:
        """Say which expert a query would go to and why, without searching."""
        try:
            return model.route(query, n_pilots=pilots)[0].to_dict()
        except RouterRetrieverError as error:
            raise ToolError(str(error)) from error

    if index is not None:
        server.add_tool(search, annotations=reads)
    server.add_tool(route, annotations=reads)
    return server
