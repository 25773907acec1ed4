"""The verbs of ``routerretriever experts``, and ``doctor``: experts come, go, and are looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from routerretriever.cli.common import (
    AsJson,
    DefaultGroup,
    Device,
    Lenient,
    Model,
    OwnModel,
    Sources,
    changed_model,
    guarded,
    load_collection,
    load_model,
)
from routerretriever.cli.formatting import out, print_json, say
from routerretriever.errors import ExpertError
from routerretriever.progress import Bars

if TYPE_CHECKING:
    from routerretriever.experts.harm_report import HarmReport
    from routerretriever.model import RouterRetriever
    from routerretriever.storage.history_entry import Entry


class _ExpertsGroup(DefaultGroup):
    default = "list"


app = typer.Typer(
    cls=_ExpertsGroup,
    no_args_is_help=True,
    subcommand_metavar="[MODEL | VERB …]",
    help="List the experts of a model, or change them.\n\n"
    "`experts MODEL` is short for `experts list MODEL`. A model in a folder called like a verb is written ./log.",
)
Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
Margin = Annotated[
    float, typer.Option(min=0.0, help="nDCG@10 points that routed queries of a collection may lose at most.")
]
_MARGIN = 0.5  # points; check_harm.MARGIN, not imported because that would slow down the help


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a verb."""
    return app.command(name=function.__name__.removesuffix("_"))(guarded(function))


@command
def list_(model: Model, device: Device = None, as_json: AsJson = False) -> None:
    """List the experts of MODEL."""
    _show_experts(load_model(model, device), as_json)


def _show_experts(loaded: RouterRetriever, as_json: bool) -> None:
    if as_json:
        print_json({"base": loaded.encoder.base.id, "experts": _rows(loaded)})
        return
    from routerretriever.routing.pilot_library import marked

    table = Table("expert", "trained on", "queries", "held-out base", "held-out expert", "gain")
    for key, info in loaded.experts.items():
        gain = marked(f"{100 * info.gain:+.1f}", info.gain_on_generated)
        scores = (f"{100 * info.base_ndcg:.1f}", f"{100 * info.expert_ndcg:.1f}", gain)
        table.add_row(key, info.trained_on, str(info.queries or "–"), *(scores if info.held_out else ("–",) * 3))
    out.print(table)


def _rows(loaded: RouterRetriever) -> dict[str, dict[str, Any]]:
    return {
        key: {
            "collection": info.collection,
            "queries": info.queries,
            "held_out": info.held_out,
            "base_ndcg": info.base_ndcg,
            "expert_ndcg": info.expert_ndcg,
            "gain": info.gain,
            "generated": info.generated,
            "source": info.source,
            "held_out_generated": info.held_out_generated,
        }
        for key, info in loaded.experts.items()
    }


@command
def add(
    model: OwnModel,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="PEFT folder, experts/NAME of a model, a model with one expert, or user/name of such on the hub.",
            show_default=False,
        ),
    ],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Default the folder's.")] = None,
    collection: Annotated[
        list[str] | None,
        typer.Option(help="Data of a collection in the library, or of one that comes with the expert; once for each."),
    ] = None,
    margin: Margin = _MARGIN,
    force: Annotated[
        bool, typer.Option("--force", help="Add it even if it harms, or if that cannot be measured.")
    ] = False,
    trust_base: Annotated[
        bool, typer.Option("--trust-base", help="Accept an adapter that names another base.")
    ] = False,
    lenient: Lenient = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Add an expert to MODEL, unless it harms routed queries of a collection.

    Its gains are measured on the way, so that the router can use it at once.
    """
    from routerretriever.experts.add import add_expert

    collections = [load_collection(given, lenient) for given in collection or ()]
    with changed_model(model, device) as loaded:
        added, report = add_expert(
            loaded,
            source,
            name,
            collections=collections,
            margin=margin / 100,
            force=force,
            trust_base=trust_base,
            progress=Bars(),
        )
    if as_json:
        harm = None if report is None else report.to_dict()
        print_json({"expert": added, "base": loaded.encoder.base.id, "experts": _rows(loaded), "harm": harm})
        return
    if report is not None:
        _show_effects(report)
    elif loaded.library is None:
        say("There is no pilot library, so nothing is routed yet and no collection can be harmed.")
    elif added in loaded.library.unmeasured():
        say("Not measured: nothing is routed to it until routerretriever library has measured it.")
    say(Text.assemble("Added ", (added, "bold"), f" to {model}."))


@command
def check(
    model: Model,
    name: Name,
    collections: Sources,
    margin: Margin = _MARGIN,
    lenient: Lenient = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Show what an expert of MODEL gains or costs on every collection; exit code 1 if one loses over the margin."""
    from routerretriever.experts.check_harm import check_expert

    loaded, given = load_model(model, device), [load_collection(source, lenient) for source in collections]
    report = check_expert(loaded, name, given, margin=margin / 100, progress=Bars())
    if as_json:
        print_json(report.to_dict())
    else:
        _show_effects(report)
    if report.harmed:
        raise typer.Exit(1)


