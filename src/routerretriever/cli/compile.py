"""``routerretriever compile``: a model that answers without torch."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from routerretriever.cli.common import AsJson, OwnModel
from routerretriever.cli.formatting import print_json, say, size


class QueryPrecision(StrEnum):
    """In which queries are encoded."""

    FP32 = "fp32"
    INT8 = "int8"


Precision = Annotated[
    QueryPrecision | None,
    typer.Option(
        help="In which queries are encoded: fp32, or int8, which takes half the time and changes vectors a little. "
        "Default: as in the engine that is there, or fp32.",
        show_default=False,
    ),
]
Again = Annotated[bool, typer.Option("--again", help="Export the base even if the engine fits the model.")]


def compile_model(
    model: OwnModel,
    precision: Precision = None,
    again: Again = False,
    as_json: AsJson = False,
) -> None:
    """Write an engine beside MODEL, so that search, route and serve need no torch and start at once.

    Experts and pilots may change afterwards; compile again only if the base changed.
    Documents are encoded in fp32, unless an index asks for int8.
    """
    from routerretriever.compiling import compile_model as write_engine

    done = write_engine(model, precision=precision, again=again)
    if as_json:
        print_json(done.to_dict())
        return
    if done.written:
        say(
            f"{done.folder}: {size(done.bytes)}, queries in {done.precision}, compiled in {done.seconds:.1f} s."
        )
    else:
        say(f"{done.folder} fits the model already ({size(done.bytes)}, queries in {done.precision}).")
