"""The model that an index was made with, found again by what the index recorded."""

from __future__ import annotations

from pathlib import Path

from routerretriever.errors import VectorIndexError
from routerretriever.index.encoder import Encoder
from routerretriever.opening import open_model
from routerretriever.storage.hub_download import downloaded, is_hub_name


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
    if not place or not Path(place).is_dir():
        raise VectorIndexError(
            f"The model of the index {index} is no longer at '{place}'. Say where it is: --model PATH"
        )
    return open_model(place, engine=engine)
