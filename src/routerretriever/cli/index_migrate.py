"""``routerretriever index migrate``: another base for the documents of an index."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routerretriever.cli.common import AsJson, Device, IndexUri, open_model
from routerretriever.cli.formatting import print_json, say
from routerretriever.cli.index import Precision
from routerretriever.errors import VectorIndexError
from routerretriever.index.postgres_uri import shown_uri
from routerretriever.progress import Bars

if TYPE_CHECKING:
    from routerretriever.index.index import Index
    from routerretriever.index.reports import Migrated
    from routerretriever.opening import OpenedModel

NewBase = Annotated[
    str | None,
    typer.Option("--base", help="The new base: hub id, path, or openai:MODEL. A model with it is created."),
]
NewModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="The model with the new base: created there with --base, or one that exists.",
        show_default="the old model's folder, with the base behind its name",
    ),
]
OnlyBridge = Annotated[
    bool,
    typer.Option(
        "--only-bridge", help="Let the new model search at once; leave the documents for a later run."
    ),
]
DropOld = Annotated[
    bool,
    typer.Option(
        "--drop-old",
        help="Remove the old vectors after the switch, instead of with versions older than a week.",
    ),
]
Sample = Annotated[
    int, typer.Option(min=1, help="Documents that the bridge is fitted on, which the new base encodes first.")
]


def migrate(
    index: IndexUri,
    base: NewBase = None,
    model: NewModel = None,
    only_bridge: OnlyBridge = False,
    drop_old: DropOld = False,
    sample: Sample = 2000,
    precision: Precision = "fp32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Give INDEX another base, while it is searched and written.

    As soon as the bridge is fitted, `search INDEX QUERY --model NEW` finds the old vectors. The documents are
    encoded meanwhile; after a kill the same command continues. At the end the new vectors take the place of the
    old ones in one step.
    """
    from routerretriever.index.index import Index
    from routerretriever.index.migration.settings import MigrationSettings

    opened = Index.open(index)
    place, loaded = _new_model(opened, base, model, device)
    settings = MigrationSettings(
        sample=sample, only_bridge=only_bridge, drop_old=drop_old, precision=precision
    )
    done = opened.migrate(loaded, model_path=place, settings=settings, progress=Bars())
    if as_json:
        print_json({"index": shown_uri(index), "model": place, **done.to_dict()})
    else:
        _show(shown_uri(index), place, done)


def _new_model(
    index: Index, base: str | None, model: str | None, device: str | None
) -> tuple[str, OpenedModel]:
    """Return the place of the model with the new base, and the model, which is created where it is not there."""
    from routerretriever.cli.common import EngineName
    from routerretriever.cli.train import open_or_save

    if base is None:
        if model is None:
            raise VectorIndexError(
                "Say which base the index gets: --base NAME, or --model FOLDER for a model with it."
            )
        return model, open_model(model, device, EngineName.AUTO)
    former = index.describe().model
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(base).name)
    folder = Path(model or f"{former or 'model'}-{name}").expanduser()
    return str(folder), open_or_save(folder, base, device)


def _show(index: str, model: str, done: Migrated) -> None:
    for method, figures in done.figures.items():
        chosen = " (chosen)" if method == done.method else ""
        say(
            f"Bridge by {method}{chosen}: it finds {figures.keeps_new:.1%} of the ten nearest documents of the new "
            f"base, and {figures.keeps_old:.1%} of those of the old one."
        )
    if done.switched:
        say(
            f"{index} has the base of {model} now: {done.documents} documents, {done.encoded} encoded by this run."
        )
        return
    say(f"The model {model} can search now: routerretriever search {index} QUERY --model {model}")
    say(f"To encode the documents: routerretriever index migrate {index} --model {model}")
