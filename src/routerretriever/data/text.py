"""What a text may hold, when two texts are the same, and a hash that never changes."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

from routerretriever.errors import CollectionError, QueryError

HALF_CHARACTER = "it holds half of a surrogate pair (such as \\ud800), which is no character. Remove it."
EMPTY_QUERY = "The query is empty. Write at least one word."
_EDGES = " .,;:!?\"'"


def is_text(value: str) -> bool:
    """Return whether a string can be stored: JSON can spell half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_text(text: str, where: str) -> str:
    """Return the text itself.

    Raises:
        CollectionError: it cannot be stored.
    """
    if not is_text(text):
        raise CollectionError(f"{where}: {HALF_CHARACTER}")
    return text


def check_queries(queries: Sequence[str]) -> None:
    """Refuse a query without a word, and what is no query.

    Raises:
        QueryError: there is one.
    """
    if isinstance(queries, str):
        raise QueryError("This is one text. Give a list of queries.")
    for query in queries:
        if not isinstance(query, str):
            raise QueryError(f"A query is a text, not {query!r:.60}.")
        if not query.strip():
            raise QueryError(EMPTY_QUERY)
        if not is_text(query):
            raise QueryError(f"The query {query!r:.60}: {HALF_CHARACTER}")


def text_key(text: str) -> str:
    """Return what all copies of a text share.

    This is the one rule for "the same text": case, character widths, white space, and
    punctuation at either end do not count.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(_EDGES)


def stable_hash(text: str) -> str:
    """Return sixteen hex digits that are the same on every machine and in every run."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
