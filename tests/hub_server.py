"""A model hub on this machine: a folder served by the hub's own protocol, for its real client."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

TOKEN = "hf_the-right-one"


@dataclass(frozen=True, slots=True)
class Hub:
    """A running hub; a repository is ``folder / owner / name / commit``, the newest commit in ``HEAD`` beside them."""

    endpoint: str
    folder: Path

    def files(self, repo: str) -> dict[str, bytes]:
        """Path → content of a repository's newest commit."""
        root = self.folder / repo / (self.folder / repo / "HEAD").read_text()
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def log_message(self, *args: object) -> None:
        pass

    # -- what clients ask ----------------------------------------------------------------------------

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlparse(self.path).path)
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        repo, action = path.removeprefix("/api/models/").rsplit("/", 2)[:2]
        if action == "preupload":
            files = [
                {"path": item["path"], "uploadMode": "regular", "shouldIgnore": False}
                for item in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        if action == "commit":
            return self._commit(repo, [json.loads(line) for line in body.splitlines()])
        return self._json({"error": "Not found"}, 404)

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if path.startswith("/api/models/"):
            return self._about(path)
        owner, name, _, commit, file = path.strip("/").split("/", 4)
        return self._file(f"{owner}/{name}", commit, file)

    do_HEAD = do_GET

    # -- what they get -------------------------------------------------------------------------------

    def _create(self, wanted: dict[str, str]) -> None:
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if (self.folder / repo / "HEAD").exists():
            return self._json({"error": "You already created this model repo", "url": f"/{repo}"}, 409)
        self._write(repo, {".gitattributes": b""})
        return self._json({"url": f"http://{self.headers['Host']}/{repo}", "name": repo, "id": repo})

    def _commit(self, repo: str, lines: list[dict]) -> None:
        root = self.folder / repo / self._head(repo)
        files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                files.pop(line["value"]["path"])
        commit = self._write(repo, files)
        url = f"http://{self.headers['Host']}/{repo}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def _about(self, path: str) -> None:
        parts = path.removeprefix("/api/models/").split("/")
        repo = "/".join(parts[:2])
        if not (self.folder / repo).is_dir():
            return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        asked = parts[3] if parts[2:3] in (["revision"], ["tree"]) else "main"
        commit = self._head(repo) if asked == "main" else asked
        root = self.folder / repo / commit
        names = sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())
        if "tree" in parts:
            entries = [{"type": "file", "path": n, "size": (root / n).stat().st_size, "oid": "0"} for n in names]
            return self._json(entries)
        siblings = [{"rfilename": name} for name in names]
        return self._json({"id": repo, "modelId": repo, "sha": commit, "private": False, "siblings": siblings})

    def _file(self, repo: str, commit: str, name: str) -> None:
        root = self.folder / repo
        if not root.is_dir():
            return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        commit = self._head(repo) if commit == "main" else commit
        path = root / commit / name
        if not path.is_file():
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        content = path.read_bytes()
        etag = f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"'
        return self._answer(content, 200, {"ETag": etag, "X-Repo-Commit": commit})

    # -- the folder ----------------------------------------------------------------------------------

    def _head(self, repo: str) -> str:
        return (self.folder / repo / "HEAD").read_text()

    def _write(self, repo: str, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(files.items()):
            digest.update(name.encode() + content)
        commit = digest.hexdigest()
        root = self.folder / repo / commit
        shutil.rmtree(root, ignore_errors=True)
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        (self.folder / repo / "HEAD").write_text(commit)
        return commit

    def _json(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._answer(json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _answer(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def hub(folder: Path) -> Iterator[Hub]:
    """Serve a folder until the block ends."""
    handler = type("Handler", (_Handler,), {"folder": folder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Hub(f"http://127.0.0.1:{server.server_port}", folder)
        finally:
            server.shutdown()
