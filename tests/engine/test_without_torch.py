"""An install without the ``train`` extra: commands run in a process where its packages cannot be found."""

import json
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from clients import free_port, upload
from models import TEXTS, with_experts, with_library
from serving import save_one_more_expert

from routerretriever import Index, RouterRetriever, compile_model
from routerretriever.data.document import Document

SCRIPT = Path(__file__).parents[1] / "support" / "without_torch.py"


@pytest.fixture(scope="module")
def root(checkpoint, tmp_path_factory):
    """A compiled ``model`` and its ``index``."""
    folder = tmp_path_factory.mktemp("light")
    model = with_library(with_experts(checkpoint, n=3, kinds=("lora", "both")))
    model.save_pretrained(folder / "model")
    compile_model(folder / "model")
    index = Index.create(folder / "index", model, model_path=folder / "model")
    index.upsert([Document(str(row), text) for row, text in enumerate(TEXTS)], collection="c")
    index.build_text_index()
    return folder


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )


def answered(*arguments):
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_route_and_search(root):
    model = RouterRetriever.from_pretrained(root / "model", device="cpu")
    (route,) = answered("route", root / "model", TEXTS[3])["routes"]
    assert route["expert"] == model.route(TEXTS[3])[0].expert
    found = answered("search", root / "index", TEXTS[3], "-k", 5)
    (wanted,) = Index.open(root / "index", model).answer([TEXTS[3]], 5)
    assert found["expert"] == wanted.expert
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in wanted.hits]


def test_documents(root, tmp_path):
    lines = [json.dumps({"_id": str(row), "text": text}) for row, text in enumerate(TEXTS)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines) + "\n")
    report = answered("index", root / "model", tmp_path / "index", tmp_path / "c.jsonl")
    assert report["encoded"] == len(TEXTS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "new", "collection"),
        ("compile", "model", "--again"),
        ("search", "index", "word1", "--engine", "torch"),
        ("evaluate", "model", "collection"),
    ],
)
def test_what_needs_the_extra_says_so(root, arguments):
    done = run(*arguments, cwd=root)
    assert done.returncode == 1
    assert "MissingExtraError" in done.stderr and "pip install 'routerretriever[train]'" in done.stderr


def test_public_names(root):
    program = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import without_torch
without_torch.hide()
import pytest, routerretriever
from routerretriever.errors import MissingExtraError
with pytest.raises(MissingExtraError, match="'torch'"):
    routerretriever.RouterRetriever
model = routerretriever.open_model({str(root / "model")!r})
print(routerretriever.Index.open({str(root / "index")!r}, model).search({TEXTS[0]!r}, k=1)[0].id)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@contextmanager
def served(*arguments):
    """Run ``serve`` on a free port; yields a client."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "serve", *map(str, arguments), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            for _ in range(1200):
                try:
                    if client.get("/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    assert process.poll() is None, process.stdout.read()
                time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.slow
def test_a_server_searches_and_takes_and_drops_experts(root, tmp_path):
    folder = shutil.copytree(root / "model", tmp_path / "model")
    files = save_one_more_expert(root, tmp_path / "upload")
    key = "an-admin-key-for-the-tests"
    (tmp_path / "key").write_text(key)
    model = RouterRetriever.from_pretrained(folder, device="cpu")
    headers = {"Authorization": f"Bearer {key}"}
    with served(folder, "--index", root / "index", "--admin-key-file", tmp_path / "key") as client:
        found = client.post("/v1/search", json={"query": TEXTS[2], "k": 3}).json()
        (wanted,) = Index.open(root / "index", model).answer([TEXTS[2]], 3)
        assert [hit["id"] for hit in found["results"][0]["hits"]] == [hit.id for hit in wanted.hits]
        embedded = client.post("/v1/embeddings", json={"input": TEXTS[:4], "model": "routed"}).json()
        for row, item in enumerate(embedded["data"]):
            assert abs(item["embedding"] - model.encode_query(TEXTS[row])).max() < 1e-4
        assert client.get("/v1/map").status_code == 200
        client.headers.update(headers)
        answer = upload(client, files)
        assert answer.status_code == 201, answer.text
        saved = RouterRetriever.from_pretrained(folder, device="cpu")
        vector = client.post("/v1/embeddings", json={"input": TEXTS[0], "model": "delta"}).json()
        wanted = saved.encode_query(TEXTS[0], expert="delta")
        assert abs(vector["data"][0]["embedding"] - wanted).max() < 1e-4
        assert client.delete("/v1/experts/e0").status_code == 200
    assert list(RouterRetriever.from_pretrained(folder, device="cpu").experts) == ["e1", "e2", "delta"]
