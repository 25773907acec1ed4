"""``routerretriever train``: an expert from labelled queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from routerretriever.cli.common import (
    AsJson,
    CutOff,
    Device,
    IgnoreIdenticalIds,
    Lenient,
    OptionalSources,
    OwnModel,
    keep_trained,
    load_collections,
    load_model,
)
from routerretriever.cli.formatting import err, points, print_json, say
from routerretriever.errors import ExpertError
from routerretriever.progress import Bars

if TYPE_CHECKING:
    from routerretriever.experts.training_config import TrainingConfig
    from routerretriever.experts.training_report import TrainingReport
    from routerretriever.model import RouterRetriever

_DEFAULT_BASE = "all-MiniLM-L6-v2"
_PRESET = "the preset's"
_KINDS = {"lora": "LoRA", "map": "map", "both": "LoRA and map"}
_OF_A_MAP = {"epochs": "map_epochs", "learning_rate": "map_learning_rate", "batch_size": "map_batch_size"}
"""Setting of LoRA → that of a map."""

Name = Annotated[
    str | None,
    typer.Option(help="Name of the expert.", show_default="the collection's, or generalist for several"),
]
Base = Annotated[
    str | None,
    typer.Option(
        help="Base encoder of a new MODEL: hub id, folder, .onnx file, or openai:MODEL.",
        show_default=_DEFAULT_BASE,
    ),
]
QueryBase = Annotated[
    str | None,
    typer.Option(
        help="Encoder of queries of a new MODEL, aligned with --base, which then encodes documents alone.",
        show_default="--base",
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        help="Address of an OpenAI-compatible API, for --base openai:MODEL; the key is read from OPENAI_API_KEY.",
        show_default="$OPENAI_BASE_URL, else OpenAI's",
    ),
]
Preset = Annotated[
    str, typer.Option(help="Settings to start from: default, or paper for those of arXiv 2409.02685.")
]
Kind = Annotated[
    str | None,
    typer.Option(
        help="What the expert changes: lora (layers of the base), map (the finished vector alone), both, "
        "or auto, which trains all and keeps what held-out queries prefer.",
        show_default=_PRESET,
    ),
]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Pass over the queries at most N times.", show_default=_PRESET)
]
Rank = Annotated[
    int | None, typer.Option(min=1, help="LoRA rank; a map chooses its own.", show_default=_PRESET)
]
LearningRate = Annotated[
    float | None, typer.Option("--lr", min=0.0, help="Learning rate.", show_default=_PRESET)
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Queries in each step.", show_default=_PRESET)]
Anchor = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="How strongly keywords, titles and sentences of the documents hold the expert to the base's answers; "
        "0 for not at all.",
        show_default="10, less for over 1,000 queries; 0 of a map and with --preset paper",
    ),
]
Seed = Annotated[int | None, typer.Option(help="Random seed.", show_default=_PRESET)]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Keep an expert without a significant gain; replace an expert of the same name."
    ),
]


Again = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL2",
        help="Train the experts of MODEL2 anew for MODEL, which may have another base, on the collections and with the "
        "settings that MODEL2 remembers; --name picks one.",
    ),
]


def train(
    model: OwnModel,
    collections: OptionalSources = None,
    again: Again = None,
    name: Name = None,
    base: Base = None,
    query_base: QueryBase = None,
    endpoint: Endpoint = None,
    preset: Preset = "default",
    kind: Kind = None,
    epochs: Epochs = None,
    rank: Rank = None,
    learning_rate: LearningRate = None,
    batch_size: BatchSize = None,
    anchor: Anchor = None,
    seed: Seed = None,
    force: Force = False,
    lenient: Lenient = False,
    ignore_identical_ids: IgnoreIdenticalIds = None,
    cut_off: CutOff = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Train an expert and add it to MODEL, which is created if it does not exist.

    Several collections make one expert, a generalist, trained on all of them in turn.
    """
    from routerretriever.cli.train_anew import train_anew
    from routerretriever.experts.train import train_expert
    from routerretriever.storage.hub_download import own_folder

    given = {"epochs": epochs, "rank": rank, "learning_rate": learning_rate}
    given |= {"batch_size": batch_size, "anchor": anchor, "seed": seed}
    reading: dict[str, Any] = {
        "lenient": lenient,
        "ignore_identical_ids": ignore_identical_ids,
        "cut_off": cut_off,
    }
    opened = partial(
        open_or_create, model, base, query_base=query_base, endpoint=endpoint, preset=preset, device=device
    )
    own_folder(model, new=True)
    if again is not None:
        _refuse_with_again({"collection": collections, "kind": kind, **given, **reading})
        train_anew(model, again, name, opened, force=force, as_json=as_json)
        return
    config = _training_config(preset, kind=kind, **given)
    loaded = load_collections(_named(collections), **reading)
    router = opened()
    if kind is None and not router.encoder.is_opened:
        say(f"The layers of '{router.encoder.base.id}' cannot be changed, so the expert is a map.", err)
        config = _training_config(preset, kind="map", **given)
    report = train_expert(router, loaded, name=name, config=config, force=force, progress=Bars())
    added = keep_trained(model, router, report.expert, force=force)
    if as_json:
        print_json(report.to_dict() | {"expert": added, "model": str(model)})
    else:
        _show_training(report, added, model, _named(collections))


