"""Save and load pilot libraries: ``pilots.safetensors`` and ``pilots.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from routerretriever.errors import LibraryError
from routerretriever.routing.abstention import PilotSpace
from routerretriever.routing.gain_table import copy_with_room
from routerretriever.routing.pilot_library import FEEDBACK, FeedbackBatch, PilotLibrary
from routerretriever.routing.relevance import RelevanceTable
from routerretriever.routing.word_gains import WordGains
from routerretriever.words.weights import WEIGHTS

LIBRARY_FORMAT = 2
"""1 is written where there is no feedback; earlier versions would take its pilots for judged ones."""
RELEVANCE = "relevance:"
"""Prefix of the tensors with the judged hits of a collection."""
PILOT_TENSORS, PILOT_INFO = "pilots.safetensors", "pilots.json"


def save_pilots(library: PilotLibrary, directory: Path, **info: Any) -> None:
    """Write a library into a folder; ``info`` is added to ``pilots.json``."""
    save_file(_tensors(library), directory / PILOT_TENSORS)
    text = json.dumps(_description(library, info), ensure_ascii=False, indent=1)
    (directory / PILOT_INFO).write_text(text, encoding="utf-8")


def load_pilots(directory: Path) -> tuple[PilotLibrary, dict[str, Any]]:
    """Return the library in a folder and the content of ``pilots.json``.

    Raises:
        LibraryError: the files are damaged, or of a newer format.
    """
    try:
        tensors = load_file(directory / PILOT_TENSORS)
        info = json.loads((directory / PILOT_INFO).read_text(encoding="utf-8"))
        if info["format_version"] > LIBRARY_FORMAT:
            raise LibraryError(
                f"{directory / PILOT_INFO} has format {info['format_version']}, but this version reads "
                f"formats up to {LIBRARY_FORMAT}. Upgrade routerretriever."
            )
        return _library(tensors, info), info
    except (OSError, ValueError, TypeError, KeyError, IndexError, SafetensorError) as error:
        raise LibraryError(
            f"The pilot library in {directory} is damaged ({type(error).__name__}: {error}). Build it "
            "again with: routerretriever library MODEL COLLECTION…"
        ) from error


def _tensors(library: PilotLibrary) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {
        "centroids": np.ascontiguousarray(library.centroids),
        "gains": np.ascontiguousarray(library.gains),
        "counts": np.ascontiguousarray(library.counts),
    }
    space = library.space
    if space is not None:
        tensors |= {"mean": space.mean, "whitening": space.whitening, "density": space.density}
    if library.words is not None:
        tensors["words"] = library.words.values.astype(np.float16)
    if library.relevance is not None:
        for name, samples in library.relevance.samples.items():
            tensors[f"{RELEVANCE}{name}"] = samples.astype(np.float16)
    return tensors | {f"{FEEDBACK}{batch.id}": batch.lines for batch in library.feedback}


def _description(library: PilotLibrary, info: dict[str, Any]) -> dict[str, Any]:
    """Return the content of ``pilots.json``; its keys are those of the first version."""
    space, thresholds = library.space, None
    if space is not None:
        thresholds = {"unsure": space.reject_threshold, "sure": space.trust_threshold}
    batches = []
    for batch in library.feedback:
        batches.append({"id": batch.id, "weight": batch.weight, "info": dict(batch.info)})
    description = {
        "format_version": LIBRARY_FORMAT if batches else 1,
        **info,
        "experts": library.experts,
        "measured_with": dict(library.versions),
        "familiarity": thresholds,
        "collections": library.groups(),
        "sources": library.group_numbers().tolist(),
        "examples": library.examples,
    }
    if batches:
        description["feedback"] = batches
    if library.words is not None:
        description["words"] = {"weights": WEIGHTS, "experts": dict(library.words.experts)}
    if library.generated:
        description["generated"] = dict(library.generated)
    if library.relevance is not None:
        description["relevance"] = library.relevance.to_dict()
    return description


def _library(tensors: dict[str, NDArray[Any]], info: dict[str, Any]) -> PilotLibrary:
    thresholds, space = info["familiarity"], None
    if thresholds:
        space = PilotSpace(
            mean=tensors["mean"],
            whitening=tensors["whitening"],
            density=tensors["density"],
            reject_threshold=thresholds["unsure"],
            trust_threshold=thresholds["sure"],
        )
    batches = []
    for row in info.get("feedback", ()):
        lines = tensors[f"{FEEDBACK}{row['id']}"]
        batch = FeedbackBatch(id=row["id"], weight=row["weight"], lines=lines, info=row["info"])
        batches.append(batch)
    gains = tensors["gains"]
    return PilotLibrary(
        experts=tuple(info["experts"]),
        centroids=tensors["centroids"],
        gains=copy_with_room(gains, gains.shape[1]),
        counts=tensors["counts"],
        sources=tuple(info["collections"][number] for number in info["sources"]),
        examples=tuple(info["examples"]),
        space=space,
        versions=info.get("measured_with", {}),
        feedback=tuple(batches),
        generated=info.get("generated", {}),
        words=_words(tensors, info),
        relevance=_relevance(tensors, info),
    )


def _words(tensors: dict[str, NDArray[Any]], info: dict[str, Any]) -> WordGains | None:
    """Return what words gained; ``None`` if that was not measured, or with other weights than today's."""
    measured = info.get("words")
    if measured is None or tuple(measured["weights"]) != WEIGHTS:
        return None
    return WordGains(values=tensors["words"].astype(np.float32), experts=measured["experts"])


def _relevance(tensors: dict[str, NDArray[Any]], info: dict[str, Any]) -> RelevanceTable | None:
    content = info.get("relevance")
    if content is None:
        return None
    samples = {}
    for name, values in tensors.items():
        if name.startswith(RELEVANCE):
            samples[name.removeprefix(RELEVANCE)] = values.astype(np.float32)
    return RelevanceTable.from_dict(content, samples)
