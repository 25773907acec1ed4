"""The server as agents meet it: a process behind a pipe, and MCP's own client."""

import json
import os
import sys
from contextlib import asynccontextmanager

import anyio
from mcp import ClientSession, StdioServerParameters, stdio_client
from typer.testing import CliRunner

from routerretriever import Index
from routerretriever.cli.app import app
from routerretriever.integrations.mcp_server import make_server


@asynccontextmanager
async def served(*arguments):
    command = ["-m", "routerretriever", "mcp", *map(str, arguments), "--device", "cpu"]
    server = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


def content(result):
    assert not result.is_error, result.content
    return json.loads(result.content[0].text)


def test_search_and_route_over_standard_input(built, model):
    index = Index.open(built / "index", model)

    async def talk():
        async with served(built / "model", "--index", built / "index") as session:
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            plain = await session.call_tool("search", {"query": "word3 word60"})
            options = {"query": "word3", "k": 2, "where": {"collection": "beta"}, "expert": "gamma"}
            pinned = await session.call_tool("search", options)
            route = await session.call_tool("route", {"query": "word3 word60", "pilots": 2})
            wrong = [
                await session.call_tool("search", {"query": "x", **bad})
                for bad in ({"expert": "nobody"}, {"where": {"colour": "red"}}, {"k": 0}, {"query": ""})
            ]
            again = await session.call_tool("search", {"query": "word3 word60"})  # a mistake ends nothing
            return tools, plain, pinned, route, wrong, again

    tools, plain, pinned, route, wrong, again = anyio.run(talk)
    assert set(tools) == {"search", "route"}
    assert all(tool.annotations.read_only_hint and tool.description for tool in tools.values())
    assert tools["search"].input_schema["required"] == ["query"]
    answer = content(plain)
    assert answer["expert"] == model.route("word3 word60")[0].expert
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in index.search("word3 word60")]
    assert content(again) == answer
    assert content(pinned)["expert"] == "gamma"
    assert [hit["collection"] for hit in content(pinned)["hits"]] == ["beta", "beta"]
    shown = content(route)
    assert shown["expert"] == answer["expert"] and shown["reason"] and len(shown["pilots"]) == 2
    assert [result.is_error for result in wrong] == [True] * 4
    assert "Choose one of: base, merged, alpha" in wrong[0].content[0].text
    assert "no field 'colour'" in wrong[1].content[0].text


def test_without_an_index_there_is_only_route(model):
    assert [tool.name for tool in anyio.run(make_server(model).list_tools)] == ["route"]


def test_what_prevents_the_start_is_said(tmp_path):
    result = CliRunner().invoke(app, ["mcp", str(tmp_path / "nothing")])
    assert result.exit_code == 1
    assert "FormatError" in result.stderr and result.stdout == ""


def test_there_is_no_option_that_does_nothing(tmp_path):
    result = CliRunner().invoke(app, ["mcp", str(tmp_path / "nothing"), "--json"])
    assert result.exit_code == 2
