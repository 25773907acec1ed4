"""What is encoded together, and what is told of it afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from routerretriever.encoder.token_ids import TokenIds
from routerretriever.routing.scope import RoutingScope

RowKind = Literal["query", "document"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One text to be encoded.

    Attributes:
        content: the text, or its token ids.
        kind: whether it is a query or a document.
        expert: a candidate that is pinned; ``None`` routes a query.
        cost: its tokens, estimated.
        scope: what a query may be routed among; ``None`` for all.
        client: name of the key that asks.
    """

    content: str | TokenIds
    kind: RowKind
    expert: str | None
    cost: int
    scope: RoutingScope | None = None
    client: str = ""


class Encode(Protocol):
    """Encodes one batch, one of ``parallel`` at a time.

    It returns a result, or what went wrong, for every row.
    """

    def __call__(self, rows: Sequence[Row], parallel: int) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFacts:
    """What one batch was.

    Attributes:
        rows: how many rows it had.
        seconds: how long it ran.
        waited: how long each of its new requests had waited, in seconds.
    """

    rows: int
    seconds: float
    waited: tuple[float, ...]
