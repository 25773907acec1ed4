"""Which save of a model is on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from routerretriever.storage.model_folder import MODEL_INFO


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedVersion:
    """Which save of a model a folder holds, told by the file that describes the model.

    Attributes:
        file: inode of that file; every save writes another.
        modified: when it was written, in nanoseconds.
        size: in bytes.
    """

    file: int
    modified: int
    size: int

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """Return the version on disk; ``None`` if there is no model, if only for a moment."""
        try:
            status = (folder / MODEL_INFO).stat()
        except OSError:
            return None
        return cls(file=status.st_ino, modified=status.st_mtime_ns, size=status.st_size)
