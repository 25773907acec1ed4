"""Where time goes in a request: the places that are noted, and noting nothing, as by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from starlette.types import Scope

from routerretriever.server.encode_batch import Encoded

Attribute = str | int | Sequence[str]
Finish = Callable[[int], None]
"""Is told the status of an answer."""


def _ignore(status: int) -> None:
    """Note nothing."""


class Spans:
    """Notes nothing; :class:`routerretriever.server.tracing.Tracing` makes spans of OpenTelemetry."""

    def request(self, scope: Scope) -> AbstractContextManager[Finish]:
        """Note a request while a block runs; yield what is told the status at its end."""
        return nullcontext(_ignore)

    def encoded(self, submitted: float, encoded: Sequence[Encoded]) -> None:
        """Note how long texts waited, and were encoded and routed.

        Args:
            submitted: when they were handed to the queue, in seconds of :func:`time.perf_counter`.
            encoded: the texts, each with the times of its forward pass.
        """

    def stage(self, name: str, **attributes: Attribute) -> AbstractContextManager[None]:
        """Note a stage while a block runs."""
        return nullcontext()

    def close(self) -> None:
        """Send what is not sent yet."""