def _show_effects(report: HarmReport) -> None:
    table = Table("collection", "queries", "base", "without", "with", "change", "p", "routed to it")
    for effect in report.effects:
        style = "bold red" if effect in report.harmed else ""
        table.add_row(
            effect.collection if effect.in_library else f"{effect.collection} (new)",
            str(effect.queries),
            *(f"{100 * value:.1f}" for value in (effect.base, effect.before, effect.after)),
            f"{100 * effect.change:+.1f}",
            f"{effect.p_value:.3f}",
            f"{100 * effect.routed_to_it:.0f}%",
            style=style,
        )
    say(f"Routed nDCG@10 × 100 on held-out queries, without '{report.expert}' and with it")
    out.print(table)
    if report.unchecked:
        say(f"Not checked, because their data was not given: {', '.join(report.unchecked)}.")


@command
def remove(model: OwnModel, name: Name, device: Device = None, as_json: AsJson = False) -> None:
    """Remove an expert from MODEL; `experts rollback` brings it back."""
    with changed_model(model, device) as loaded:
        loaded.remove_expert(name)
    _show_experts(loaded, as_json)


@command
def rename(
    model: OwnModel,
    old: Annotated[str, typer.Argument(metavar="OLD", show_default=False)],
    new: Annotated[str, typer.Argument(metavar="NEW", show_default=False)],
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Give an expert of MODEL another name, with its gains; no index changes."""
    with changed_model(model, device) as loaded:
        loaded.rename_expert(old, new)
    _show_experts(loaded, as_json)


@command
def diff(
    model: Model,
    a: Annotated[str, typer.Argument(metavar="A", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", show_default=False)],
    other: Annotated[str | None, typer.Option(help="The model that B is an expert of; default MODEL.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compare two experts: cards, hyper-parameters, LoRA deltas layer by layer, measured gains."""
    from routerretriever.experts.compare import diff_experts

    loaded = load_model(model, device)
    found = diff_experts(loaded, a, b, None if other is None else load_model(other, device))
    if as_json:
        print_json(found.to_dict())
        return
    say(
        f"LoRA deltas: norm {found.norm_a:.3f} and {found.norm_b:.3f}, cosine {found.cosine:+.3f}"
        + (" (the same, factor by factor)" if found.same else "")
    )
    facts = Table("", a, b)
    for key, (first, second) in {**found.cards, **found.config}.items():
        facts.add_row(key, _shown(first), _shown(second))
    for collection, gains in found.gains.items():
        label = loaded.library.label(collection) if loaded.library else collection
        facts.add_row(f"gain on {label}", *("–" if g is None else f"{100 * g:+.1f}" for g in gains))
    out.print(facts)
    layers = Table("layer", f"norm of {a}", f"norm of {b}", "cosine", "overlap of inputs")
    for name, layer in found.layers.items():
        figures = (f"{layer.norm_a:.3f}", f"{layer.norm_b:.3f}", f"{layer.cosine:+.3f}", f"{layer.overlap:.3f}")
        layers.add_row(name, *figures)
    out.print(layers)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@command
def merge(
    model: OwnModel,
    names: Annotated[list[str], typer.Argument(metavar="A B…", show_default=False)],
    out_name: Annotated[str, typer.Option("--out", help="Name of the combined expert.", show_default=False)],
    rank: Annotated[
        int | None, typer.Option(min=1, help="Rank of the combined expert; default the largest of theirs.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="One for each expert, as in 0.5,0.5 for the mean; default 1 each, the sum.")
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Add a combined expert to MODEL: the weighted sum of some experts, at a lower rank.

    The experts stay.
    """
    from routerretriever.experts.combine import merge_experts

    try:
        given = None if weights is None else [float(weight) for weight in weights.split(",")]
    except ValueError as error:
        raise ExpertError(f"--weights '{weights}' are not numbers with commas between, as in 0.5,0.5.") from error
    with changed_model(model, device) as loaded:
        combined = merge_experts(loaded, names, out_name, rank=rank, weights=given)
    if as_json:
        print_json({"expert": out_name, "rank": combined.rank, "kept_norm": combined.kept})
        return
    say(
        Text.assemble(
            (out_name, "bold"),
            f": rank {combined.rank}, {100 * combined.kept:.1f}% of the sum's norm kept. Nothing is routed "
            f"to it until it has been measured: routerretriever library {model} COLLECTION…",
        )
    )


@command
def log(
    model: Model,
    prune: Annotated[
        int | None, typer.Option(min=1, help="Drop the files of all but so many newest entries.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was done to the experts of MODEL, and what the kept versions take."""
    from routerretriever.storage.history import History
    from routerretriever.storage.hub_download import is_download, own_folder, read_folder
    from routerretriever.storage.locks import changing
    from routerretriever.storage.model_folder import read_model_info

    folder = read_folder(model) if prune is None else own_folder(model)
    read_model_info(folder)
    with nullcontext() if prune is None else changing(folder):
        history = History(folder)
        pruned = None if prune is None else history.prune(prune)
    if as_json:
        entries = [entry.to_dict() | {"restorable": not history.missing(entry)} for entry in history.entries]
        dropped = None if pruned is None else {"files": pruned.files, "bytes": pruned.bytes, "entries": pruned.entries}
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
        say(f"Dropped {pruned.files} files, {pruned.bytes / 2**20:.1f} MiB.")
    if is_download(folder):
        say("A model on the hub has no log: that stays with the folder it was pushed from.")
        return
    say(f"The kept versions take {history.size() / 2**20:.1f} MiB.")


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
    about = action.get("expert") or action.get("collection") or action.get("base") or ", ".join(action.get("files", ()))
    gain = ""
    if "expert_ndcg" in action:
        points = f"held-out gain {100 * (action['expert_ndcg'] - action['base_ndcg']):+.1f}"
        gain = f" ({marked(points, generated)})"
    return f"{what} {about or ', '.join(action.get('experts', ()))}{gain}"


def _gains(gains: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * gain:+.1f}" for name, gain in gains.items())


@command
def rollback(
    model: OwnModel,
    entry: Annotated[int, typer.Argument(metavar="ENTRY", help="Its number in the log.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Return experts, gains and card of MODEL to the state of an entry of its log, bit for bit."""
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


def doctor(model: Model, as_json: AsJson = False) -> None:
    """Say what is wrong with MODEL and what to do about it; exit code 1 if something is an error."""
    from routerretriever.doctor import ERROR, diagnose

    findings = diagnose(model)
    if as_json:
        print_json({"findings": [finding.to_dict() for finding in findings]})
    else:
        for finding in findings:
            color = {"error": "bold red", "warning": "yellow"}.get(finding.severity, "dim")
            what = f" {finding.check}, {finding.subject}: {finding.message}"
            say(Text.assemble((finding.severity, color), what))
            say(f"  {finding.fix}")
        if not findings:
            say("Nothing is wrong.")
    if any(finding.severity == ERROR for finding in findings):
        raise typer.Exit(1)
