"""The model that an index was made with, found again by what the index recorded."""

from __future__ import annotations

from pathlib import Path

from routerretriever.errors import VectorIndexError
from routerretriever.index.connection import local_folder
from routerretriever.index.encoder import Encoder
from routerretriever.opening import open_model
from routerretriever.storage.hub_download import downloaded, is_hub_name
from routerretriever.storage.model_folder import MODEL_INFO


def recorded_place(model: str | Path) -> str:
    """Return a hub name as it is, and a folder as a path from the root.

    An index may be opened from another folder than the one it was made in.
    """
    return str(model) if is_hub_name(model) else str(Path(model).expanduser().resolve())


def load_recorded_model(place: str, index: str, engine: str) -> Encoder:
    """Load the model whose place the index recorded.

    Args:
        place: a path or hub name from :func:`recorded_place`; empty if none was recorded.
        index: URI of the index, for the error.
        engine: that opens it; see :func:`routerretriever.opening.open_model`.

    Raises:
        VectorIndexError: there is no model at the place.
        ModelError, HubError: the model cannot be loaded.
    """
    # Names on the hub are recorded as they are; a local folder of the same name does not
    # come first, because it was not there when the index was made.
    on_hub = bool(place) and not Path(place).is_absolute()
    if on_hub:
        return open_model(downloaded(place), engine=engine)
    if place and not Path(place).is_dir():
        place = _moved_along(place, index) or place
    if not place or not Path(place).is_dir():
        raise VectorIndexError(
            f"The model of the index {index} is no longer at '{place}'. Say where it is: --model PATH"
        )
    return open_model(place, engine=engine)


def _moved_along(place: str, index: str) -> str | None:
    """Return a model of the recorded name beside the index, where both were moved together; else ``None``."""
    folder = local_folder(index)
    if folder is None:
        return None
    beside = folder.absolute().parent / Path(place).name
    return str(beside) if (beside / MODEL_INFO).is_file() else None
