"""A real Ray cluster on one machine: every node in a network namespace of its own, so that nodes die and lose their net.

The head (no CPUs of its own) runs in the root namespace, on the bridge's address. A driver is any process of this
machine, best a subprocess: ``ray.init(nodes.address)``. What serves the nodes, an S3 server for instance, listens on
``nodes.host``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

import routerretriever

_SLOTS = 8  # clusters at the same time on one machine
_OBJECT_STORE_BYTES = 100_000_000  # Ray wants at least 75 MB
_START_SECONDS = 120
_HEAD_PORT = 6400
_LOCKS = Path(tempfile.gettempdir()) / "rrn-locks"
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
_RAY = [sys.executable, "-m", "ray.scripts.scripts"]


class Nodes:
    """A running cluster. Node 0 is the head, 1 … n carry the CPUs; make one with :meth:`start`."""

    def __init__(self, slot: int, cpus: int, environment: Callable[[str], Mapping[str, str]]) -> None:
        self._name, self._cpus = f"rrn{slot}", cpus
        self._folder = _folder(slot)
        self._subnet = f"10.213.{slot}"
        self._count = 0
        self.host = f"{self._subnet}.1"
        """This machine's address as the nodes see it."""
        self._environment = environment(self.host)
        self.address = f"{self.host}:{_HEAD_PORT + slot}"
        """For ``ray.init``."""

    @classmethod
    @contextmanager
    def start(
        cls, n: int, cpus: int = 1, environment: Callable[[str], Mapping[str, str]] = lambda host: {}
    ) -> Iterator[Nodes]:
        """A head and ``n`` nodes of ``cpus`` logical CPUs each, removed at the end whatever happens.

        Args:
            n: nodes beside the head.
            cpus: logical CPUs of each.
            environment: more variables for all nodes, by ``host``, such as Ray's ``RAY_health_check_period_ms``.

        Raises:
            RuntimeError: a node did not start; the message has its output.
        """
        with _slot() as slot:
            nodes = cls(slot, cpus, environment)
            try:
                nodes._start_head()
                for _ in range(n):
                    nodes.add()
                yield nodes
            finally:
                _remove(slot)

    def add(self) -> int:
        """Start one more node, wait until the cluster knows it, and return its number."""
        self._count += 1
        number = self._count
        space, link = self._space(number), self._link(number)
        _ip("netns", "add", space)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", link, "master", self._name, "up")
        _ip("-n", space, "addr", "add", f"{self.ip(number)}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", space, "link", "set", "eth0", "up")
        _ip(
            "-n", space, "route", "add", "default", "via", self.host
        )  # without it Ray finds no address for itself
        command = [f"--address={self.address}", f"--num-cpus={self._cpus}"]
        self._start_ray(number, ["ip", "netns", "exec", space], command)
        return number

    def ip(self, number: int) -> str:
        """The address of a node, as ``ray.util.get_node_ip_address()`` says it there."""
        return f"{self._subnet}.{number + 1}"

    def pids(self, number: int) -> list[int]:
        """All processes of a node."""
        return _head_pids(self._folder) if number == 0 else _pids(self._space(number))

    def alive(self, number: int) -> bool:
        """Whether a node's raylet runs; one that ended by itself may leave helpers behind."""
        return any("/raylet" in _title(pid).partition("\0")[0] for pid in self.pids(number))

    def workers(self, number: int, title: str = "") -> list[int]:
        """Worker processes of a node by what Ray calls them: a task's name, ``Actor`` or ``Actor.method``, ``IDLE``."""
        titles = {pid: _title(pid) for pid in self.pids(number)}
        return [
            pid for pid, found in titles.items() if found.startswith(f"ray::{title}") and found not in _AGENTS
        ]

    def kill(self, number: int) -> None:
        """SIGKILL a node: its raylet, its agents and all its workers."""
        _kill(partial(self.pids, number))

    def cut(self, number: int) -> None:
        """Pull a node's plug: packets are lost, no connection is closed."""
        _ip("link", "set", self._link(number), "down")

    def heal(self, number: int) -> None:
        """Put it back."""
        _ip("link", "set", self._link(number), "up")

    def _space(self, number: int) -> str:
        return f"{self._name}-{number}"

    _link = _space

    def _start_head(self) -> None:
        _ip("link", "add", self._name, "type", "bridge")
        _ip("addr", "add", f"{self.host}/24", "dev", self._name)
        _ip("link", "set", self._name, "up")
        port = self.address.rpartition(":")[2]
        command = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
        self._start_ray(0, [], [*command, f"--temp-dir={self._folder}"])

    def _start_ray(self, number: int, prefix: Sequence[str], arguments: Sequence[str]) -> None:
        # Without --block the command returns once the cluster knows the node.
        command = [*prefix, *_RAY, "start", *arguments, f"--node-ip-address={self.ip(number)}"]
        command += [f"--object-store-memory={_OBJECT_STORE_BYTES}", "--disable-usage-stats"]
        command += ["--min-worker-port=0", "--max-worker-port=0"]  # any: two heads share the root namespace
        log = self._folder / f"start-{number}.log"
        self._folder.mkdir(exist_ok=True)
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self._variables(),
                cwd=self._folder,
                start_new_session=True,
            )
        if number == 0:
            _session_file(self._folder).write_text(str(process.pid))
        try:
            code = process.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code:
            raise RuntimeError(f"Node {number} did not start (exit status {code}): {log.read_text()}")

    def _variables(self) -> dict[str, str]:
        source = str(Path(routerretriever.__file__).parents[1])
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Unset, a token file in the home folder switches it on for the head, and no other node can join.
            "RAY_AUTH_MODE": "disabled",
            "RAY_memory_monitor_refresh_ms": "0",  # it counts the whole machine's memory as the node's
            **self._environment,
        }


