"""What all commands share: arguments that mean the same everywhere, output, and errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from routerretriever.errors import RouterRetrieverError

if TYPE_CHECKING:
    from routerretriever.data.collection import Collection
    from routerretriever.model import RouterRetriever

# Queries and documents are shown as they are: no sign in them is markup, and no number of theirs is coloured.
out, err = Console(markup=False, highlight=False), Console(stderr=True, markup=False, highlight=False)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder of the model, or USER/NAME or USER/NAME@REVISION on the hub.",
        show_default=False,
    ),
]
OwnModel = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of the model.", show_default=False)]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="COLLECTION…",
        help="BEIR folder, pairs file (.jsonl, .csv, .tsv), hub name (BeIR/scifact) or ir_datasets:ID.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Lenient = Annotated[
    bool, typer.Option("--lenient", help="Drop judgements that point nowhere and queries without a positive.")
]
Device = Annotated[str | None, typer.Option(help="Torch device, e.g. cpu or cuda; default the best one present.")]
Cluster = Annotated[
    str | None, typer.Option(help="Work on a Ray cluster: its address, auto, or local for all processors here.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="On the cluster; default one for each accelerator or processor.")
]
IndexUri = Annotated[str, typer.Argument(metavar="INDEX", help="Folder or URI of the index.", show_default=False)]


class DefaultGroup(TyperGroup):
    """A group in which a first word that is no verb means the default one: its name need not be typed."""

    default: ClassVar[str]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in self.get_help_option_names(ctx):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """A verb in which errors made for users become one message and exit code 1."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        quiet_libraries()
        try:
            function(*args, **kwargs)
        except RouterRetrieverError as error:
            _fail(error, as_json=kwargs.get("as_json", False))
        except KeyboardInterrupt:
            say("Interrupted. What was saved before is whole; the same command goes on from there.", err)
            raise typer.Exit(130) from None

    return wrapped


def _fail(error: RouterRetrieverError, *, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"error": {"type": type(error).__name__, "message": str(error)}})
    else:
        say(Text.assemble((type(error).__name__, "bold red"), f": {error}"), err)
    raise typer.Exit(1)


def quiet_libraries() -> None:
    """Model loaders draw bars of their own, terminal or not."""
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.disable_progress_bar()


def say(text: str | Text, to: Console = out) -> None:
    """Print a line whole, however long: people copy commands and paths from it."""
    to.print(text, soft_wrap=True)


def print_json(content: Any) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(content, ensure_ascii=False, indent=2, default=str) + "\n")


def load_model(source: str | Path, device: str | None) -> RouterRetriever:
    """The model in a folder, or of a name on the hub."""
    from routerretriever.model import RouterRetriever

    return RouterRetriever.from_pretrained(source, device=device)


def load_collection(source: str, lenient: bool) -> Collection:
    """A collection from where it lies."""
    from routerretriever.data.collection import Collection

    return Collection.load(source, strict=not lenient)


@contextmanager
def changed_model(path: str | Path, device: str | None) -> Iterator[RouterRetriever]:
    """The model in a folder, whose experts and pilots are saved at the end of the block; others that change it wait."""
    from routerretriever.storage.atomic import changing
    from routerretriever.storage.hub_download import own_folder
    from routerretriever.storage.model_folder import read_model_info

    folder = own_folder(path)
    read_model_info(folder)
    with changing(folder):
        loaded = load_model(folder, device)
        yield loaded
        loaded.save_experts(folder)