def _named(collections: list[str] | None) -> list[str]:
    if not collections:
        raise ExpertError(
            "Name a collection to train on, or a model whose experts are trained anew: --again MODEL2"
        )
    return collections


def _refuse_with_again(given: Mapping[str, object]) -> None:
    wrong = [name.replace("_", " ") for name, value in given.items() if value not in (None, False)]
    if wrong:
        raise ExpertError(
            f"--again takes collections and settings from the other model. Leave out: {', '.join(wrong)}."
        )


def _training_config(preset: str, **given: Any) -> TrainingConfig:
    from dataclasses import replace

    from routerretriever.experts.training_config import PRESETS, Preset, TrainedKinds

    if preset not in list(Preset):
        raise ExpertError(f"There is no preset '{preset}'. Choose one of: {', '.join(Preset)}.")
    changes = {key: value for key, value in given.items() if value is not None}
    if changes.get("kind") == TrainedKinds.MAP:
        if "rank" in changes:
            raise ExpertError(
                "A map chooses its rank itself: the smallest that keeps its gain. Leave out --rank."
            )
        changes = {_OF_A_MAP.get(key, key): value for key, value in changes.items()}
    return replace(PRESETS[Preset(preset)], **changes)


def open_or_create(
    path: Path,
    base: str | None,
    *,
    query_base: str | None = None,
    endpoint: str | None = None,
    preset: str = "default",
    device: str | None = None,
) -> RouterRetriever:
    """Return the model saved at a path, or a new one.

    Args:
        path: folder of the model.
        base: hub id or path of its base; default all-MiniLM-L6-v2.
        query_base: the same of what encodes queries; default ``base``.
        endpoint: address of a remote base.
        preset: ``default`` or ``paper``.
        device: torch device; default the best one present.

    Raises:
        ExpertError: the saved one has another base, or another setting than the preset.
    """
    from routerretriever.model import RouterRetriever

    if path.is_dir() and any(path.iterdir()):
        router = load_model(path, device)
        if endpoint is not None:
            raise ExpertError(
                f"{path} exists, and a saved model knows its endpoint. Leave out --endpoint, or choose a new folder."
            )
        _check_base(path, base, router.encoder.documents.base.id, "--base")
        _check_base(path, query_base, router.encoder.base.id, "--query-base")
        if preset == "paper" and not router.is_like_paper:
            raise ExpertError(
                f"{path} exists and has other layers, another router input or another similarity than "
                "--preset paper asks for; those cannot be changed. Give --preset paper a new folder, or "
                "leave it out."
            )
        return router

    base = base or _DEFAULT_BASE
    if preset == "paper" and query_base is not None:
        raise ExpertError("--preset paper has one base for queries and documents. Leave out --query-base.")
    if preset == "paper" and endpoint is None:
        return RouterRetriever.create_like_paper(base, device=device)
    if preset == "paper":
        raise ExpertError("--preset paper changes layers, which a remote base does not let anyone do.")
    return RouterRetriever.create(base, device=device, endpoint=endpoint, query_base=query_base)


def _check_base(path: Path, asked: str | None, own: str, option: str) -> None:
    from routerretriever.encoder.base_models import base_info

    if asked is not None and base_info(asked).id != own:
        raise ExpertError(
            f"{path} has the base '{own}', not '{asked}'. Leave out {option}, or choose a new folder."
        )


def open_or_save(path: Path, base: str | None, device: str | None) -> RouterRetriever:
    """Return the model saved at a path, or a new one, which is saved there; errors as of :func:`open_or_create`."""
    is_new = not (path.is_dir() and any(path.iterdir()))
    model = open_or_create(path, base, device=device)
    if is_new:
        model.save_pretrained(path)
    return model


def _show_training(report: TrainingReport, expert: str, model: Path, collections: Sequence[str]) -> None:
    from routerretriever.routing.pilot_library import GENERATED_GAIN

    info = report.info
    generated = " generated" if info.gain_on_generated else ""
    figures = (
        f" ({_KINDS[report.kind]}): held-out nDCG@10 {points(info.expert_ndcg)}, base {points(info.base_ndcg)} "
        f"({points(info.gain, signed=True)} points, p = {report.p_value:.3g}, "
        f"{info.held_out}{generated} queries, {info.measured_on}), {report.steps} steps in {report.seconds:.0f} s. "
        f"Saved in {model}."
    )
    say(Text.assemble((expert, "bold"), figures))
    if report.documents.in_passages or report.documents.cut_off:
        say(f"Trained against {report.documents}.", err)
    if info.other_styles is not None:
        say(f"Other ways of asking: {info.other_styles}.", err)
    if info.gain_on_generated:
        say(f"This gain was {GENERATED_GAIN} Evaluate it on queries that people asked.", err)
    say(f"Next: routerretriever library {model} {' '.join(collections)} …")
