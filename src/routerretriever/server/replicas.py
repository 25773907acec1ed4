"""The server as a Ray Serve application: replicas on one machine or many answer as one.

Every replica is the whole application in a process of its own, with a model of its own and the same index. Writes go
to the index's storage and to the model's folder before they are acknowledged; the others learn of changed experts by
:mod:`routerretriever.server.shared_model`. So a replica has nothing that could be lost with it but its requests in
flight.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from routerretriever.errors import BuildError, MissingExtraError, ServerError
from routerretriever.index.open_store import index_exists
from routerretriever.index.postgres_uri import shown_uri
from routerretriever.server.app import create_app
from routerretriever.server.run import log_to_stderr
from routerretriever.server.settings import Settings
from routerretriever.storage.model_folder import read_model_info

try:
    import ray
    from ray import serve as ray_serve
    from ray.serve.config import AutoscalingConfig
    from ray.serve.exceptions import RayServeException
except ImportError as error:
    raise MissingExtraError("replicas", error.name or "ray") from error

from routerretriever.cluster.connection import LOCAL, connected

APPLICATION = "routerretriever"
TARGET_ONGOING_REQUESTS = 16
"""Requests waiting or in work at a replica, on average, that autoscaling aims at: some 0.2 s of queue on one core."""

_START_SECONDS = 600.0
_CONSTRUCTIONS = 3  # a replica that fails so often while the application starts fails the start
_UPSCALE_SECONDS = 5.0
_DOWNSCALE_SECONDS = 120.0
_HEALTH_SECONDS = 2.0  # between two looks; a dead process is noticed at the next
_MORE_REQUESTS = 64  # beyond those that may wait for the encoder: answered with 429, or in need of no encoder


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many replicas to run; between two numbers the length of their queues decides.

    Raises:
        ServerError: not 1 ≤ least ≤ most.
    """

    least: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ServerError(
                f"There cannot be {self.least} to {self.most} replicas. Give N, or MIN-MAX, at least 1."
            )

    @classmethod
    def parse(cls, text: str) -> Replicas:
        """``N`` or ``MIN-MAX``.

        Raises:
            ServerError: it is neither.
        """
        found = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", text.strip())
        if found is None:
            raise ServerError(
                f"'{text}' is not a number of replicas. Give N, or MIN-MAX to follow the length of the queue."
            )
        return cls(int(found[1]), int(found[2] or found[1]))


def serve_replicas(
    settings: Settings, *, cluster: str, replicas: Replicas, started: Callable[[], None] | None = None
) -> None:
    """Serve until SIGINT or SIGTERM, then finish what was accepted and leave the cluster as it was.

    Args:
        settings: of each replica; model, index and device are those of the nodes. The head of the cluster, and every
            node that has a replica, listens on ``host`` and ``port``.
        cluster: address of a Ray cluster, or ``local`` to start one on this machine and end it with the server.
        replicas: how many; each takes an accelerator where the cluster has some, else one processor.
        started: is called once all replicas answer.

    Raises:
        ServerError: there is no such cluster, it has no room, serves something else at that place, or a replica
            cannot start.
    """
    stopped = suppress(KeyboardInterrupt, SystemExit)  # the second is Ray's own word for SIGTERM
    # In this order: Ray takes SIGTERM for itself when it starts, and would end this process at once.
    with stopped, running(settings, cluster=cluster, replicas=replicas), _sigterm_interrupts():
        if started is not None:
            started()
        threading.Event().wait()


@contextmanager
def running(settings: Settings, *, cluster: str, replicas: Replicas) -> Iterator[None]:
    """Run the replicas while a block runs; see :func:`serve_replicas`."""
    read_model_info(settings.model)
    if settings.index is not None and not index_exists(settings.index):
        raise ServerError(
            f"There is no index at {shown_uri(settings.index)}. Make one: routerretriever index MODEL INDEX …"
        )
    with ExitStack() as stack:
        _connect(stack, settings, cluster, replicas)
        options = _options(settings, replicas)
        stack.callback(_stop, mine=not ray_serve.status().proxies)
        _check_place(settings)
        try:
            _start(settings, options)
        except (RuntimeError, TimeoutError, ValueError, RayServeException, ray.exceptions.RayError) as error:
            raise ServerError(f"Ray Serve cannot start the server: {_last_line(str(error))}") from error
        yield


def _connect(stack: ExitStack, settings: Settings, cluster: str, replicas: Replicas) -> None:
    if cluster == LOCAL:
        with suppress(OSError), socket.create_connection((settings.host, settings.port), timeout=1):
            raise ServerError(
                f"Something listens on {settings.host}:{settings.port} already. Give another --port."
            )
    try:
        stack.enter_context(connected(cluster, processors=replicas.most))
    except BuildError as error:
        raise ServerError(str(error)) from error


