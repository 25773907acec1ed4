"""Which door a source comes through: shards and collections, or files of one document each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from routerretriever.data.document import Document
from routerretriever.data.names import (
    DATA_SUFFIXES,
    FILE_SUFFIXES,
    check_collection_name,
    collection_name,
)
from routerretriever.errors import CollectionError
from routerretriever.index.build.chunks import SHARD_SUFFIXES, Listing, Problem, chunks_of, list_chunks
from routerretriever.index.build.paths import suffix_of
from routerretriever.index.build.settings import BuildSettings
from routerretriever.progress import Progress

_ABOUT_THE_FOLDER = ("readme", "license", "licence", "changelog", "citation", "notice", "contributing")
_SHOWN = 2


def listing_of(
    source: str | Path | Iterable[Document],
    collection: str | None,
    settings: BuildSettings,
    *,
    strict: bool = True,
    progress: Progress | None = None,
) -> Listing:
    """Cut a source, or documents in memory, into chunks of a collection.

    Args:
        source: as for :func:`routerretriever.index.build.chunks.list_chunks`, a folder of files, or
            documents.
        collection: its name; default the source's.
        settings: which files are read, and how.
        strict: as for :meth:`Collection.load`.
        progress: where to report.

    Raises:
        CollectionError: the source cannot be read, or a document or the name cannot be
            stored.
        MissingExtraError: the packages that read files are not installed.
    """
    if not isinstance(source, str | Path):
        listing = Listing("documents", tuple(chunks_of(source)))
    elif holds_files(source, settings):
        listing = _files_of(Path(source).expanduser(), settings, progress)
    else:
        listing = list_chunks(source, strict=strict)
    return replace(listing, name=check_collection_name(collection or listing.name))


def decided(settings: BuildSettings, listing: Listing) -> BuildSettings:
    """Return the settings with what is to be pruned decided by what could be listed."""
    if settings.prune != "if-listed":
        return settings
    return replace(settings, prune=not listing.unlisted)


def holds_files(source: str | Path, settings: BuildSettings) -> bool:
    """Return whether a source is files of one document each.

    A folder with a ``corpus`` of BEIR, or with shards alone, is none; a README or the like beside
    shards is about them.

    Raises:
        CollectionError: it holds shards and files, and nobody said which are meant.
    """
    path = Path(source).expanduser()
    if settings.read_as == "shards" or "://" in str(source) or not path.exists():
        return False
    if settings.read_as == "files":
        return True
    if path.is_file():
        suffix = path.suffix.lower()
        return suffix in FILE_SUFFIXES and suffix not in DATA_SUFFIXES
    return _folder_holds_files(path)


def _folder_holds_files(folder: Path) -> bool:
    shards, files = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue
        is_shard = suffix_of(name) in SHARD_SUFFIXES
        if is_shard and name.startswith("corpus."):
            return False
        if is_shard and not any(part.startswith("_") for part in name.split("/")):
            shards.append(name)
        elif path.suffix.lower() in FILE_SUFFIXES and path.stem.lower() not in _ABOUT_THE_FOLDER:
            files.append(name)
    if shards and files:
        raise CollectionError(
            f"{folder} holds shards of documents ({', '.join(islice(shards, _SHOWN))}) and files "
            f"({', '.join(islice(files, _SHOWN))}). Say which are meant: --as shards, or --as files."
        )
    return bool(files) or (not shards and any(folder.glob("*.[Mm][Dd]")))


def _files_of(path: Path, settings: BuildSettings, progress: Progress | None) -> Listing:
    # Inside the function: reading files needs an extra.
    from routerretriever.files.reading import check_can_prune, read_files
    from routerretriever.files.scan import scan

    found = scan(path, settings.ignore)
    if settings.prune is True:
        check_can_prune(found)
    read = read_files(found, progress=progress)
    problems = tuple(Problem(name, reason) for name, reason in sorted(read.unread.items()))
    return Listing(
        collection_name(path),
        tuple(chunks_of(read.documents)),
        unread=problems,
        unlisted=tuple(found.unlisted),
        other_files=read.other,
    )
