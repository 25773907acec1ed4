"""``routerretriever experts log`` and ``rollback``: what was done to a model, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from routerretriever.cli.common import AsJson, Model, OwnModel
from routerretriever.cli.formatting import out, print_json, say, size

if TYPE_CHECKING:
    from routerretriever.storage.history import Pruned
    from routerretriever.storage.history_entry import Entry


def log(
    model: Model,
    prune: Annotated[
        int | None,
        typer.Option(
            min=1, help="Delete the files that only entries older than the newest N need.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was done to the experts of MODEL, and the space its log takes."""
    from routerretriever.storage.history import History
    from routerretriever.storage.hub_download import is_download, own_folder, read_folder
    from routerretriever.storage.locks import changing
    from routerretriever.storage.model_folder import read_model_info

    pruned: Pruned | None = None
    if prune is None:
        folder = read_folder(model)
        read_model_info(folder)
        history = History(folder)
    else:
        folder = own_folder(model)
        read_model_info(folder)
        with changing(folder):
            history = History(folder)
            pruned = history.prune(prune)

    if as_json:
        entries = [entry.to_dict() | {"restorable": not history.missing(entry)} for entry in history.entries]
        dropped: dict[str, Any] | None = None
        if pruned is not None:
            dropped = {"files": pruned.files, "bytes": pruned.bytes, "entries": pruned.entries}
        print_json({"entries": entries, "bytes": history.size(), "pruned": dropped})
        return
    table = Table("entry", "time (UTC)", "what", "kept")
    for entry in history.entries:
        table.add_row(
            str(entry.number),
            entry.time[:19].replace("T", " "),
            _told(entry),
            "no" if history.missing(entry) else "yes",
        )
    out.print(table)
    if pruned is not None:
        say(f"Dropped {pruned.files} files, {size(pruned.bytes)}.")
    if is_download(folder):
        say("A model on the hub has no log: that stays with the folder it was pushed from.")
        return
    say(f"The kept versions take {size(history.size())}.")


def _told(entry: Entry) -> str:
    return "\n".join(_sentence(action) for action in entry.actions)


def _sentence(action: Any) -> str:
    from routerretriever.routing.pilot_library import marked

    what, generated = action["what"], action.get("generated", False)
    if what == "measured":
        return f"measured on {marked(action['collection'], generated)}: {_gains(action['gains'])}"
    if what == "feedback":
        groups = "; ".join(f"{group}: {_gains(gains)}" for group, gains in action["groups"].items())
        return f"learnt from feedback, batch {action['batch']} ({groups})"
    if what == "feedback undone":
        return f"took back feedback batch {action['batch']}"
    if what == "renamed":
        return f"renamed {action['was']} to {action['expert']}"
    if what == "rolled back":
        return f"rolled back to {action['to']}"
    about = (
        action.get("expert")
        or action.get("collection")
        or action.get("base")
        or ", ".join(action.get("files", ()))
    )
    gain = ""
    if "expert_ndcg" in action:
        points = f"held-out gain {100 * (action['expert_ndcg'] - action['base_ndcg']):+.1f}"
        gain = f" ({marked(points, generated)})"
    return f"{what} {about or ', '.join(action.get('experts', ()))}{gain}"


def _gains(gains: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * gain:+.1f}" for name, gain in gains.items())


def rollback(
    model: OwnModel,
    entry: Annotated[int, typer.Argument(metavar="ENTRY", help="Its number in the log.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Restore experts, gains and card of MODEL from an entry of its log, bit for bit."""
    from routerretriever.storage.history import History
    from routerretriever.storage.hub_download import own_folder
    from routerretriever.storage.locks import changing

    folder = own_folder(model)
    with changing(folder):
        new = History(folder).rollback(entry)
    if as_json:
        print_json(new.to_dict())
        return
    say(
        f"{model} is as it was at entry {entry}, with the experts {', '.join(new.experts) or 'none'}. To undo this: "
        f"routerretriever experts rollback {model} {new.number - 1}"
    )
