"""The base's own files: its first module, and the modules after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sentence_transformers.base.modules import InputModule, Transformer
from sentence_transformers.util import import_from_string
from torch import nn

from routerretriever.encoder.onnx_encoder import OnnxEncoder
from routerretriever.encoder.remote_embedding import RemoteEmbedding
from routerretriever.errors import FormatError, ModelError
from routerretriever.storage.model_folder import BODY, HEAD, MODEL_INFO

TRUSTED = "sentence_transformers."
"""The only other package whose classes a model's files may name."""
_OWN: dict[str, Any] = {
    "routerretriever.RemoteEmbedding": RemoteEmbedding,
    "routerretriever.OnnxEncoder": OnnxEncoder,
}
"""What saved models name → our own first modules; the names never change."""


def save_base_modules(
    body: InputModule, head: Iterable[nn.Module], root: Path, *, opened: bool
) -> dict[str, Any]:
    """Save the modules of a base, and return where each is and which class it has.

    Args:
        body: the first module. A transformer is saved at the root, where ``AutoModel`` looks for it.
        head: the modules after it.
        root: folder of the model.
        opened: whether experts may change its layers.
    """
    described: dict[str, Any] = {HEAD: []}
    if isinstance(body, Transformer):
        body.save(str(root))
        first = {"path": "", "type": _type(body)}
    else:
        first = _saved(body, root, 0)
    if not opened:
        described[BODY] = first
    for number, module in enumerate(head, start=1):
        described[HEAD].append(_saved(module, root, number))
    return described


def load_base_modules(
    root: Path, info: Mapping[str, Any], **kwargs: Any
) -> tuple[InputModule, list[nn.Module], bool]:
    """Load what :func:`save_base_modules` saved.

    Returns:
        The first module, those after it, and whether experts may change layers of the base.

    Raises:
        FormatError: a class is not one of Sentence Transformers' own.
    """
    head = [_loaded(root, part) for part in info[HEAD]]
    first = info.get(BODY)
    if first is None or first["path"] == "":
        return Transformer.load(str(root), **kwargs), head, first is None
    return _loaded(root, first), head, False


def check_types(modules: Iterable[nn.Module]) -> None:
    """Refuse modules that could be saved but not loaded again.

    Raises:
        ModelError: names a class that is not one of Sentence Transformers' own.
    """
    for module in modules:
        if not _is_known(_type(module)):
            raise ModelError(
                f"The base has a module of its own making, {_type(module)}, which a saved model cannot load "
                "without running code from its folder. Use a base of Sentence Transformers' own modules."
            )


def is_plain(module: nn.Module) -> bool:
    """Return whether Sentence Transformers can load a module without this package."""
    return _type(module).startswith(TRUSTED)


def _type(module: nn.Module) -> str:
    for name, own in _OWN.items():
        if type(module) is own:
            return name
    return f"{type(module).__module__}.{type(module).__name__}"


def _is_known(name: str) -> bool:
    return name in _OWN or name.startswith(TRUSTED)


def _saved(module: Any, root: Path, number: int) -> dict[str, str]:
    folder = f"{number}_{type(module).__name__}"
    (root / folder).mkdir(exist_ok=True)
    module.save(str(root / folder))
    return {"path": folder, "type": _type(module)}


def _loaded(root: Path, part: Mapping[str, str]) -> Any:
    if not _is_known(part["type"]):
        raise FormatError(
            f"{root / MODEL_INFO} names the module {part['type']}, which is not loaded. Restore the file."
        )
    kind: Any = _OWN.get(part["type"]) or import_from_string(part["type"])
    return kind.load(str(root / part["path"]))
