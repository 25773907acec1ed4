"""The code blocks of a page, run in order in a folder of its own."""

from __future__ import annotations

import re
import shlex
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import make_collections
from serving import running, wait_until_ready
from typer.testing import CliRunner

from routerretriever.cli.app import app

REASONS = {
    "installs packages",
    "needs a GPU",
    "needs a collector",
    "needs a cluster",
    "needs a hub and a GPU",
    "needs a PostgreSQL server",
    "needs a key of yours",
    "needs a model from the hub",
    "needs an endpoint",
    "needs an exported model",
    "needs two aligned encoders",
    "needs a server of yours",
    "needs files of yours",
    "needs an object store",
    "needs Docker",
    "needs Kubernetes",
    "speaks with an agent",
    "takes minutes",
}
"""Why a block of a page may stay out of the tests: ``<!-- not run: REASON -->`` on the line above it."""
SHOWN = {"json", "jsonl", "text", "toml", "yaml"}
"""Languages of blocks that are to be looked at."""
_BLOCK = re.compile(
    r"^(?:<!-- not run: (.+?) -->\n)?```(\w*)[^\n]*\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Block:
    """One block: its language, its text, and why it is not run, if it is not."""

    language: str
    code: str
    reason: str

    @property
    def runs(self) -> bool:
        return not self.reason and self.language not in SHOWN


def blocks(text: str) -> list[Block]:
    """All code blocks of a page; one without a language is taken for shell."""
    return [Block(language or "sh", code, reason) for reason, language, code in _BLOCK.findall(text)]


def commands(code: str) -> list[str]:
    """The commands of a shell block: continued lines and here-documents belong together."""
    lines = iter(code.replace("\\\n", " ").splitlines())
    found = []
    for line in lines:
        ends = re.search(r"<<'?(\w+)'?", line)
        command = line.strip()
        while ends and not command.endswith(f"\n{ends.group(1)}"):
            command += "\n" + next(lines)
        if command and not command.startswith("#"):
            found += [command] if ends else command.split(" && ")
    return found


class Session:
    """Runs the blocks of one page; what it serves stops with it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.address = "localhost:8080"

    def run(self, block: Block, page: str) -> None:
        if block.language == "python":
            exec(compile(self._addressed(block.code), page, "exec"), self.names)
        else:
            for command in commands(block.code):
                self._command(command)

    def serve(self, settings: Any) -> None:
        """In the place of ``server.serve``: goes on beside the page, on a port that is free."""
        client = self.stack.enter_context(running(settings))
        self.stack.callback(self._hang_up)
        self.address = f"127.0.0.1:{wait_until_ready(client).base_url.port}"

    def _hang_up(self) -> None:
        for value in self.names.values():
            if type(value).__module__.startswith("openai"):
                value.close()

    def _addressed(self, text: str) -> str:
        return re.sub(r"(localhost|127\.0\.0\.1):8080", self.address, text)

    def _command(self, command: str) -> None:
        words = shlex.split(command, comments=True) if "\n" not in command else []
        if words[:1] == ["routerretriever"]:
            given = [self._addressed(word) for word in words[1:]]
            result = CliRunner().invoke(app, given, env={"COLUMNS": "100"})
            if result.exit_code:
                raise AssertionError(f"{command}\n{result.output}") from result.exception
        elif words[:2] == ["python", "demo/make_collections.py"]:
            make_collections.write_all(self.folder / words[2])
        else:
            command = re.sub(r"^curl ", "curl --fail --silent ", self._addressed(command))
            done = subprocess.run(["bash", "-ec", command], cwd=self.folder, capture_output=True)
            assert done.returncode == 0, (command, done.stderr)
