"""What every request passes before any endpoint sees it: host, size, headers of the answer, counting."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Iterable

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from routerretriever.server.engine import Engine
from routerretriever.server.problems import ApiError, answer, from_exception

LOG = logging.getLogger("routerretriever.server")

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PORT = re.compile(r":\d*$")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Guard:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self.app = app
        self.engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await answer(refusal)(scope, receive, send_noting)
            else:
                await self.app(scope, self._bounded(scope, receive), send_noting)
        except Exception as error:
            LOG.exception("%s %s failed", scope["method"], scope["path"])
            if status == 0:
                await answer(from_exception(error))(scope, receive, send_noting)
        finally:
            self._count(scope, status or 500, time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        settings = self.engine.settings
        # Without a key, a page of another site could have a browser ask this server under a name of its own.
        host = _PORT.sub("", headers.get("host", ""))
        if settings.is_loopback and not settings.api_keys and host not in _LOOPBACK_NAMES:
            return ApiError(400, "This server answers to localhost and 127.0.0.1 only.", code="invalid_host")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._most_bytes(scope):
            return self._too_large(scope)
        return None

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Read no more of a body than the limit, whatever its headers say."""
        read = 0
        most = self._most_bytes(scope)

        async def receive_bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise HTTPException(413, self._too_large(scope).message)
            return message

        return receive_bounded

    def _most_bytes(self, scope: Scope) -> int:
        limits = self.engine.settings.limits
        return limits.adapter_bytes if scope["path"].startswith("/v1/experts") else limits.body_bytes

    def _too_large(self, scope: Scope) -> ApiError:
        return ApiError(
            413, f"The body is over the limit of {self._most_bytes(scope)} bytes. Send less at once."
        )

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", "other")  # a template, so that there are few
        self.engine.metrics.requests.labels(path, scope["method"], status).inc()
        self.engine.metrics.latency.labels(path).observe(seconds)


# Asynchronous, though nothing is waited for: FastAPI sends plain functions through a pool of threads.
async def client_may_read(request: Request) -> None:
    """Refuse a request without a valid key, where keys are set.

    Raises:
        ApiError: 401.
    """
    settings = request.app.state.engine.settings
    if settings.api_keys:
        _check(request, (*settings.api_keys, *settings.admin_keys))


async def client_may_change(request: Request) -> None:
    """Refuse a request without an admin key.

    Raises:
        ApiError: 401 without a valid key, 403 with one that is not an admin's or where there are none.
    """
    settings = request.app.state.engine.settings
    if not settings.admin_keys:
        raise ApiError(
            403, "Changes are off. Start the server with --admin-key-file to allow them.", code="no_admin"
        )
    _check(request, (*settings.api_keys, *settings.admin_keys))
    if not _is_among(_token(request), settings.admin_keys):
        raise ApiError(403, "This key may read but not change anything. Use an admin key.", code="not_admin")


def _check(request: Request, keys: Iterable[str]) -> None:
    if not _is_among(_token(request), keys):
        raise ApiError(401, "A valid key is needed: Authorization: Bearer KEY.", code="invalid_api_key")


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _is_among(token: str, keys: Iterable[str]) -> bool:
    """Compare with every key in constant time; digests hide the lengths too."""
    given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
    same = [hmac.compare_digest(given, hashlib.sha256(key.encode()).digest()) for key in keys]
    return any(same)
