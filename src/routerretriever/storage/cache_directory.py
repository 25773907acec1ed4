"""Where everything is kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """Return ``$ROUTERRETRIEVER_CACHE``, or ``routerretriever`` in the user's cache folder."""
    if configured := os.environ.get("ROUTERRETRIEVER_CACHE"):
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "routerretriever"
