"""``routerretriever export``, ``push`` and ``pull``: models and experts for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from routerretriever.cli.common import AsJson, Device, Model, load_model
from routerretriever.cli.formatting import print_json, say
from routerretriever.errors import ExpertError

ExportedExpert = Annotated[
    str, typer.Option(help="Expert to fuse into the base, or merged.", show_default=False)
]
ExportFolder = Annotated[
    Path, typer.Option("--out", help="New folder for the plain model.", show_default=False)
]
Licence = Annotated[str | None, typer.Option(help="Licence to state in the card, such as apache-2.0.")]
Repository = Annotated[
    str,
    typer.Argument(metavar="USER/NAME", help="Repository on the hub.", show_default=False),
]
PushedExpert = Annotated[
    str | None,
    typer.Option(help="Upload only this expert, in PEFT's format.", show_default=False),
]
DataLicences = Annotated[
    list[str] | None,
    typer.Option(
        "--data-licence",
        metavar="EXPERT=LICENCE",
        help="Licence of an expert's training data; repeat it for each expert.",
    ),
]
Private = Annotated[bool, typer.Option("--private", help="Make a new repository private.")]
Pulled = Annotated[
    str,
    typer.Argument(
        metavar="USER/NAME",
        help="Repository on the hub, or USER/NAME@REVISION.",
        show_default=False,
    ),
]
NewFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder for it.", show_default=False)]


def export(
    model: Model,
    expert: ExportedExpert,
    out_dir: ExportFolder,
    licence: Licence = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Write one expert, fused into the base, as a plain Sentence Transformers model for queries."""
    loaded = load_model(model, device)
    written = loaded.export_expert(expert, out_dir, licence=licence)
    base = loaded.encoder.base.id
    if as_json:
        print_json({"out": str(written), "expert": expert, "base": base})
    else:
        say(f"{written} encodes queries as '{expert}'; encode the documents with {base}.")


def push(
    model: Model,
    name: Repository,
    expert: PushedExpert = None,
    licence: Licence = None,
    data_licences: DataLicences = None,
    private: Private = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Upload MODEL, or one of its experts, to the hub with a card.

    The token is read from HF_TOKEN, or is the one of `hf auth login`.
    """
    from routerretriever.sharing.hub_upload import push_expert, push_model

    stated = dict(given.partition("=")[::2] for given in data_licences or ())
    if not all(stated.values()):
        raise ExpertError("--data-licence needs an expert and a licence, as in ops=cc-by-4.0.")

    # A repository that exists keeps its visibility unless --private is given.
    hidden = private or None
    loaded = load_model(model, device)
    if expert is None:
        url = push_model(loaded, name, licence=licence, data_licences=stated, private=hidden)
    else:
        url = push_expert(loaded, expert, name, licence=licence, data_licences=stated, private=hidden)
    if as_json:
        print_json({"url": url, "expert": expert})
    else:
        say(f"Uploaded to {url}")


def pull(name: Pulled, folder: NewFolder, as_json: AsJson = False) -> None:
    """Copy a model, or a single expert, from the hub into FOLDER, where it can be changed.

    Commands that only read a model, such as search, serve and evaluate, take its hub name instead.
    """
    from routerretriever.sharing.hub_upload import pull as pull_folder

    copied = pull_folder(name, folder)
    if as_json:
        print_json({"name": name, "folder": str(copied)})
    else:
        say(f"Copied {name} to {copied}")
