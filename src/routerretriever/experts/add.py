"""Add an expert from a folder, a model or the hub, unless it harms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from routerretriever.data.collection import Collection
from routerretriever.errors import HarmError
from routerretriever.experts.check_harm import MARGIN, check_expert
from routerretriever.experts.harm_report import HarmReport
from routerretriever.experts.read_expert import read_expert
from routerretriever.model import RouterRetriever
from routerretriever.progress import Progress


def add_expert(
    model: RouterRetriever,
    source: str | Path | RouterRetriever,
    name: str | None = None,
    *,
    collections: Sequence[Collection] = (),
    margin: float = MARGIN,
    force: bool = False,
    trust_base: bool = False,
    progress: Progress | None = None,
) -> tuple[str, HarmReport | None]:
    """Add an expert, unless it harms; its gains are measured on the way.

    Args:
        model: gains an expert and its column of the library.
        source: a PEFT folder, as ``experts/NAME`` of any saved model is one; a saved model with
            one expert; ``user/name`` of such on the hub; or a model object with one expert.
        name: default the source's.
        collections: the data of all collections in the library, and of others that come with the
            expert.
        margin: mean nDCG@10 that a collection of the library may lose.
        force: add it whatever it costs, and where data is missing, without a check.
        trust_base: accept an adapter that names another base.
        progress: where to report.

    Returns:
        The name, and what was measured; ``None`` where there is no library, so that nothing is
        routed, or no data.

    Raises:
        HarmError: a collection loses more than the margin. The model is as before.
        LibraryError: the library has collections whose data was not given. The model is as before.
        ExpertError: the source cannot be read or does not fit, or the name is taken.
        FingerprintError: the expert is part of a model of another base.
        HubError: the source is not a folder, and not on the hub.
    """
    expert = read_expert(model, source, trust_base=trust_base)
    name = name or expert.name
    before = model.state
    model.add_expert(name, expert.adapter, expert.info)
    try:
        if before.library is None or (force and not collections):
            if collections:
                model.build_library(collections, progress=progress)
            return name, None
        report = check_expert(model, name, collections, margin=margin, partial=force, progress=progress)
        if report.harmed and not force:
            raise HarmError(report.refusal)
    except BaseException:
        model.state = before
        raise
    model.set_library(report.library)
    return name, report
