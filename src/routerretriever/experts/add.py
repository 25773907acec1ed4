"""Add an expert from a folder, a model or the hub, with the check for harm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from routerretriever.data.collection import Collection
from routerretriever.errors import ExpertError, FingerprintError, HarmError
from routerretriever.experts.check_harm import MARGIN, HarmReport, check_expert, harm
from routerretriever.progress import Progress
from routerretriever.storage.hub_download import is_hub_name, read_folder, repository
from routerretriever.storage.model_folder import EXPERTS, MODEL_INFO, read_model_info

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever


def add_expert_from(
    model: RouterRetriever,
    source: str | Path,
    name: str | None = None,
    *,
    collections: Sequence[Collection] = (),
    margin: float = MARGIN,
    force: bool = False,
    trust_base: bool = False,
    progress: Progress | None = None,
) -> tuple[str, HarmReport | None]:
    """Add an expert from a PEFT folder or another model, unless it harms; its gains are measured on the way.

    Args:
        model: gains an expert and its column of the library.
        source: a PEFT folder, as ``experts/NAME`` of any model is one, or a model with one expert; or ``user/name`` of
            such on the hub.
        name: default the source's.
        collections: the data of all collections in the library, and of others that come with the expert.
        margin: mean nDCG@10 that a collection of the library may lose.
        force: add it whatever it costs, and where data is missing, without a check.
        trust_base: accept an adapter that names another base.
        progress: where to report.

    Returns:
        The name, and what was measured; ``None`` where there is no library, so that nothing is routed, or no data.

    Raises:
        HarmError: a collection loses more than the margin. The model is as before.
        LibraryError: the library has collections whose data was not given. The model is as before.
        ExpertError, FingerprintError: it cannot be read, does not fit, is of another base, or the name is taken.
    """
    folder = expert_folder(model, source, trust_base=trust_base)
    before = model.library
    named = repository(str(source))[0] if is_hub_name(source) else source  # a hub's snapshot has no name
    own = folder.name if folder.parent.name == EXPERTS else Path(named).name
    name = model.import_expert(folder, name or own, trust_base=trust_base)
    try:
        if before is None or (force and not collections):
            if collections:
                model.build_library(collections, progress=progress)
            return name, None
        report = check_expert(model, name, collections, margin=margin, partial=force, progress=progress)
        if report.harmed and not force:
            raise HarmError(harm(report))
    except BaseException:
        model.remove_expert(name)
        raise
    model.set_library(report.library)
    return name, report


def expert_folder(model: RouterRetriever, source: str | Path, *, trust_base: bool = False) -> Path:
    """The PEFT folder that a source means.

    Raises:
        HubError: it is not a folder, and not on the hub.
        ExpertError: the source is a model with several experts, or none.
        FingerprintError: it is part of a model of another base.
    """
    folder = read_folder(source)
    if (folder / MODEL_INFO).exists():
        names = list(read_model_info(folder)["experts"])
        if len(names) != 1:
            known = ", ".join(str(folder / EXPERTS / name) for name in names) or "none, it has no experts"
            raise ExpertError(f"{folder} is a model. Name one expert's folder in it: {known}.")
        folder = folder / EXPERTS / names[0]
    root = folder.resolve().parent.parent
    if not trust_base and folder.resolve().parent.name == EXPERTS and (root / MODEL_INFO).exists():
        recorded = read_model_info(root)["base"]["fingerprint"]
        if recorded != model.encoder.fingerprint:
            raise FingerprintError(
                f"The expert in {folder} belongs to a model of another base encoder (fingerprint {recorded[:12]}, this "
                f"model's is {model.encoder.fingerprint[:12]}). Train it again for this base, or, if the weights are "
                "the same, pass trust_base=True (--trust-base)."
            )
    return folder
