"""Which version of a file, and so of a model, is on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from routerretriever.storage.model_folder import MODEL_INFO


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedVersion:
    """Which version of a file is there; that of a model is told by the file that describes it.

    Attributes:
        file: inode of the file; every save of a model writes another.
        modified: when it was written, in nanoseconds.
        size: in bytes.
    """

    file: int
    modified: int
    size: int

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """Return the version of the model on disk; ``None`` if there is none, if only for a moment."""
        return cls.of_file(folder / MODEL_INFO)

    @classmethod
    def of_file(cls, path: Path) -> Self | None:
        """Return the version of a file; ``None`` if it is not there."""
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(file=status.st_ino, modified=status.st_mtime_ns, size=status.st_size)
