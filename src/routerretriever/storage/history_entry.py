"""An entry of a model's history, and the actions that led from one state to the next."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from routerretriever.lora.expert_info import ExpertInfo
from routerretriever.routing.pilot_library import FEEDBACK


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One state of a model's folder, and what led to it.

    Attributes:
        number: counts from 1.
        time: when it was saved, UTC.
        actions: each has ``what`` (created, found, added, removed, replaced, renamed, measured, forgotten, feedback,
            feedback undone, base, changed or rolled back) and its figures.
        base: fingerprint of the base.
        experts: name → fingerprint of the adapter; ``None`` where it could not be read.
        gains: collection → expert → mean measured gain in nDCG@10.
        files: path below the model's folder → digest of the content.
    """

    number: int
    time: str
    actions: tuple[Mapping[str, Any], ...]
    base: str
    experts: Mapping[str, str | None]
    gains: Mapping[str, Mapping[str, float]]
    files: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def actions_between(
    last: Entry | None,
    new: Entry,
    infos: Mapping[str, ExpertInfo],
    generated: Container[str],
) -> list[dict[str, Any]]:
    """Return what was done to experts, gains and feedback between two states.

    Args:
        last: the state before; ``None`` if there was none.
        new: the state after; its own actions are not read.
        infos: expert of the new state → what is known of it.
        generated: collections whose gains were measured on generated queries.
    """
    actions = _expert_actions(last, new, infos)
    actions += _gain_actions(last, new, generated)
    actions += _feedback_actions(_batches(last), _batches(new))
    return actions


def _expert_actions(last: Entry | None, new: Entry, infos: Mapping[str, ExpertInfo]) -> list[dict[str, Any]]:
    old: dict[str, str | None] = {}
    if last is not None:
        old = dict(last.experts)
    actions: list[dict[str, Any]] = []
    for name, version in new.experts.items():
        figures = {"expert": name, "fingerprint": version, **_figures(infos[name])}
        if name in old:
            if old[name] != version:
                actions.append({"what": "replaced", **figures, "was": old[name]})
        elif was := _renamed(old, new.experts, version):
            actions.append({"what": "renamed", "expert": name, "was": was})
            del old[was]
        else:
            actions.append({"what": "added", **figures})
    for name, version in old.items():
        if name not in new.experts:
            actions.append({"what": "removed", "expert": name, "fingerprint": version})
    return actions


def _renamed(old: Mapping[str, str | None], new: Mapping[str, str | None], version: str | None) -> str | None:
    for name, known in old.items():
        if known == version and name not in new:
            return name
    return None


def _figures(info: ExpertInfo) -> dict[str, Any]:
    if not info.held_out:
        return {"collection": info.collection}
    return {
        "collection": info.collection,
        "queries": info.queries,
        "held_out": info.held_out,
        "base_ndcg": info.base_ndcg,
        "expert_ndcg": info.expert_ndcg,
        **_selection(info),
        **_mark(info.gain_on_generated),
    }


def _selection(info: ExpertInfo) -> dict[str, Any]:
    """Return which held-out queries chose an expert, where that was noted."""
    if not info.selection:
        return {}
    return {
        "selection": str(info.selection),
        "selected_by": info.selected_by,
        "selection_gain": info.selection_gain,
        "p_value": info.p_value,
    }


def _mark(generated: bool) -> dict[str, bool]:
    """Return what an action carries if its gains were measured on generated queries."""
    if not generated:
        return {}
    return {"generated": True}


def _gain_actions(last: Entry | None, new: Entry, generated: Container[str]) -> list[dict[str, Any]]:
    """What was measured: gains that are new or another; a renamed expert's are neither."""
    versions: Mapping[str, str | None] = {}
    before: Mapping[str, Mapping[str, float]] = {}
    if last is not None:
        versions, before = last.experts, last.gains
    by_version = {version: name for name, version in versions.items()}
    actions: list[dict[str, Any]] = []
    for collection, gains in _of_collections(new.gains).items():
        known = before.get(collection, {})
        fresh = {}
        for name, gain in gains.items():
            version = new.experts[name]
            was = name
            if versions.get(name) != version:  # renamed, or trained again
                was = by_version.get(version, "")
            if known.get(was) != gain:
                fresh[name] = gain
        if fresh:
            mark = _mark(collection in generated)
            actions.append({"what": "measured", "collection": collection, "gains": fresh, **mark})
    for collection in _of_collections(before):
        if collection not in new.gains:
            actions.append({"what": "forgotten", "collection": collection})
    return actions


def _of_collections(gains: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    return {name: means for name, means in gains.items() if not name.startswith(FEEDBACK)}


def _batches(entry: Entry | None) -> dict[str, dict[str, Mapping[str, float]]]:
    """Batch of feedback → group of its queries → gains."""
    batches: dict[str, dict[str, Mapping[str, float]]] = {}
    if entry is None:
        return batches
    for name, gains in entry.gains.items():
        if name.startswith(FEEDBACK):
            batch, _, group = name.removeprefix(FEEDBACK).partition("/")
            batches.setdefault(batch, {})[group] = gains
    return batches


def _feedback_actions(
    old: Mapping[str, Mapping[str, Mapping[str, float]]], new: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> list[dict[str, Any]]:
    actions: list[dict[str, Any]] = []
    for name, groups in new.items():
        if name not in old:
            actions.append({"what": "feedback", "batch": name, "groups": groups})
    for name in old:
        if name not in new:
            actions.append({"what": "feedback undone", "batch": name})
    return actions
