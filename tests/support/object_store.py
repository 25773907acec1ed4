"""An S3-compatible server (moto) in a process of its own, and the variables by which every library finds it."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

BUCKET = "bucket"
_START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A running server with one empty bucket."""

    endpoint: str
    bucket: str = BUCKET

    @property
    def environment(self) -> dict[str, str]:
        """For this process and all others of this machine that are to reach the bucket."""
        return {
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def environment_at(self, host: str) -> dict[str, str]:
        """The same for the nodes of a cluster, which know this machine by another address."""
        port = self.endpoint.rpartition(":")[2]
        return {**self.environment, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}

    def uri(self, path: str) -> str:
        """Of something in the bucket."""
        return f"s3://{self.bucket}/{path}"


def server_command() -> list[str] | None:
    """How to start moto, or None. It lives in an environment of its own: boto wants an older dateutil than we have."""
    root = Path(os.environ.get("ROUTERRETRIEVER_S3_VENV", Path(__file__).parents[2] / ".venv-s3"))
    server = root / "bin" / "moto_server"
    return [str(server)] if server.exists() else None


@contextmanager
def object_store(host: str = "127.0.0.1") -> Iterator[ObjectStore]:
    """Serve until the block ends.

    Args:
        host: address of this machine to listen on; ``0.0.0.0`` to serve the nodes of a cluster.

    Raises:
        RuntimeError: moto is not there or does not start.
    """
    command = server_command()
    if command is None:
        raise RuntimeError("moto_server is not there: make .venv-s3/.installed")
    # Port 0: the server picks a free one and says which on its error output, where it also notes every request.
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*command, "-H", host, "-p", "0"],
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "PYTHONPATH": "", "PYTHONUNBUFFERED": "1"},
        )
        try:
            store = ObjectStore(_address(process, Path(log.name)))
            urlopen(Request(f"{store.endpoint}/{store.bucket}", method="PUT"), timeout=_START_SECONDS).close()
            yield store
        finally:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if found := re.search(r"Running on (http://\S+)", log.read_text(encoding="utf-8")):
            return found[1].rstrip("/")
        time.sleep(0.05)
    raise RuntimeError(f"moto did not start: {log.read_text(encoding='utf-8')}")
