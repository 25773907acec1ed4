"""The one rule that names a collection after its source."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from routerretriever.errors import CollectionError

JSONL_SUFFIXES = (".jsonl", ".ndjson")
DATA_SUFFIXES = (*JSONL_SUFFIXES, ".json", ".csv", ".tsv", ".parquet")
COMPRESSED_SUFFIXES = (".gz", ".zst")


def collection_name(source: str | Path) -> str:
    """Return the name of the collection that is read from a source.

    The name is the last part of the path, URI, hub name or ir_datasets id. Files lose
    their data suffix, such as ``.jsonl.gz`` or ``.csv``; folders keep the whole name.

    Raises:
        CollectionError: the source has no name of its own, as the root folder has none.
    """
    text = str(source)
    path = Path(text).expanduser()

    if "://" in text:
        last = urlsplit(text).path.split("/")[-1]
        name = without_data_suffix(last) or text.rstrip("/").split("/")[-1]
    elif path.exists():
        resolved = path.resolve()
        name = resolved.name if path.is_dir() else without_data_suffix(resolved.name)
    else:
        name = text.replace(":", "/").rstrip("/").split("/")[-1]

    if not name:
        raise CollectionError(
            f"'{source}' has no name that its collection could take. "
            "Give the collection a name (command line: --collection)."
        )
    return name


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
