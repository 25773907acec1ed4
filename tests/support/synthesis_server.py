"""A local endpoint that speaks OpenAI's protocol and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from routerretriever.synthesis import LlmConfig, SynthesisConfig
from routerretriever.synthesis.write import journal_path


def completion(content: str, *, usage: bool = True, finish: str = "stop") -> bytes:
    """The body of a good answer."""
    record: dict[str, Any] = {"choices": [{"message": {"content": content}, "finish_reason": finish}]}
    if usage:
        record["usage"] = {"prompt_tokens": 100, "completion_tokens": 20}
    return json.dumps(record).encode()


def passage_of(body: dict[str, Any]) -> str:
    """The passage in a request made with the default prompt."""
    return body["messages"][-1]["content"].partition("Passage: ")[2].strip()


class Endpoint:
    """Answers each request by ``behave(handler, body, number)``; remembers what it was asked."""

    def __init__(self, behave: Callable[[Any, dict[str, Any], int], None] | None = None) -> None:
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.answered: Counter[str] = Counter()
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.requests.append(body)
                    outer.times.append(time.monotonic())
                    outer.headers.append(dict(self.headers))
                    number = len(outer.requests)
                    outer.under_way += 1
                    self.counted = True
                    outer.most_under_way = max(outer.most_under_way, outer.under_way)
                try:
                    (behave or outer.answer)(self, body, number)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    self.answered()

            def answered(self) -> None:
                """A request counts as under way until its answer is sent: the next may come at once."""
                with outer.lock:
                    outer.under_way -= self.counted
                    self.counted = False

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, handler: Any, body: dict[str, Any], number: int) -> None:
        """Two queries made of the passage's first words."""
        words = passage_of(body).split()
        self.reply(handler, completion(json.dumps([" ".join(words[:3]), " ".join(words[1:4])])))
        with self.lock:
            self.answered[passage_of(body)] += 1

    @staticmethod
    def reply(handler: Any, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send a response."""
        handler.answered()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


def answers_in(out):
    lines = journal_path(out).read_text().splitlines()[1:]
    return {record["key"]: record for record in map(json.loads, lines) if "key" in record}


def lost_in(out):
    lines = journal_path(out).read_text().splitlines()[1:]
    return [record for record in map(json.loads, lines) if "lost" in record]


def llm(endpoint, **changes):
    given = {"backoff": 0.01, "timeout": 5.0, "retries": 3} | changes
    return SynthesisConfig(
        method="llm", queries=60, k=30, llm=LlmConfig(endpoint=endpoint.url, model="tiny", **given)
    )
