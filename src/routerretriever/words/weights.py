"""Weights of the vectors beside the words; :mod:`routerretriever.routing.plans` chooses among them for each query."""

from __future__ import annotations

WEIGHTS = (0.975, 0.95, 0.925, 0.9, 0.85, 0.8, 0.7)
"""Weights of the vectors, 0..1, that are measured beside vectors alone (weight 1)."""

DEFAULT_WEIGHT = 0.95
"""Weight of the vectors where nothing was measured that resembles the query."""
