"""Read the files of a folder as documents, in child processes with limits of time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from routerretriever.data.document import Document
from routerretriever.errors import CollectionError
from routerretriever.files.cache import ContentCache, digest_of
from routerretriever.files.content import Content
from routerretriever.files.formats import suffix_of
from routerretriever.files.scan import FoundFile, Scan
from routerretriever.progress import Progress, Silent

SECONDS = 60.0
"""That a file may take."""

_PROCESSES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderContent:
    """What was read of a folder.

    Attributes:
        documents: one for each file, in the order of their names.
        unread: name → why it could not be read.
        other: suffix → files of kinds that nothing here reads.
    """

    documents: tuple[Document, ...]
    unread: dict[str, str]
    other: dict[str, int]


def read_files(
    found: Scan,
    *,
    cache: ContentCache | None = None,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> FolderContent:
    """Read files as documents, whose ids are their names.

    Args:
        found: the files.
        cache: keeps what files gave; default the one in the cache folder.
        seconds: that a file may take.
        progress: where to report.

    Raises:
        StorageError: the cache cannot be used.
    """
    kept = cache or ContentCache()
    unread = dict(found.unread)
    documents: list[Document] = []
    local = threading.local()
    children: list[_Child] = []

    def read(file: FoundFile) -> dict[str, Any]:
        outcome = _known(file, kept)
        if outcome is None:
            if not hasattr(local, "child"):
                local.child = _Child(seconds)
                children.append(local.child)
            outcome = local.child.read(file)
            if outcome.get("digest"):
                kept.put(_key(file, outcome["digest"]), outcome)
        return outcome

    try:
        with (
            ThreadPoolExecutor(min(_PROCESSES, os.cpu_count() or 1)) as pool,
            (progress or Silent()).task("read files", len(found.files)) as task,
        ):
            for file, outcome in zip(found.files, pool.map(read, found.files), strict=True):
                task.advance()
                if "problem" in outcome:
                    unread[file.name] = outcome["problem"]
                else:
                    documents.append(_document(file, Content.from_dict(outcome["content"])))
    finally:
        for child in children:
            child.end()
        if cache is None:
            kept.close()
    return FolderContent(documents=tuple(documents), unread=unread, other=found.other)


def _known(file: FoundFile, cache: ContentCache) -> dict[str, Any] | None:
    try:
        return cache.get(_key(file, digest_of(file.path)))
    except OSError as error:
        return {"problem": f"it cannot be opened ({error.strerror})."}


def _key(file: FoundFile, digest: str) -> str:
    return f"{digest}{suffix_of(file.name)}"


def _document(file: FoundFile, content: Content) -> Document:
    modified = datetime.fromtimestamp(file.modified // 1_000_000_000, UTC)
    return Document(
        id=file.name,
        text=_whole_characters(content.text),
        title=_whole_characters(content.title) or Path(file.name).stem,
        metadata={
            "path": file.name,
            "type": suffix_of(file.name).removeprefix("."),
            "modified": modified.isoformat().removesuffix("+00:00") + "Z",
        },
        sections=content.sections,
    )


def _whole_characters(text: str) -> str:
    """Return a text of the same length without halves of surrogate pairs and without zeros."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", " ")


class _Child:
    """A process that reads files; a new one is started when it was ended."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: Queue[bytes] = Queue()

    def read(self, file: FoundFile) -> dict[str, Any]:
        """Return what a file gave: its content or the problem, and the digest of what was read."""
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(str(file.path)).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            self.end()
            return {"problem": "the process that reads files ended."}
        line = self._line()
        if line is None:
            self.end()
            return {"problem": f"reading it takes more than {self._seconds:g} seconds."}
        if not line:
            self.end()
            return {"problem": "reading it needs too much memory, or breaks the library that reads it."}
        outcome: dict[str, Any] = json.loads(line)
        return outcome

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            process = self._process
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "routerretriever.files.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._lines = Queue()
            threading.Thread(target=_pass_on, args=(self._process, self._lines), daemon=True).start()
        return self._process

    def _line(self) -> bytes | None:
        """Return the next line; ``None`` if it does not come in time, nothing if the process ended."""
        try:
            return self._lines.get(timeout=self._seconds)
        except Empty:
            return None


def _pass_on(process: subprocess.Popen[bytes], lines: Queue[bytes]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(b"")


def check_can_prune(found: Scan) -> None:
    """Refuse to delete documents whose files may be there, in folders that could not be listed.

    Raises:
        CollectionError: there are such folders.
    """
    if found.unlisted:
        raise CollectionError(
            f"'{found.unlisted[0]}' cannot be listed, so nobody knows which of its files are gone. "
            "Make it readable, or leave out --prune."
        )
