"""Compile a saved model: write the engine that answers queries without torch."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from routerretriever.engine.engine_info import (
    ENGINE,
    ENGINE_INFO,
    FP32,
    PRECISIONS,
    fresh_engine_info,
)
from routerretriever.engine.export import export_engine
from routerretriever.errors import EngineError, FormatError
from routerretriever.model import RouterRetriever
from routerretriever.storage.hub_download import own_folder
from routerretriever.storage.locks import changing
from routerretriever.storage.model_folder import DOCUMENTS, read_json, read_model_info


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledEngine:
    """A compiled engine.

    Attributes:
        folder: where it is.
        written: whether it was written now; ``False`` if it fitted already.
        bytes: of its files.
        precision: in which queries are encoded.
        seconds: that it took.
    """

    folder: str
    written: bool
    bytes: int
    precision: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def compile_model(path: str | Path, *, precision: str | None = None, again: bool = False) -> CompiledEngine:
    """Write the engine of a saved model beside it; one that fits the base already is left as it is.

    Experts and pilots may change afterwards: the engine reads them from the model's own files.

    Args:
        path: folder of the model.
        precision: in which queries are encoded: ``fp32``, or ``int8``, which takes about half the time and
            changes vectors a little. Default what a former engine has, or ``fp32``.
        again: export even if the engine fits.

    Raises:
        EngineError: the base cannot be exported.
        LockedError: another process is changing the model.
        ModelError: the model cannot be loaded, or is not a folder of one's own.
        StorageError: the engine could not be written.
    """
    started = time.perf_counter()
    folder = own_folder(path)
    read_model_info(folder)  # before the lock: what is no model is refused at once
    with changing(folder):
        precision = precision or _former_precision(folder)
        written = again or not _fits(folder, precision)
        if written:
            model = RouterRetriever.from_pretrained(folder, device="cpu")
            prompts = {prompt for prompt in (model.query_prompt, model.document_prompt) if prompt}
            encoder = model.encoder
            export_engine(encoder, sorted(prompts), folder, precision=precision)
            if encoder.documents is not encoder:
                export_engine(encoder.documents, sorted(prompts), folder / DOCUMENTS)
    model_info = read_model_info(folder)
    infos = [fresh_engine_info(folder, model_info)]
    if DOCUMENTS in model_info:
        infos.append(fresh_engine_info(folder / DOCUMENTS, model_info[DOCUMENTS]))
    return CompiledEngine(
        folder=str(folder / ENGINE),
        written=written,
        precision=infos[0].precision,
        bytes=sum(size for info in infos for size in info.sizes.values()),
        seconds=time.perf_counter() - started,
    )


def _fits(folder: Path, precision: str) -> bool:
    """Return whether a model has a whole engine of its own base in a precision."""
    try:
        return fresh_engine_info(folder, read_model_info(folder)).precision == precision
    except EngineError:
        return False


def _former_precision(folder: Path) -> str:
    """Return the precision of the engine that is there, even a stale or damaged one; ``fp32`` if none says."""
    try:
        former = read_json(folder / ENGINE / ENGINE_INFO).get("precision")
    except FormatError:
        return FP32
    return former if former in PRECISIONS else FP32
