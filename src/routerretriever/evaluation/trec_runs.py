"""Write rankings as TREC run files, which trec_eval and its kin read.

Their columns are divided by white space, which an id may hold as well: there it is written
as in URLs, ``%20`` for a space, and so is a ``%`` that looks like the beginning of such a
sign. ``urllib.parse.unquote`` gives the id back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from routerretriever.data.names import file_name_of

_TO_QUOTE = re.compile(r"\s|[\x00-\x1f\x7f\ufeff]|%(?=[0-9A-Fa-f]{2})")


def write_trec_run(run: Mapping[str, Mapping[str, float]], path: Path, tag: str) -> None:
    """Write a run: query id → document id → score, best first.

    Scores keep nine digits, so that no reader meets a tie that was none.
    """
    lines = []
    for query_id, ranked in run.items():
        query = trec_id(query_id)
        for rank, (document_id, score) in enumerate(ranked.items(), start=1):
            lines.append(f"{query} Q0 {trec_id(document_id)} {rank} {score:.9g} {trec_id(tag)}\n")
    path.write_bytes("".join(lines).encode())


def run_file_name(collection: str, tag: str) -> str:
    """Return the name of the file for the run of one system on a collection."""
    return f"{file_name_of(collection)}.{file_name_of(tag)}.trec"


def trec_id(given: str) -> str:
    """Return an id without white space."""
    return _TO_QUOTE.sub(lambda found: quote(found[0]), given)
