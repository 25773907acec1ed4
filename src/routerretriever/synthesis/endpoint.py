"""One request to an OpenAI-compatible endpoint, until it succeeds: retries, back-off, pace, and what may be spent."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from routerretriever.errors import MissingExtraError, PausedError, SynthesisError

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "OPENAI_API_KEY"
LONGEST_WAIT = 60.0
"""Seconds between two tries at most, unless the server says otherwise."""

LONGEST_ORDER = 600.0
"""A server that wants to be left alone for longer ends the run; it goes on later."""

LARGEST_BODY = 2**20
_RETRIED = (408, 409, 425, 429)
_HOPELESS = (401, 402, 403, 404, 405)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a generation may take, all its runs together; ``None`` is no limit.

    Attributes:
        requests: answered requests.
        tokens: read and written ones.
        cost: in the currency of the prices.
        price_in, price_out: of a million tokens read and written.
    """

    requests: int | None = None
    tokens: int | None = None
    cost: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


class Budget:
    """What was spent and what is reserved by requests on their way."""

    def __init__(self, limits: Limits, requests: int, tokens_in: int, tokens_out: int) -> None:
        self.limits, self._reserved, self._under_way = limits, [0, 0, 0], 0
        self._spent = [requests, tokens_in, tokens_out]
        self._settled = asyncio.Condition()

    async def reserve(self, tokens_in: int, tokens_out: int) -> bool:
        """Wait until a request of at most so many tokens fits; false if it never will."""
        wanted = [1, tokens_in, tokens_out]
        async with self._settled:
            while not self._fits(wanted):
                if not self._under_way:
                    return False
                await self._settled.wait()  # requests under way may turn out to be cheaper than they could be
            self._reserved = [a + b for a, b in zip(self._reserved, wanted, strict=True)]
            self._under_way += 1
            return True

    async def settle(self, tokens_in: int, tokens_out: int, spent: tuple[int, int] | None) -> None:
        """Replace a reservation by what was spent; ``None`` if nothing was."""
        async with self._settled:
            self._reserved = [a - b for a, b in zip(self._reserved, [1, tokens_in, tokens_out], strict=True)]
            if spent is not None:
                self._spent = [a + b for a, b in zip(self._spent, [1, *spent], strict=True)]
            self._under_way -= 1
            self._settled.notify_all()

    def _fits(self, wanted: list[int]) -> bool:
        requests, tokens_in, tokens_out = (sum(part) for part in zip(self._spent, self._reserved, wanted, strict=True))
        limits = self.limits
        return (
            (limits.requests is None or requests <= limits.requests)
            and (limits.tokens is None or tokens_in + tokens_out <= limits.tokens)
            and (limits.cost is None or limits.price(tokens_in, tokens_out) <= limits.cost)
        )


class Pace:
    """Keeps requests apart: so many a minute, and none while the server wants to be left alone."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next free moment."""
        while (left := self._next - time.monotonic()) > 0:
            await asyncio.sleep(left)
        self._next = time.monotonic() + self._gap

    def hold(self, seconds: float) -> None:
        """No request for some time."""
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


class FaultError(Exception):
    """A request failed; ``wait`` is what the server asked for, ``final`` that another try would fail too."""

    def __init__(self, message: str, wait: float | None = None, *, final: bool = False) -> None:
        super().__init__(message)
        self.wait, self.final = wait, final


class Endpoint:
    """A chat endpoint. The key is read from the environment and stands nowhere else."""

    def __init__(self, url: str, *, timeout: float, retries: int, backoff: float, pace: Pace) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("llm", "httpx") from error
        if not url.startswith(("http://", "https://")):
            raise SynthesisError(f"'{url}' is no endpoint. Give the address that ends in /v1: --endpoint http://…/v1")
        self._key = os.environ.get(KEY_VARIABLE, "")
        self.url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout)
        self._timeout, self._retries, self._backoff, self._pace = timeout, retries, backoff, pace

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._client.aclose()

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """Send a request until it is answered.

        Raises:
            FaultError: it was not, after all retries.
            SynthesisError: the endpoint will answer none.
            PausedError: it wants to be left alone for long.
        """
        for attempt in range(self._retries + 1):
            await self._pace.turn()
            try:
                return await self._once(body)
            except FaultError as fault:
                if fault.final or attempt == self._retries:
                    raise
                if fault.wait is not None:
                    self._wait_as_told(fault.wait)
                else:
                    # Full jitter: tries of several clients spread over the whole time.
                    longest = min(LONGEST_WAIT, self._backoff * 2**attempt)
                    await asyncio.sleep(random.uniform(0, longest))  # noqa: S311 - not for secrets
        raise AssertionError

    def _wait_as_told(self, seconds: float) -> None:
        if seconds > LONGEST_ORDER:
            raise PausedError(
                f"{self.url} asks for {seconds:.0f} seconds without requests. Run the same command again after that."
            )
        self._pace.hold(seconds)

    async def _once(self, body: Mapping[str, Any]) -> Reply:
        import httpx

        try:
            # httpx's own time-outs begin anew with every byte; a server that dribbles would be waited for for ever.
            async with asyncio.timeout(self._timeout), self._client.stream("POST", self.url, json=body) as response:
                content = await _limited(response)
        except TimeoutError:
            raise FaultError(f"no answer within {self._timeout:g} seconds") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise FaultError(self._safe(f"{type(error).__name__}: {error}")) from None
        if response.status_code != httpx.codes.OK:
            self._refused(response, content)
        return _reply(content)

    def _refused(self, response: httpx.Response, content: bytes) -> None:
        said = self._safe(" ".join(content[:300].decode("utf-8", "replace").split()))
        message = f"status {response.status_code}: {said}"
        if response.status_code in _HOPELESS:
            raise SynthesisError(
                f"{self.url} refuses every request ({message}). Check --endpoint, --model, and the key in "
                f"{KEY_VARIABLE}."
            )
        retried = response.status_code in _RETRIED or response.status_code >= 500
        raise FaultError(message, _retry_after(response.headers), final=not retried)

    def _safe(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text


async def _limited(response: httpx.Response) -> bytes:
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > LARGEST_BODY:
            raise FaultError(f"an answer of more than {LARGEST_BODY} bytes")
    return bytes(content)


def _reply(content: bytes) -> Reply:
    try:
        record = json.loads(content)
        choice = record["choices"][0]
        text = choice["message"].get("content") or ""
        usage = record.get("usage") or {}
        counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise FaultError(f"an answer that is no chat completion ({type(error).__name__}: {error})") from None
    known = [count if isinstance(count, int) else None for count in counts]
    return Reply(str(text), known[0], known[1], choice.get("finish_reason") == "length")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header: a number or a date (RFC 9110, section 10.2.3)."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
