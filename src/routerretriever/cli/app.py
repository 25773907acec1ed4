"""The command line: one command for each job, each a thin layer over the Python of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from typer.core import TyperCommand

from routerretriever.cli import experts, index, index_exchange, index_migrate
from routerretriever.cli.common import QueryCommand, guarded
from routerretriever.cli.compile import compile_model
from routerretriever.cli.doctor import doctor
from routerretriever.cli.evaluate import bench, evaluate
from routerretriever.cli.feedback import feedback
from routerretriever.cli.library import library
from routerretriever.cli.search import route, search
from routerretriever.cli.serve import mcp, serve
from routerretriever.cli.shadow import shadow
from routerretriever.cli.share import export, pull, push
from routerretriever.cli.synthesize import synthesize
from routerretriever.cli.train import train
from routerretriever.cli.up import up
from routerretriever.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One frozen base encoder, one index, an expert for every domain.",
)
Version = Annotated[bool, typer.Option("--version", help="Print the version.")]


@app.callback(invoke_without_command=True)
def main(version: Version = False) -> None:
    """One frozen base encoder, one index, an expert for every domain."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _add(
    function: Callable[..., None], kind: type[TyperCommand] = TyperCommand, name: str | None = None
) -> None:
    app.command(name=name or function.__name__, cls=kind)(guarded(function))


# The order in which --help lists them.
_add(up)
_add(train)
_add(library)
app.add_typer(experts.app, name="experts")
_add(route, QueryCommand)
index.command(index_exchange.adopt)
index.command(index_exchange.export)
index.command(index_migrate.migrate)
app.add_typer(index.app, name="index")
_add(search, QueryCommand)
_add(compile_model, name="compile")
_add(serve)
_add(mcp)
_add(export)
_add(push)
_add(pull)
_add(evaluate)
_add(bench)
_add(synthesize)
_add(doctor)
_add(feedback)
_add(shadow)


if __name__ == "__main__":
    app()
