"""What every request passes before any endpoint sees it: host, size, headers of the answer, counting."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from typing import Any

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from routerretriever.errors import ServerError
from routerretriever.server.access import OPEN, Right
from routerretriever.server.engine import Engine
from routerretriever.server.keyring import Keyring
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

        with self.engine.spans.request(scope) as finish:
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
                finish(status or 500)
                self._count(scope, status or 500, time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        settings = self.engine.settings
        # Without a key, a page of another site could have a browser ask this server under a name of its own.
        host = _PORT.sub("", headers.get("host", ""))
        if settings.is_loopback and not settings.is_locked and host not in _LOOPBACK_NAMES:
            return ApiError(
                400,
                "This server answers to localhost and 127.0.0.1 only.",
                code="invalid_host",
            )
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
        if scope["path"] == "/v1/files":
            return limits.upload_bytes
        return limits.adapter_bytes if scope["path"].startswith("/v1/experts") else limits.body_bytes

    def _too_large(self, scope: Scope) -> ApiError:
        return ApiError(
            413,
            f"The body is over the limit of {self._most_bytes(scope)} bytes. Send less at once.",
        )

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", "other")  # a template, so that there are few
        self.engine.metrics.requests.labels(path, scope["method"], status).inc()
        self.engine.metrics.latency.labels(path).observe(seconds)


async def model_is_ready(request: Request) -> None:
    """Refuse what needs the model while it is not loaded.

    Raises:
        ApiError: 503.
    """
    engine: Engine = request.app.state.engine
    if not engine.ready:
        message = engine.failure or "The model is still loading. Try again in a moment."
        raise ApiError(503, message, code="not_ready", retry_after=2)


class Needs:
    """What an endpoint asks of a key; every endpoint declares it once.

    It leaves an :class:`Access` in ``request.state.access``.

    Args:
        right: that the key must have; ``None`` for an endpoint that anybody may ask.
        loaded: whether the model must be loaded, too.
    """

    def __init__(self, right: Right | None, loaded: bool) -> None:
        self.right = right
        self._loaded = loaded

    # Asynchronous, though nothing is waited for: FastAPI sends plain functions through a pool of threads.
    async def __call__(self, request: Request) -> None:
        """Refuse a request whose key is wrong or may not do this.

        Raises:
            ApiError: 401 without a valid key, 403 with one that lacks the right, or where no key has it; 503.
        """
        if self.right is None:
            return
        self._grant(request, self.right)
        if self._loaded:
            await model_is_ready(request)

    def _grant(self, request: Request, right: Right) -> None:
        keyring: Keyring = request.app.state.keyring
        access = keyring.access(_token(request))
        if access is None and keyring.is_locked:
            raise _no_key()
        request.state.access = access or OPEN
        if right in request.state.access.rights:
            return
        if right not in keyring.rights:
            refused = _REFUSED[right] if right == Right.FIGURES else "Changes are off."
            raise ApiError(
                403,
                f"{refused} Start the server with --admin-key-file to have such a key.",
                code="no_admin",
            )
        if access is None:
            raise _no_key()
        raise ApiError(403, _REFUSED[right], code="not_admin")


_CHANGE = "This key may read but not change anything. Use an admin key."
_REFUSED = {
    Right.DOCUMENTS: _CHANGE,
    Right.EXPERTS: _CHANGE,
    Right.FEEDBACK: "This key may not send feedback.",
    Right.FIGURES: "This key has a scope, and these figures are of all keys together. Use a key without one.",
}


def needs(right: Right | None, *, loaded: bool = True) -> Any:
    """Return the dependency of an endpoint that asks for a right; see :class:`Needs`."""
    return Depends(Needs(right, loaded))


def check_declared(routes: Iterable[BaseRoute]) -> None:
    """Check that every endpoint of a router says what it asks of a key.

    Raises:
        ServerError: one does not.
    """
    for route in routes:
        if not isinstance(route, APIRoute):
            continue
        declared = [each for each in route.dependencies if isinstance(each.dependency, Needs)]
        if len(declared) != 1:
            raise ServerError(f"The endpoint {route.path} must say once what it needs, with needs(Right.…).")


def _no_key() -> ApiError:
    return ApiError(401, "A valid key is needed: Authorization: Bearer KEY.", code="invalid_api_key")


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
