"""Open a saved model for queries: by its compiled engine where there is one, else by torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from routerretriever.engine.choose import opened_engine
from routerretriever.engine.compiled_model import CompiledModel
from routerretriever.extras import of_training
from routerretriever.storage.hub_download import read_folder

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever

    OpenedModel: TypeAlias = RouterRetriever | CompiledModel


def open_model(
    path: str | Path,
    *,
    engine: str = "auto",
    device: str | None = None,
    revision: str | None = None,
    threads: int | None = None,
) -> OpenedModel:
    """Open a saved model for queries and documents.

    Args:
        path: a folder, or ``user/name`` or ``user/name@revision`` on the hub.
        engine: ``onnx`` opens the engine that ``routerretriever compile`` wrote, without torch; ``torch`` loads a
            :class:`routerretriever.RouterRetriever`, which can also train; ``auto`` takes the engine if it fits the
            model, and torch otherwise.
        device: torch device; any but ``cpu`` needs torch.
        revision: of a model on the hub.
        threads: that one batch of a compiled engine uses; default one a core.

    Raises:
        EngineError: there is no engine that can be used, and torch was not asked for or is not installed.
        MissingExtraError: torch was asked for and is not installed.
        HubError: it is not on the hub, or that cannot be reached.
        FormatError: it is missing, damaged, not a RouterRetriever model, or of a newer format.
    """
    folder = read_folder(path, revision=revision)
    compiled = opened_engine(folder, path, engine=engine, device=device, threads=threads)
    if compiled is not None:
        return compiled
    # Imported here, so that whoever has an engine does without torch.
    with of_training():
        from routerretriever.model import RouterRetriever
    return RouterRetriever.from_pretrained(folder, device=device).eval()
