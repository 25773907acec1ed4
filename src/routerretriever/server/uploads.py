"""Files that clients upload: read as a folder's are, and stored as documents."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from routerretriever.data.document import Document
from routerretriever.errors import MissingExtraError, RouterRetrieverError
from routerretriever.server.access import Access
from routerretriever.server.documents import DocumentService, check_own
from routerretriever.server.problems import ApiError
from routerretriever.server.schemas.common import MAX_ID
from routerretriever.server.settings import Limits

if TYPE_CHECKING:
    from routerretriever.files.reading import FolderContent

_MOST_WAITING = 8
"""Uploads that wait for their turn; only one is read at a time."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it came in: its name, its size in bytes, and its content."""

    name: str
    size: int
    content: BinaryIO


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file: why it was not indexed; empty if it was."""

    name: str
    problem: str = ""


class UploadService:
    """Reads uploaded files in a process with limits of memory and time, and indexes them.

    Args:
        documents: stores them.
        limits: on files.
    """

    def __init__(self, *, documents: DocumentService, limits: Limits) -> None:
        self._documents = documents
        self._limits = limits
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def add(self, uploads: Sequence[Upload], collection: str, access: Access) -> list[Outcome]:
        """Read and index files.

        Args:
            uploads: of one request.
            collection: that they become documents of; each replaces the one of its
                name.
            access: of whoever asks.

        Returns:
            What became of each file, in their order.

        Raises:
            ApiError: there are too many, the collection is not theirs, or files cannot
                be read here.
        """
        check_own(collection, access)
        if len(uploads) > self._limits.files:
            raise ApiError(
                413, f"{len(uploads)} files are over the limit of {self._limits.files}.", param="files"
            )
        if self._waiting >= _MOST_WAITING:
            raise ApiError(429, "Too many uploads are waiting.", code="overloaded", retry_after=10)
        self._waiting += 1
        try:
            async with self._turn:
                return await self._add(uploads, collection, access)
        finally:
            self._waiting -= 1

    async def _add(self, uploads: Sequence[Upload], collection: str, access: Access) -> list[Outcome]:
        problems: dict[int, str] = {}
        names: dict[str, int] = {}
        for number, upload in enumerate(uploads):
            name = document_id(upload.name)
            if problem := self._refused(name, upload.size, names):
                problems[number] = problem
            else:
                names[name] = number
        read = await asyncio.to_thread(_read, uploads, names)
        problems |= {names[name]: problem for name, problem in read.unread.items()}
        for document in read.documents:
            problem = await self._store(document, collection, access)
            if problem:
                problems[names[document.id]] = problem
        return [Outcome(upload.name, problems.get(number, "")) for number, upload in enumerate(uploads)]

    def _refused(self, name: str, size: int, names: dict[str, int]) -> str:
        """Return why a file is not read; empty if it is."""
        if not name:
            return "it has no name."
        if len(name) > MAX_ID:
            return f"its name has {len(name)} characters, over the limit of {MAX_ID}."
        if name in names:
            return "another file of this upload has the same name."
        if size > self._limits.file_bytes:
            return f"it has {size >> 20} MiB, over the limit of {self._limits.file_bytes >> 20} MiB."
        return ""

    async def _store(self, document: Document, collection: str, access: Access) -> str:
        """Index one file; return why it cannot be, if it cannot."""
        try:
            await self._documents.upsert([document], collection, access, any_length=True)
        except ApiError as error:
            if error.status != 413:  # about the server, not about this file
                raise
            return error.message
        except RouterRetrieverError as error:
            return str(error)
        return ""


def document_id(name: str) -> str:
    """Return the name of a file as a document's id: its path, without what leads out of a folder."""
    parts = [part for part in name.replace("\\", "/").split("/") if part.strip() not in ("", ".", "..")]
    kept = "".join(character for character in "/".join(parts) if character.isprintable())
    return kept.encode(errors="replace").decode().strip()


def _read(uploads: Sequence[Upload], names: dict[str, int]) -> FolderContent:
    """Write files to a folder of their own and read them; their names are never names on this machine."""
    try:
        from routerretriever.files.cache import ContentCache
        from routerretriever.files.formats import is_readable, suffix_of
        from routerretriever.files.reading import read_files
        from routerretriever.files.scan import FoundFile, Scan
    except MissingExtraError as error:
        raise ApiError(400, str(error), code="no_readers") from error

    found = Scan()
    with tempfile.TemporaryDirectory(prefix="routerretriever-upload-") as folder:
        for name, number in names.items():
            if not is_readable(name):
                kind = PurePosixPath(name).suffix or "this kind"
                found.unread[name] = f"nothing here reads files of {kind}."
                continue
            path = Path(folder) / f"{number}{suffix_of(name)}"
            with path.open("wb") as file:
                shutil.copyfileobj(uploads[number].content, file)
            found.files.append(FoundFile(name=name, path=path, modified=time.time_ns()))
        cache = ContentCache(Path(folder))  # what was uploaded leaves no copy behind
        try:
            return read_files(found, cache=cache)
        finally:
            cache.close()
