"""A model hub on this machine: a folder served by the hub's own protocol, for its real client.

Files named ``*.safetensors`` go by LFS, as on the hub: asked for in a batch, uploaded and verified apart from the commit,
and downloaded by a redirect. (Today's client prefers Xet where ``hf_xet`` is installed, a storage service that nothing
stands in for: tests set ``HF_HUB_DISABLE_XET``.) A private repository is there for whoever has the token alone.
"""

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

import pytest
from huggingface_hub import constants

TOKEN = "hf_the-right-one"
PRIVATE = "PRIVATE"
"""A file of this name beside the commits of a repository says that it is."""


@dataclass(frozen=True, slots=True)
class Hub:
    """A running hub; a repository is ``folder / owner / name / commit``, the newest commit in ``HEAD`` beside them."""

    endpoint: str
    folder: Path
    requests: list[tuple[str, str]]
    """Method and path of every request."""

    def files(self, repo: str) -> dict[str, bytes]:
        """Path → content of a repository's newest commit."""
        root = self.folder / repo / (self.folder / repo / "HEAD").read_text()
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    requests: list[tuple[str, str]]

    def log_message(self, *args: object) -> None:
        pass

    # -- what clients ask ----------------------------------------------------------------------------

    def do_POST(self) -> None:
        self.requests.append((self.command, self.path))
        body = self._body()
        path = unquote(urlparse(self.path).path)
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if not self._has_token():
            return self._json({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._json(self._batch(json.loads(body)))
        if path == "/lfs/verify":
            wanted = json.loads(body)
            there = self._object(wanted["oid"])
            whole = there.is_file() and there.stat().st_size == wanted["size"]
            return self._json({} if whole else {"error": "Not uploaded"}, 200 if whole else 404)
        repo, action = path.removeprefix("/api/models/").rsplit("/", 2)[:2]
        if action == "preupload":
            files = [
                {"path": item["path"], "uploadMode": "lfs" if _is_large(item["path"]) else "regular"}
                | {"shouldIgnore": False}
                for item in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        if action == "commit":
            return self._commit(repo, [json.loads(line) for line in body.splitlines()])
        return self._json({"error": "Not found"}, 404)

    def do_PUT(self) -> None:
        """An object for LFS; its address was given to somebody with the token, and is enough."""
        self.requests.append((self.command, self.path))
        oid, content = self.path.removeprefix("/lfs/"), self._body()
        if hashlib.sha256(content).hexdigest() != oid:
            return self._json({"error": "Not what was announced"}, 400)
        self._object(oid).parent.mkdir(parents=True, exist_ok=True)
        self._object(oid).write_bytes(content)
        return self._json({})

    def do_GET(self) -> None:
        self.requests.append((self.command, self.path))
        path = unquote(urlparse(self.path).path)
        if path.startswith("/lfs/"):
            return self._answer(self._object(path.removeprefix("/lfs/")).read_bytes(), 200, {})
        if path.startswith("/api/models/"):
            return self._about(path)
        if path.startswith("/api/"):
            return self._json({"error": "Not found"}, 404)
        owner, name, _, commit, file = path.strip("/").split("/", 4)
        return self._file(f"{owner}/{name}", commit, file)

    do_HEAD = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    # -- what they get -------------------------------------------------------------------------------

    def _create(self, wanted: dict[str, str]) -> None:
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if (self.folder / repo / "HEAD").exists():
            return self._json({"error": "You already created this model repo", "url": f"/{repo}"}, 409)
        self._write(repo, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        if wanted.get("visibility") == "private":
            (self.folder / repo / PRIVATE).touch()
        return self._json({"url": f"http://{self.headers['Host']}/{repo}", "name": repo, "id": repo})

    def _commit(self, repo: str, lines: list[dict]) -> None:
        root = self.folder / repo / self._head(repo)
        files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[line["value"]["path"]] = self._object(line["value"]["oid"]).read_bytes()
            elif line["key"] == "deletedFile":
                files.pop(line["value"]["path"])
        commit = self._write(repo, files)
        url = f"http://{self.headers['Host']}/{repo}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def _batch(self, asked: dict) -> dict:
        """Where to upload each object, and where to have it verified; nothing for those that are there."""
        objects = []
        for item in asked["objects"]:
            if not self._object(item["oid"]).is_file():
                host = f"http://{self.headers['Host']}/lfs"
                item["actions"] = {
                    "upload": {"href": f"{host}/{item['oid']}"},
                    "verify": {"href": f"{host}/verify"},
                }
            objects.append(item)
        return {"transfer": "basic", "objects": objects}

    def _about(self, path: str) -> None:
        parts = path.removeprefix("/api/models/").split("/")
        repo = "/".join(parts[:2])
        if self._refused(repo):
            return None
        asked = parts[3] if parts[2:3] in (["revision"], ["tree"]) else "main"
        commit = self._head(repo) if asked == "main" else asked
        root = self.folder / repo / commit
        names = sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())
        if "tree" in parts:
            return self._json([self._entry(root / name, name) for name in names])
        siblings = [{"rfilename": name} for name in names]
        private = (self.folder / repo / PRIVATE).exists()
        return self._json(
            {"id": repo, "modelId": repo, "sha": commit, "private": private, "siblings": siblings}
        )

    def _entry(self, path: Path, name: str) -> dict:
        size = path.stat().st_size
        entry = {"type": "file", "path": name, "size": size, "oid": "0"}
        if _is_large(name):
            entry["lfs"] = {"oid": _sha256(path), "size": size, "pointerSize": 134}
        return entry

    def _file(self, repo: str, commit: str, name: str) -> None:
        root = self.folder / repo
        if self._refused(repo):
            return None
        commit = self._head(repo) if commit == "main" else commit
        path = root / commit / name
        if not path.is_file():
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        if _is_large(name):
            oid = _sha256(path)
            storage = self.headers["Host"].replace("127.0.0.1", "localhost")  # another host, as the hub's is
            headers = {"Location": f"http://{storage}/lfs/{oid}", "X-Repo-Commit": commit}
            linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(path.stat().st_size)}
            return self._answer(b"", 302, headers | linked)
        content = path.read_bytes()
        etag = f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"'
        return self._answer(content, 200, {"ETag": etag, "X-Repo-Commit": commit})

    def _refused(self, repo: str) -> bool:
        """Whether a repository is not there, or not for whoever asks; then that is the answer."""
        if (self.folder / repo / PRIVATE).exists() and not self._has_token():
            self._json({"error": "Invalid username or password."}, 401, {"X-Error-Code": "RepoNotFound"})
        elif not (self.folder / repo).is_dir():
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        else:
            return False
        return True

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    # -- the folder ----------------------------------------------------------------------------------

    def _object(self, oid: str) -> Path:
        return self.folder / "lfs" / oid

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
        self._answer(
            json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})}
        )

    def _answer(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def use(running: Hub, cache: Path, patch: pytest.MonkeyPatch) -> None:
    """Have the client in this process talk to a hub, with the token and an empty cache."""
    patch.setattr(constants, "ENDPOINT", running.endpoint)
    patch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        running.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setenv("HF_TOKEN", TOKEN)


@contextmanager
def hub(folder: Path) -> Iterator[Hub]:
    """Serve a folder until the block ends."""
    requests: list[tuple[str, str]] = []
    handler = type("Handler", (_Handler,), {"folder": folder, "requests": requests})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Hub(f"http://127.0.0.1:{server.server_port}", folder, requests)
        finally:
            server.shutdown()