def ping_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a node that says nothing noticed in 10 s and not in 7 minutes.

    Both nodes and drivers must be started with it: nodes throw out a driver that pings more often than they expect.
    """
    for what in ("time", "timeout"):
        monkeypatch.setenv(f"RAY_grpc_client_keepalive_{what}_ms", "5000")


def available() -> str | None:
    """Why no cluster can be made here, or None."""
    try:
        import ray  # noqa: F401
    except ImportError:
        return "Ray is not installed"
    if sys.platform != "linux" or not shutil.which("ip"):
        return "there is no ip command"
    name = f"rrn-try-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"network namespaces cannot be made: {done.stderr.strip()}"
    _ip("netns", "del", name)
    return None


@contextmanager
def _slot() -> Iterator[int]:
    """The number of a place for a cluster that nobody else uses, clean. Locks end with the process that holds them."""
    _LOCKS.mkdir(exist_ok=True)
    held = None
    for slot in range(_SLOTS):
        file = os.open(_LOCKS / str(slot), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        _remove(slot)  # what a killed process left behind, there and in all later places
        if held is None:
            held = (slot, file)
        else:
            os.close(file)
    if held is None:
        raise RuntimeError(f"{_SLOTS} clusters are already running on this machine.")
    try:
        yield held[0]
    finally:
        os.close(held[1])


def _remove(slot: int) -> None:
    name, folder = f"rrn{slot}", _folder(slot)
    for space in Path("/run/netns").glob(f"{name}-*"):
        _kill(partial(_pids, space.name))
        _ip("netns", "del", space.name)
    _kill(partial(_head_pids, folder))
    for link in Path("/sys/class/net").glob(
        f"{name}-*"
    ):  # a namespace takes its end of a pair along only after a while
        subprocess.run(["ip", "link", "del", link.name], capture_output=True, check=False)
    if Path(f"/sys/class/net/{name}").exists():
        _ip("link", "del", name)
    shutil.rmtree(folder, ignore_errors=True)


def _folder(slot: int) -> Path:
    # Short, because the names of sockets below it may have 107 letters at most.
    return Path("/tmp") / f"rrn{slot}"


def _session_file(folder: Path) -> Path:
    return folder / "head-session"


def _head_pids(folder: Path) -> list[int]:
    """Processes of the session that the head was started in; only those that live below its folder."""
    if not _session_file(folder).exists():
        return []
    session = int(_session_file(folder).read_text())
    return [pid for pid in psutil.pids() if _in_session(pid, session, folder)]


def _in_session(pid: int, session: int, folder: Path) -> bool:
    try:
        return os.getsid(pid) == session and Path(f"/proc/{pid}/cwd").readlink().is_relative_to(folder)
    except OSError:
        return False


def _pids(space: str) -> list[int]:
    done = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False)
    return [int(pid) for pid in done.stdout.split()]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    except OSError:
        return ""


def _kill(pids: Callable[[], list[int]]) -> None:
    """Until there are none: a raylet may start a worker while it is being killed."""
    deadline = time.monotonic() + 20
    while found := [pid for pid in pids() if not _is_zombie(pid)]:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise RuntimeError(f"Processes {found} cannot be killed.")
        time.sleep(0.05)


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
