"""Requests to a chat endpoint: their pace, and what is read of an answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from routerretriever.endpoint import KEY_VARIABLE, LONGEST_ORDER, UNKNOWN, FaultError, JsonEndpoint, Usage
from routerretriever.errors import PausedError, SynthesisError

LARGEST_BODY = 2**20


class Pace:
    """Keeps requests apart: a few a minute, and none while the server asks for a pause."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next free moment."""
        while (left := self._next - time.monotonic()) > 0:
            await asyncio.sleep(left)
        self._next = time.monotonic() + self._gap

    def hold(self, seconds: float) -> None:
        """Start no request for some seconds."""
        self._next = max(self._next, time.monotonic() + seconds)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and what it cost.

    Attributes:
        text: of the answer; empty if the model declined.
        tokens_in, tokens_out: as counted by the server; ``None`` if it does not say.
        truncated: whether the model was cut off.
    """

    text: str
    tokens_in: int | None
    tokens_out: int | None
    truncated: bool


class Endpoint(JsonEndpoint):
    """A chat endpoint."""

    def __init__(self, url: str, *, timeout: float, backoff: float, pace: Pace) -> None:
        if not url.startswith(("http://", "https://")):
            raise SynthesisError(
                f"'{url}' is not an endpoint. Give the address that ends in /v1, such as --endpoint http://…/v1"
            )
        address = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        super().__init__(address, timeout=timeout, largest=LARGEST_BODY)
        self._backoff = backoff
        self._pace = pace

    async def turn(self) -> None:
        """Wait until a request may be sent."""
        await self._pace.turn()

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """Send a request once.

        Raises:
            FaultError: it was not answered.
            SynthesisError: the endpoint will answer no request.
        """
        try:
            return _reply(await self.post(body))
        except FaultError as fault:
            if fault.hopeless:
                raise self.hopeless(str(fault)) from None
            raise

    async def rest(self, fault: FaultError, attempt: int) -> None:
        """Wait after a failed attempt: as long as the server asks, or longer with each attempt.

        Raises:
            PausedError: the server asks for a long pause.
        """
        pause = fault.pause(attempt, self._backoff)
        if fault.wait is None:
            await asyncio.sleep(pause)
        elif pause > LONGEST_ORDER:
            raise PausedError(
                f"{self.url} asks for {pause:.0f} seconds without requests. Rerun the same command after that."
            )
        else:
            self._pace.hold(pause)

    def hopeless(self, message: str) -> SynthesisError:
        """Return the error for an endpoint that answers no request."""
        return SynthesisError(
            f"{self.url} refuses every request ({message}). Check --endpoint, --model, and the key in {KEY_VARIABLE}."
        )


def _reply(content: bytes) -> Reply:
    usage = UNKNOWN
    try:
        record = json.loads(content)
        usage = _usage(record)
        choice = record["choices"][0]
        text = choice["message"].get("content") or ""
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        message = f"an answer that is not a chat completion ({type(error).__name__}: {error})"
        raise FaultError(message, billed=usage) from None
    return Reply(str(text), *usage, choice.get("finish_reason") == "length")


def _usage(record: Any) -> Usage:
    usage = record.get("usage")
    if not isinstance(usage, dict):
        return UNKNOWN
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    read, written = (count if isinstance(count, int) else None for count in counts)
    return read, written