def _options(settings: Settings, replicas: Replicas) -> dict[str, Any]:
    """Return the deployment's options, with the resources of a replica.

    Raises:
        ServerError: the cluster has no room for as many as there must be at least.
    """
    resources = ray.cluster_resources()
    accelerated = bool(resources.get("GPU")) and (settings.device or "cuda").startswith("cuda")
    kind, room = ("accelerator", resources["GPU"]) if accelerated else ("processor", resources.get("CPU", 0))
    if room < replicas.least:
        raise ServerError(
            f"{replicas.least} replicas need one {kind} each, the cluster has {room:g}. Ask for fewer, or add nodes: "
            "ray start --address …"
        )
    options: dict[str, Any] = {
        "name": APPLICATION,
        "ray_actor_options": {"num_gpus": 1, "num_cpus": 0} if accelerated else {"num_cpus": 1},
        "max_ongoing_requests": settings.limits.waiting_requests + _MORE_REQUESTS,
        "graceful_shutdown_timeout_s": settings.drain_seconds,
        "health_check_period_s": _HEALTH_SECONDS,
        "max_constructor_retry_count": _CONSTRUCTIONS,
        "logging_config": {"enable_access_log": False},  # /metrics counts requests
    }
    if replicas.least == replicas.most:
        return {**options, "num_replicas": replicas.least}
    scaling = AutoscalingConfig(
        min_replicas=replicas.least,
        max_replicas=replicas.most,
        target_ongoing_requests=TARGET_ONGOING_REQUESTS,
        upscale_delay_s=_UPSCALE_SECONDS,
        downscale_delay_s=_DOWNSCALE_SECONDS,
    )
    return {**options, "autoscaling_config": scaling}


def _check_place(settings: Settings) -> None:
    """Check that a cluster that serves already has a free place on its port.

    Raises:
        ServerError: there is none.
    """
    status = ray_serve.status()
    if not status.proxies:
        return
    if APPLICATION in status.applications:
        raise ServerError(
            f"The cluster serves an application '{APPLICATION}' already. Stop it where it was started, or there: "
            "serve shutdown"
        )
    client: Any = ray_serve.context._get_global_client()
    config = client.http_config  # nothing public says it
    if (config.host, config.port) != (settings.host, settings.port):
        raise ServerError(
            f"Ray Serve listens on {config.host}:{config.port} on this cluster already, for other applications. Give "
            f"--host {config.host} --port {config.port}, or stop it: serve shutdown"
        )


def _start(settings: Settings, options: dict[str, Any]) -> None:
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if not ray_serve.status().proxies:
        ray_serve.start(
            proxy_location="EveryNode",
            http_options={"host": settings.host, "port": settings.port, "keep_alive_timeout_s": 75},
            logging_config={"enable_access_log": False},
        )
    deployment: Any = ray_serve.deployment(_Replica, **options)
    target = ray_serve.RunTarget(deployment.bind(settings), name=APPLICATION, route_prefix="/")
    ray_serve.run_many([target], wait_for_applications_running=False)
    deadline = time.monotonic() + _START_SECONDS
    while (status := ray_serve.status().applications[APPLICATION]).status != "RUNNING":
        told = "\n".join([status.message, *(part.message for part in status.deployments.values())])
        if status.status == "DEPLOY_FAILED":
            raise RuntimeError(told)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{told}\nIts replicas have not started within {_START_SECONDS:g} seconds.")
        time.sleep(0.2)


def _stop(*, mine: bool) -> None:
    """Take the application away, and Serve where this process started it."""
    if ray_serve.status().applications.get(APPLICATION):
        with suppress(TimeoutError):
            ray_serve.delete(APPLICATION)
    if mine:
        ray_serve.shutdown()


def _last_line(message: str) -> str:
    """Return what was wrong, from the last line of a traceback."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("routerretriever.errors.")]
    if own:
        return own[-1].partition(": ")[2]
    return lines[-1] if lines else "See its log."


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends a block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@ray_serve.ingress()
class _Replica:
    """One process; Serve calls the application that it builds."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        log_to_stderr()
        name = ray_serve.get_replica_context().replica_id.unique_id
        self._application = create_app(replace(settings, replica=name))
        await asyncio.to_thread(self._application.state.engine.load)

    def __serve_build_asgi_app__(self) -> Any:
        return self._application

    async def check_health(self) -> None:
        """Serve replaces a replica whose encoder has ended."""
        if not self._application.state.engine.ready:
            raise RuntimeError("The engine is not ready.")
