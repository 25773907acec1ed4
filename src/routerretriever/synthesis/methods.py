"""How queries can be made."""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["crops", "titles", "mixture", "doc2query", "llm"]
METHODS: tuple[Method, ...] = get_args(Method)
"""Names of all methods."""

ASKS_A_MODEL: tuple[Method, ...] = ("doc2query", "llm")
"""Methods whose answers are kept, because they take long or cost money."""
