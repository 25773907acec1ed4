"""The verbs of ``routerretriever experts``: list, add, remove, rename, compare and combine them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from routerretriever.cli.common import (
    AsJson,
    CutOff,
    DefaultGroup,
    Device,
    IgnoreIdenticalIds,
    Lenient,
    Model,
    OwnModel,
    Sources,
    changed_model,
    guarded,
    load_collections,
    load_model,
)
from routerretriever.cli.expert_log import log, rollback
from routerretriever.cli.formatting import MISSING, out, points, print_json, say
from routerretriever.errors import ExpertError
from routerretriever.progress import Bars

if TYPE_CHECKING:
    from routerretriever.experts.harm_report import HarmReport
    from routerretriever.model import RouterRetriever


_MEASURED = "nDCG@10 × 100 on held-out queries; the card of the model says which."


class _ExpertsGroup(DefaultGroup):
    default = "list"


app = typer.Typer(
    cls=_ExpertsGroup,
    no_args_is_help=True,
    subcommand_metavar="[MODEL | VERB …]",
    help="List the experts of a model, or change them.\n\n"
    "`experts MODEL` is short for `experts list MODEL`. "
    "Write ./log for a model in a folder that has the name of a command.",
)
Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
Margin = Annotated[
    float, typer.Option(min=0.0, help="Most nDCG@10 points that routed queries of a collection may lose.")
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
    if not loaded.experts:
        say("The model has no experts.")
        return
    from routerretriever.routing.pilot_library import marked

    table = Table("expert", "kind", "trained on", "base", "with it", "gain", "p", caption=_MEASURED)
    for key, info in loaded.experts.items():
        scores = [MISSING] * 4
        if info.held_out:
            gain = marked(points(info.gain, signed=True), info.gain_on_generated)
            p_value = MISSING
            if info.p_value is not None:
                p_value = f"{info.p_value:.2g}"
            scores = [points(info.base_ndcg), points(info.expert_ndcg), gain, p_value]
        table.add_row(key, loaded.state.experts[key].kind, info.trained_on, *scores)
    out.print(table)


def _rows(loaded: RouterRetriever) -> dict[str, dict[str, Any]]:
    return {
        key: {
            "kind": loaded.state.experts[key].kind,
            "collection": info.collection,
            "queries": info.queries,
            "held_out": info.held_out,
            "base_ndcg": info.base_ndcg,
            "expert_ndcg": info.expert_ndcg,
            "gain": info.gain,
            "p_value": info.p_value,
            "selection": str(info.selection),
            "selected_by": info.selected_by,
            "selection_gain": info.selection_gain,
            "generated": info.generated,
            "source": info.source,
            "held_out_generated": info.held_out_generated,
            "other_styles": None if info.other_styles is None else asdict(info.other_styles),
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
            help="PEFT folder, experts/NAME of a model, a model with one expert, or USER/NAME of one on the hub.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of the expert; default the folder's.")
    ] = None,
    collection: Annotated[
        list[str] | None,
        typer.Option(
            help="Data of a collection in the library, or of the expert's own; repeat it for each collection."
        ),
    ] = None,
    margin: Margin = _MARGIN,
    force: Annotated[
        bool, typer.Option("--force", help="Add it even if it does harm, or if that cannot be measured.")
    ] = False,
    trust_base: Annotated[
        bool, typer.Option("--trust-base", help="Accept an adapter that names another base.")
    ] = False,
    lenient: Lenient = False,
    ignore_identical_ids: IgnoreIdenticalIds = None,
    cut_off: CutOff = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Add an expert to MODEL, unless it harms routed queries of a collection.

    This also measures its gains, so the router can use it at once.
    """
    from routerretriever.experts.add import add_expert

    collections = load_collections(
        collection or [], lenient=lenient, ignore_identical_ids=ignore_identical_ids, cut_off=cut_off
    )
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
    _show_added(loaded, added, report)
    say(Text.assemble("Added ", (added, "bold"), f" to {model}."))


def _show_added(loaded: RouterRetriever, added: str, report: HarmReport | None) -> None:
    if report is not None:
        _show_effects(report)
    elif loaded.library is None:
        say("There is no pilot library, so nothing is routed yet and no collection can be harmed.")
    elif added in loaded.library.unmeasured():
        say("Not measured: nothing is routed to it until routerretriever library has measured it.")


@command
def check(
    model: Model,
    name: Name,
    collections: Sources,
    margin: Margin = _MARGIN,
    lenient: Lenient = False,
    ignore_identical_ids: IgnoreIdenticalIds = None,
    cut_off: CutOff = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Show what an expert gains or costs on each collection; exit code 1 if one loses over the margin."""
    from routerretriever.experts.check_harm import check_expert

    loaded = load_model(model, device)
    given = load_collections(
        collections, lenient=lenient, ignore_identical_ids=ignore_identical_ids, cut_off=cut_off
    )
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
        collection = effect.collection
        if not effect.in_library:
            collection += " (new)"
        table.add_row(
            collection,
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
    other: Annotated[
        str | None,
        typer.Option(help="The model that has B.", show_default="MODEL"),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compare two experts: cards, hyper-parameters, LoRA deltas layer by layer, measured gains."""
    from routerretriever.experts.compare import diff_experts

    loaded = load_model(model, device)
    of_b: RouterRetriever | None = None
    if other is not None:
        of_b = load_model(other, device)
    found = diff_experts(loaded, a, b, of_b)
    if as_json:
        print_json(found.to_dict())
        return

    same = ""
    if found.same:
        same = " (the same, factor by factor)"
    say(f"LoRA deltas: norm {found.norm_a:.3f} and {found.norm_b:.3f}, cosine {found.cosine:+.3f}{same}")
    facts = Table("", a, b)
    for key, (first, second) in {**found.cards, **found.config}.items():
        facts.add_row(key, _shown(first), _shown(second))
    for collection, gains in found.gains.items():
        label = loaded.library.label(collection) if loaded.library else collection
        facts.add_row(f"gain on {label}", *map(_shown_gain, gains))
    out.print(facts)
    layers = Table("layer", f"norm of {a}", f"norm of {b}", "cosine", "overlap of inputs")
    for name, layer in found.layers.items():
        figures = (
            f"{layer.norm_a:.3f}",
            f"{layer.norm_b:.3f}",
            f"{layer.cosine:+.3f}",
            f"{layer.overlap:.3f}",
        )
        layers.add_row(name, *figures)
    out.print(layers)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _shown_gain(gain: float | None) -> str:
    if gain is None:
        return MISSING
    return points(gain, signed=True)


@command
def merge(
    model: OwnModel,
    names: Annotated[list[str], typer.Argument(metavar="A B…", show_default=False)],
    out_name: Annotated[str, typer.Option("--out", help="Name of the combined expert.", show_default=False)],
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="Rank of the combined expert.", show_default="the largest of theirs"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="A weight for each expert: 0.5,0.5 gives the mean.", show_default="1 each, the sum"
        ),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Add a combined expert to MODEL: the weighted sum of some experts, at a lower rank.

    The experts themselves are kept.
    """
    from routerretriever.experts.combine import merge_experts

    given: list[float] | None = None
    try:
        if weights is not None:
            given = [float(weight) for weight in weights.split(",")]
    except ValueError as error:
        raise ExpertError(
            f"--weights '{weights}' are not numbers with commas between, as in 0.5,0.5."
        ) from error
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


command(log)
command(rollback)
