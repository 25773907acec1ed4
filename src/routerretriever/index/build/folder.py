"""Small files beside the index, on a local disk or in an object store."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from routerretriever.errors import StorageError
from routerretriever.index.build.paths import open_path
from routerretriever.storage.atomic import sync


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder, or a prefix of an object store; names are relative to it.

    All methods raise :class:`StorageError` if the place cannot be used.
    """

    uri: str

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, and replace one of that name.

        On a local disk it is written through.
        """
        system, root = open_path(self.uri)
        try:
            if isinstance(system, fs.LocalFileSystem):
                _write_through(Path(root, name), content)
            else:  # objects appear when they are complete
                with system.open_output_stream(f"{root}/{name}") as stream:
                    stream.write(content)
        except OSError as error:
            raise StorageError(
                f"{self.uri}/{name} cannot be written ({error}). Free some space, or check who may write there."
            ) from error

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; ``None`` if there is no such file."""
        system, root = open_path(self.uri)
        try:
            with system.open_input_file(f"{root}/{name}") as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(
                f"{self.uri}/{name} cannot be read ({error}). Run the same command again."
            ) from error

    def names(self) -> set[str]:
        """Return the names of the files, without hidden ones."""
        system, root = open_path(self.uri)
        try:
            found = system.get_file_info(fs.FileSelector(root, allow_not_found=True))
        except OSError as error:
            raise StorageError(
                f"{self.uri} cannot be listed ({error}). Run the same command again."
            ) from error
        names = {item.base_name for item in found if item.is_file}
        return {name for name in names if not name.startswith(".")}

    def remove(self, name: str = "") -> None:
        """Remove a file, or the folder with everything in it."""
        system, root = open_path(self.uri)
        try:
            if name:
                system.delete_file(f"{root}/{name}")
            else:
                system.delete_dir(root)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"{self.uri}/{name} cannot be removed ({error}).") from error


def _write_through(target: Path, content: bytes) -> None:
    new_folders = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with staging.open("wb") as file:
            file.write(content)
        sync(staging)
        staging.replace(target)
    finally:
        staging.unlink(missing_ok=True)
    for folder in (target.parent, *(new.parent for new in new_folders)):
        sync(folder)
