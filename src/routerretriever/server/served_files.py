"""The files of the folder that was indexed, as they may be shown or downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from routerretriever.data.names import collection_name

_SHOWN_AS_TEXT = frozenset(
    (".md", ".markdown", ".txt", ".text", ".rst", ".csv", ".html", ".htm", ".xhtml", ".eml")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedFile:
    """A file of the folder.

    Attributes:
        path: where it is.
        is_text: whether it is shown as plain text; others are downloaded.
    """

    path: Path
    is_text: bool


class ServedFiles:
    """Finds files by the names they have in the index.

    Args:
        folder: that was indexed.

    Attributes:
        collection: of its documents.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.expanduser().resolve()
        self.collection = collection_name(self._folder)

    def find(self, name: str) -> ServedFile | None:
        """Return a file by its path in the folder; ``None`` if it is not one that ``up`` would read.

        Paths that lead out of the folder, hidden files, links, and what is no plain file are none.
        """
        parts = name.split("/")
        if "\0" in name or any(not part or part.startswith(".") for part in parts):
            return None
        path = self._folder.joinpath(*parts)
        try:
            # A link anywhere on the way would lead to another path.
            if path.resolve(strict=True) != path or not path.is_file():
                return None
        except OSError:
            return None
        if not path.is_relative_to(self._folder):
            return None
        return ServedFile(path=path, is_text=path.suffix.lower() in _SHOWN_AS_TEXT)
