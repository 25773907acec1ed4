"""What all commands share: arguments that mean the same everywhere, and how they load and fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from routerretriever.cli.formatting import err, say, show_error
from routerretriever.errors import EngineError, RouterRetrieverError
from routerretriever.extras import of_training

if TYPE_CHECKING:
    from routerretriever.data.collection import Collection
    from routerretriever.model import RouterRetriever
    from routerretriever.opening import OpenedModel

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder of the model, or USER/NAME or USER/NAME@REVISION on the hub.",
        show_default=False,
    ),
]
OwnModel = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of the model.", show_default=False)]
_SOURCES_HELP = "BEIR folder, pairs file (.jsonl, .csv, .tsv), hub name (BeIR/scifact) or ir_datasets:ID."
Sources = Annotated[list[str], typer.Argument(metavar="COLLECTION…", help=_SOURCES_HELP, show_default=False)]
OptionalSources = Annotated[
    list[str] | None,
    typer.Argument(metavar="[COLLECTION…]", help=_SOURCES_HELP, show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Lenient = Annotated[
    bool,
    typer.Option(
        "--lenient",
        help="Drop judgements of missing documents, and queries without a relevant one.",
    ),
]
IgnoreIdenticalIds = Annotated[
    bool | None,
    typer.Option(
        "--ignore-identical-ids/--count-identical-ids",
        help="Whether the document with a query's own id is neither a result nor a negative.",
        show_default="ignored in ArguAna and Quora, as in BEIR",
    ),
]
CutOff = Annotated[
    bool,
    typer.Option(
        "--cut-off",
        help="Compare queries with the beginning of long documents only, as the paper and BEIR's leaderboards "
        "do, instead of with their passages.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="Torch device, such as cpu or cuda.", show_default="the best one present"),
]
Cluster = Annotated[
    str | None,
    typer.Option(help="Use a Ray cluster: its address, auto, or local for the processors of this machine."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Workers on the cluster.",
        show_default="one for each accelerator or processor",
    ),
]
IndexUri = Annotated[
    str,
    typer.Argument(
        metavar="INDEX", help="Folder or URI of the index; postgresql://…?table=NAME too.", show_default=False
    ),
]
OptionalIndex = Annotated[
    str | None,
    typer.Option("--index", help="Folder or URI of the index, as elsewhere; without it, search is off."),
]


_PROGRESS_BARS = {
    "huggingface_hub.utils.tqdm": "disable_progress_bars",
    "transformers.utils.logging": "disable_progress_bar",
}


class EngineName(StrEnum):
    """What computes vectors."""

    AUTO = "auto"
    TORCH = "torch"
    ONNX = "onnx"


Engine = Annotated[
    EngineName,
    typer.Option(help="What computes: onnx is a compiled engine; auto takes it where there is one."),
]


class DefaultGroup(TyperGroup):
    """A group of commands whose default one runs if the first word names no command."""

    default: ClassVar[str]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in self.get_help_option_names(ctx):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


class QueryCommand(TyperCommand):
    """A command that takes queries, which may begin with a hyphen."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # The parser's error for an option that does not exist, which typer does not export.
            if option := getattr(error, "option_name", None):
                hint = f"If {option} begins a query, put -- before the query."
                raise typer.BadParameter(f"There is no option {option}. {hint}", ctx) from error
            raise


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors made for users into one message and exit code 1."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        quiet_libraries()
        try:
            with of_training():
                function(*args, **kwargs)
        except RouterRetrieverError as error:
            show_error(error, as_json=kwargs.get("as_json", False))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            say("Interrupted. What was saved is complete; rerun the command to continue.", err)
            raise typer.Exit(130) from None

    return wrapped


def quiet_libraries() -> None:
    """Turn off the progress bars of model loaders, which are drawn even without a terminal."""
    # Read when the libraries are imported, which many commands do without.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name, disable in _PROGRESS_BARS.items():
        if name in sys.modules:
            getattr(sys.modules[name], disable)()


def load_model(source: str | Path, device: str | None) -> RouterRetriever:
    """Load the model in a folder, or of a name on the hub, for anything that a model can do."""
    from routerretriever.model import RouterRetriever

    return RouterRetriever.from_pretrained(source, device=device)


def open_model(
    source: str | Path, device: str | None, engine: EngineName, *, precision: str = "fp32"
) -> OpenedModel:
    """Open the model in a folder, or of a name on the hub, for queries and documents.

    Where the engine is chosen here, it is one that encodes documents in the precision that is asked for.
    """
    from routerretriever.opening import open_model as opened

    model = opened(source, engine=engine, device=device)
    try:
        model.document_precision(precision)
    except EngineError:
        if engine != EngineName.AUTO:
            raise
        return opened(source, engine=EngineName.TORCH, device=device)
    return model


def keep_trained(path: Path, trained: RouterRetriever, expert: str, *, force: bool) -> str:
    """Save an expert into a model's folder, and return the name that it has got."""
    from routerretriever.change_model import save_trained

    added = save_trained(path, trained, expert, replace=force)
    if added != expert:
        say(
            f"Another process added an expert '{expert}' during the training, so the new one "
            f"is called '{added}'.",
            err,
        )
    return added


def load_collections(
    sources: list[str],
    *,
    lenient: bool,
    ignore_identical_ids: bool | None = None,
    cut_off: bool = False,
) -> list[Collection]:
    """Load collections from folders, files or the hub."""
    from routerretriever.data.collection import Collection

    loaded = []
    for source in sources:
        loaded.append(
            Collection.load(
                source,
                strict=not lenient,
                ignore_identical_ids=ignore_identical_ids,
                cut_off=cut_off,
            )
        )
    return loaded


@contextmanager
def changed_model(path: str | Path, device: str | None) -> Iterator[RouterRetriever]:
    """Load the model in a folder under its lock, and save its experts and pilots afterwards."""
    from routerretriever.change_model import changed_model as change

    with change(path, device) as model:
        yield model
