"""Which engine opens a saved model."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

from routerretriever.engine.compiled_model import CompiledModel
from routerretriever.engine.engine_info import fresh_engine_info, has_engine
from routerretriever.errors import EngineError, FormatError, ModelError
from routerretriever.storage.model_folder import read_model_info

logger = logging.getLogger(__name__)

ENGINES = ("auto", "torch", "onnx")
"""What may compute a model's vectors."""


def opened_engine(
    folder: Path,
    named: str | Path,
    *,
    engine: str,
    device: str | None = None,
    threads: int | None = None,
) -> CompiledModel | None:
    """Open the compiled engine of a saved model, or return ``None`` where torch is to load the model.

    Args:
        folder: of the model.
        named: what the caller named, for messages.
        engine: one of :data:`ENGINES`.
        device: torch device; any but ``cpu`` needs torch.
        threads: that one batch uses; default one a core.

    Raises:
        EngineError: there is no engine that can be used, and torch was not asked for or is not installed.
        FormatError: the model is missing, damaged, or of a newer format.
        ModelError: there is no such engine.
    """
    if engine not in ENGINES:
        raise ModelError(f"There is no engine '{engine}'. Choose one of: {', '.join(ENGINES)}.")
    if not folder.is_dir():
        raise FormatError(
            f"There is no model at {named}. Create one with: routerretriever train {named} COLLECTION"
        )
    if engine == "onnx" or (engine == "auto" and _is_usable(folder, device)):
        return CompiledModel.load(folder, threads=threads)
    return None


def _is_usable(folder: Path, device: str | None) -> bool:
    """Return whether ``auto`` takes the engine; without torch there is no choice."""
    if device not in (None, "cpu"):
        return False
    if find_spec("torch") is None:
        return True
    if not has_engine(folder):
        return False
    try:
        fresh_engine_info(folder, read_model_info(folder))
    except EngineError as error:
        logger.warning("%s Until then torch is used.", error)
        return False
    return True
