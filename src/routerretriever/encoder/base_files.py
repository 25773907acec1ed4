"""The base's own files: its transformer, and the modules after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sentence_transformers.util import import_from_string
from torch import nn

from routerretriever.errors import FormatError
from routerretriever.storage.model_folder import MODEL_INFO

_TRUSTED = "sentence_transformers."  # the only package whose classes a model's files may name


def save_head(head: Iterable[nn.Module], root: Path) -> list[dict[str, str]]:
    """Save the modules after the transformer, and return where each is and which class it has."""
    parts = []
    for number, module in enumerate(head, start=1):
        kind = type(module)
        folder = f"{number}_{kind.__name__}"
        (root / folder).mkdir(exist_ok=True)
        module.save(str(root / folder))  # type: ignore[operator]
        parts.append({"path": folder, "type": f"{kind.__module__}.{kind.__name__}"})
    return parts


def load_head(root: Path, parts: Sequence[Mapping[str, str]]) -> list[nn.Module]:
    """Load what :func:`save_head` saved.

    Raises:
        FormatError: a class is not one of Sentence Transformers' own.
    """
    head: list[nn.Module] = []
    for part in parts:
        if not part["type"].startswith(_TRUSTED):
            raise FormatError(
                f"{root / MODEL_INFO} names the module {part['type']}, which is not loaded. Restore the file."
            )
        kind: Any = import_from_string(part["type"])
        head.append(kind.load(str(root / part["path"])))
    return head
