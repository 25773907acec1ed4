"""``routerretriever library``: the pilots that route among the experts of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from routerretriever.cli.common import (
    AsJson,
    CutOff,
    Device,
    IgnoreIdenticalIds,
    Lenient,
    OptionalSources,
    OwnModel,
    load_collections,
)
from routerretriever.cli.formatting import err, points, print_json, say, show_table
from routerretriever.errors import LibraryError
from routerretriever.progress import Bars

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever
    from routerretriever.routing.pilot_library import PilotLibrary

Router = Annotated[
    str | None,
    typer.Option(
        help="gain, pilot-mean (the paper's rule) or pilot-max (the official code's rule).",
        show_default="unchanged; gain in a new library",
    ),
]
Margin = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=100.0,
        help="Choose an expert only if its predicted gain exceeds this (nDCG@10 points).",
        show_default="unchanged; 0 in a new library",
    ),
]
Mix = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Average the LoRA deltas of the N best candidates; 1 chooses a single one.",
        show_default="unchanged; 1 in a new library",
    ),
]
MixTemperature = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Softmax temperature of the mixing weights (nDCG@10 points).",
        show_default="unchanged; 5 in a new library",
    ),
]
PartialWeight = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Weight of an expert between the reject and the trust threshold.",
        show_default="unchanged; 2/3 in a new library",
    ),
]
FallbackWeight = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Weight of the merged expert below the reject threshold.",
        show_default="unchanged; 1/2 in a new library",
    ),
]
Abstain = Annotated[
    bool | None,
    typer.Option(
        "--abstain/--no-abstain",
        help="Use the thresholds, or treat every query as in domain.",
        show_default="unchanged; used in a new library",
    ),
]


def library(
    model: OwnModel,
    collections: OptionalSources = None,
    router: Router = None,
    margin: Margin = None,
    mix: Mix = None,
    mix_temperature: MixTemperature = None,
    partial_weight: PartialWeight = None,
    fallback_weight: FallbackWeight = None,
    abstain: Abstain = None,
    lenient: Lenient = False,
    ignore_identical_ids: IgnoreIdenticalIds = None,
    cut_off: CutOff = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure the experts on held-out queries, build or extend the pilot library, and set how MODEL routes.

    Without collections, nothing is measured: only the given settings change.
    """
    from routerretriever.change_model import change_after

    # The options are in points, the policy's settings are not.
    if margin is not None:
        margin /= 100
    if mix_temperature is not None:
        mix_temperature /= 100
    settings: dict[str, Any] = {
        "margin": margin,
        "mix": mix,
        "mix_temperature": mix_temperature,
        "partial_weight": partial_weight,
        "fallback_weight": fallback_weight,
        "abstain": abstain,
    }
    only_settings = router is None and any(value is not None for value in settings.values())
    if not collections and not only_settings:
        raise LibraryError(
            "Name at least one collection to measure the experts on: a folder, a file or a hub name."
        )
    measured = load_collections(
        collections or [], lenient=lenient, ignore_identical_ids=ignore_identical_ids, cut_off=cut_off
    )

    def change(loaded: RouterRetriever) -> None:
        if measured:
            loaded.build_library(measured, router=router, progress=Bars())
        loaded.set_policy(**settings)

    changed, _ = change_after(model, change, device=device)
    policy = changed.state.required_policy()
    if as_json:
        chosen = {name: getattr(policy, name) for name in settings}
        print_json(_library_facts(policy.library, policy.router.name) | {"policy": chosen})
    else:
        _show_library(policy.library)


def _library_facts(built: PilotLibrary, rule: str) -> dict[str, Any]:
    space = built.space
    reject, trust = None, None
    if space is not None:
        reject, trust = space.reject_threshold, space.trust_threshold
    return {
        "router": rule,
        "experts": built.experts,
        "pilots": {name: built.sources.count(name) for name in built.groups()},
        "reject_threshold": reject,
        "trust_threshold": trust,
        "unmeasured": built.unmeasured(),
    }


def _show_library(built: PilotLibrary) -> None:
    title = "Mean measured gain (nDCG@10 points over base)"
    table = Table("collection", "pilots", *built.experts, title=title)
    for name, means in built.mean_gains().items():
        gains = [points(mean, signed=True) for mean in means]
        table.add_row(built.label(name), str(built.sources.count(name)), *gains)
    show_table(table)
    for expert, missing in built.unmeasured().items():
        say(
            f"Not measured: {expert} on {', '.join(missing)}. "
            "Rerun the command with these collections to measure it there.",
            err,
        )
