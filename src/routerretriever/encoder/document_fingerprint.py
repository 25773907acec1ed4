"""What decides document vectors, as one hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping


def pair_fingerprint(queries: str, documents: str) -> str:
    """Return a hash of two encoders: of queries, and of documents."""
    return hashlib.blake2b(f"{queries} {documents}".encode(), digest_size=16).hexdigest()


def document_fingerprint(base: str, prompts: Mapping[str, str | None]) -> str:
    """Return a hash of everything that decides document vectors.

    Args:
        base: fingerprint of the base.
        prompts: name → prompt; that of queries does not count.
    """
    counting = {name: prompt for name, prompt in prompts.items() if name != "query" and prompt}
    if not counting:
        return base
    content = json.dumps(counting, sort_keys=True).encode()
    return f"{base}-{hashlib.blake2b(content, digest_size=8).hexdigest()}"
