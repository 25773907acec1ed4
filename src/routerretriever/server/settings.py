"""How a server is set up: what it serves, where, for whom, and up to which limits."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from routerretriever.errors import ServerError
from routerretriever.server.key_file import Key, is_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what a client may ask for.

    Attributes:
        body_bytes: of any request but an uploaded adapter or files.
        adapter_bytes: of an uploaded adapter.
        upload_bytes: of all files of one request.
        file_bytes: of one uploaded file.
        files: of one request.
        inputs: texts of one embeddings, search or route request.
        documents: documents of one request.
        text_chars: characters of one text.
        waiting_requests: if at least this many wait, a request is answered with 429.
        waiting_tokens: the same, counted in estimated tokens.
        feedback_bytes: of the file that feedback is appended to; beyond it feedback is refused.
    """

    body_bytes: int = 16 * 2**20
    adapter_bytes: int = 64 * 2**20
    upload_bytes: int = 200 * 2**20
    file_bytes: int = 50 * 2**20
    files: int = 100
    inputs: int = 2048
    documents: int = 1000
    text_chars: int = 100_000
    waiting_requests: int = 256
    waiting_tokens: int = 1_000_000
    feedback_bytes: int = 256 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How concurrent requests share forward passes.

    Attributes:
        rows: texts of one batch, at most.
        tokens: estimated tokens of one batch, at most (a single longer text still goes).
        wait: seconds that a batch may wait for company while requests come in at the same time.
        workers: batches encoded at a time, which share the processor's cores; default one a core up to four, and
            one on an accelerator.
        divided: at most this many rows are not divided among idle workers.
    """

    rows: int = 64
    tokens: int = 2048
    wait: float = 0.002
    workers: int | None = None
    divided: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a server needs to know.

    Attributes:
        model: folder of the model; experts added at run time are saved there.
        index: folder or URI of the index; without one there is no search.
        files: folder that was indexed, of whose files those in the index are served; ``None`` for none.
        host, port: where it listens.
        api_keys: any of them opens the API; empty leaves it open.
        admin_keys: any of them may change documents and experts, and read; empty forbids changes.
        keys: with scopes; see :func:`routerretriever.server.read_key_file`.
        key_file: that they were read from, and are read from again when it changes.
        engine: what computes: ``onnx`` is the model's compiled engine, ``torch``, or ``auto``.
        device: torch device; default the best one present.
        rerank: cross-encoder that searches may ask for: a folder or a name on the hub.
        log_queries: whether query texts are written to the log.
        feedback_log: file that clicks and judgements are appended to; without one they are refused.
        shadow: an expert of the model that does not answer; what it would change is noted.
        shadow_log: file that these notes are appended to.
        trace: where spans are sent, as :func:`routerretriever.server.trace_target.trace_target` says it.
        drain_seconds: how long requests in flight may take after SIGTERM.
        replica: this process's name where several answer as one; a label of its metrics.
        follow_seconds: how often it looks whether the saved experts or the key file have changed.
    """

    model: Path
    index: str | None = None
    files: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    key_file: Path | None = None
    engine: str = "auto"
    device: str | None = None
    rerank: str | None = None
    log_queries: bool = False
    feedback_log: Path | None = None
    shadow: str | None = None
    shadow_log: Path | None = None
    trace: str | None = None
    drain_seconds: int = 30
    replica: str = ""
    follow_seconds: float = 1.0
    limits: Limits = field(default_factory=Limits)
    batching: Batching = field(default_factory=Batching)

    def __post_init__(self) -> None:
        # An address of IPv6 is written with brackets in a URL, and without where one listens.
        object.__setattr__(self, "host", self.host.removeprefix("[").removesuffix("]"))
        if self.shadow_log is not None and self.shadow is None:
            raise ServerError("--shadow-log keeps what an expert would change. Name it: --shadow EXPERT.")
        if not self.is_loopback and not self.is_locked:
            raise ServerError(
                f"Listening on {self.host} would serve anyone who can reach this machine. Give a file with keys "
                "(--api-key-file or --keys), or listen on 127.0.0.1."
            )

    @property
    def is_locked(self) -> bool:
        """Whether reading needs a key."""
        return bool(self.api_keys or self.keys)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def read_keys(path: Path | None) -> tuple[str, ...]:
    """Return the keys of a file, one a line; empty lines and lines that begin with # are skipped.

    Raises:
        ServerError: the file cannot be read, has no key, or one shorter than 16 characters.
    """
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(
            f"The key file {path} cannot be read ({type(error).__name__}). Write one key a line."
        ) from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys or not all(map(is_key, keys)):
        raise ServerError(
            f"{path} needs at least one key, each of 16 or more ASCII characters without spaces. Make one: "
            f"python -c 'import secrets; print(secrets.token_urlsafe())' > {path}"
        )
    return keys
