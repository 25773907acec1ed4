"""The fixed candidates, which every model has besides its experts."""

from __future__ import annotations

BASE, MERGED, ROUTED = "base", "merged", "routed"
