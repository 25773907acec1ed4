"""Connections to a Ray cluster, whose nodes must all have this version of the package."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from routerretriever.errors import BuildError
from routerretriever.version import __version__

LOCAL = "local"
"""Address that starts a cluster on this machine."""

_KNOCK_SECONDS = 10
_VERSION_SECONDS = 60


@contextmanager
def connected(address: str, *, processors: int = 0) -> Iterator[None]:
    """Hold a connection to a cluster; ``local`` starts one on this machine and ends it after use.

    Args:
        address: of the cluster.
        processors: that ``local`` offers at least, even if this machine has fewer.

    Raises:
        BuildError: there is no cluster, or its nodes have another version of this package.
    """
    mine = not ray.is_initialized()
    if mine:
        _connect(address, processors)
    try:
        _check_versions()
        yield
    finally:
        if mine:
            ray.shutdown()


def _connect(address: str, processors: int) -> None:
    is_local = address == LOCAL
    try:
        _knock(address)
        ray.init(
            address=address,  # "local" is Ray's word too: None would join any cluster that runs here
            num_cpus=max(processors, os.cpu_count() or 1) if is_local else None,
            include_dashboard=False if is_local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BuildError(
            f"There is no Ray cluster at '{address}' ({error}). Start one: ray start --head"
        ) from error


def _knock(address: str) -> None:
    """Ray itself tries for minutes to reach a host where nothing listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()


def _check_versions() -> None:
    """Check that all nodes have this version of the package.

    Raises:
        BuildError: one has not; names the node and both versions.
    """
    nodes = working_nodes()
    if not nodes:
        raise BuildError(
            "The cluster has no node with a processor to work on. Add one: ray start --address …"
        )
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[_version.options(scheduling_strategy=there).remote()] = node["NodeManagerAddress"]

    for reference, address in asked.items():
        try:
            found = ray.get(reference, timeout=_VERSION_SECONDS)
        except ray.exceptions.RayError as error:
            raise BuildError(
                f"The node {address} cannot run this package: {_last_line(error)} Install "
                f"routerretriever {__version__} there."
            ) from error
        if found != __version__:
            raise BuildError(
                f"The node {address} has routerretriever {found}, this machine has "
                f"{__version__}. Install the same version on both."
            )


def working_nodes() -> list[dict[str, Any]]:
    """Return Ray's descriptions of the nodes that have a processor to work on."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


@ray.remote(num_cpus=0)
def _version() -> str:
    return __version__


def worker_count(asked: int | None) -> int:
    """Return how many workers to start that must all be there at once.

    Args:
        asked: default one for each processor.

    Raises:
        BuildError: there is no room for this many; Ray would wait for it for ever.
    """
    processors = int(ray.cluster_resources()["CPU"])
    if asked is not None and asked > processors:
        raise BuildError(
            f"{asked} workers were asked for, but the cluster has {processors} processors. Ask for fewer."
        )
    return asked or processors
