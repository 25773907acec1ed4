"""The one rule that names a collection after its source, and what a name may be."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from routerretriever.data.text import is_text, stable_hash
from routerretriever.errors import CollectionError

JSONL_SUFFIXES = (".jsonl", ".ndjson")
DATA_SUFFIXES = (*JSONL_SUFFIXES, ".json", ".csv", ".tsv", ".parquet")
FILE_SUFFIXES = (
    *(".md", ".markdown", ".txt", ".text", ".rst", ".html", ".htm", ".xhtml"),
    *(".pdf", ".docx", ".pptx", ".csv", ".eml"),
)
"""Files of one document each, which the extra ``files`` reads."""

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
COMPRESSED_SUFFIXES = tuple(_COMPRESSIONS)

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NOT_IN_FILE_NAMES = re.compile(r"^\.|[. ]$|[^\w.,+=@() -]")
_RESERVED_BY_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_FILE_NAME_BYTES = 120


def collection_name(source: str | Path) -> str:
    """Return the name of the collection that is read from a source.

    The name is the last part of the path, URI, hub name or ir_datasets id. Files lose
    their data suffix, such as ``.jsonl.gz`` or ``.csv``; folders keep the whole name. A
    link has its own name, not that of its target.

    Raises:
        CollectionError: the source has no name of its own, as the root folder has none.
    """
    text = str(source)
    path = Path(text).expanduser()

    if "://" in text:
        last = urlsplit(text).path.split("/")[-1]
        name = without_data_suffix(last) or text.rstrip("/").split("/")[-1]
    elif path.exists():
        last = path.resolve().name if path.name in ("", "..") else path.name
        name = last if path.is_dir() else without_data_suffix(last)
    else:
        name = text.replace(":", "/").rstrip("/").split("/")[-1]

    if not name:
        raise CollectionError(
            f"'{source}' has no name that its collection could take. "
            "Give the collection a name (command line: --collection)."
        )
    return name


def check_collection_name(name: str) -> str:
    """Return the name itself.

    Raises:
        CollectionError: it is no text, or holds a control character or half of a
            surrogate pair.
    """
    if not isinstance(name, str):
        raise CollectionError(f"A collection's name is a text, not {name!r:.60}.")
    if _CONTROL.search(name) or not is_text(name):
        raise CollectionError(
            f"The collection's name {name!r} holds a control character. Give it another name."
        )
    return name


def file_name_of(name: str) -> str:
    """Return a file name for a name, the same one each time and another one for another name.

    What a file system could refuse or read as a path is written as in URLs. A name that
    is too long is cut, and a hash of all of it is put behind.
    """
    written = _NOT_IN_FILE_NAMES.sub(lambda found: _in_hexadecimal(found[0]), name)
    if _RESERVED_BY_WINDOWS.match(written):
        written = _in_hexadecimal(written[0]) + written[1:]
    content = written.encode()
    if len(content) > _FILE_NAME_BYTES:
        written = content[:_FILE_NAME_BYTES].decode(errors="ignore") + f"%{stable_hash(name)}"
    return written


def _in_hexadecimal(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def without_data_suffix(file_name: str) -> str:
    """Return a file name without ``.jsonl``, ``.csv.gz`` and the like, in any case."""
    stem = file_name
    for suffixes in (COMPRESSED_SUFFIXES, DATA_SUFFIXES):
        cut = next((s for s in suffixes if stem.lower().endswith(s)), "")
        stem = stem[: len(stem) - len(cut)]
    return stem or file_name


def data_suffix(file_name: str) -> str:
    """Return the kind of a data file, such as ``.csv`` for ``pairs.CSV.gz``; else ``""``."""
    name = file_name.lower()
    for compressed in COMPRESSED_SUFFIXES:
        name = name.removesuffix(compressed)
    return next((suffix for suffix in DATA_SUFFIXES if name.endswith(suffix)), "")


def compression_of(file_name: str) -> str | None:
    """Return how a file is compressed, as Arrow calls it."""
    return next((kind for end, kind in _COMPRESSIONS.items() if file_name.lower().endswith(end)), None)
