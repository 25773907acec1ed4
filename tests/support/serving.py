"""A small model with experts, pilots and an index, served for real on a port of this machine."""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
import uvicorn
from tiny import collection_maker, make_checkpoint, random_adapter

from routerretriever import Collection, Index, RouterRetriever
from routerretriever.data.document import Document
from routerretriever.lora.peft_files import save_adapter
from routerretriever.server import Settings, create_app

API_KEY, ADMIN_KEY = "api-key-for-the-tests", "admin-key-for-the-tests"


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A folder with ``model`` and ``index``; copied by those who change it."""
    root = tmp_path_factory.mktemp("served")
    os.environ["ROUTERRETRIEVER_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    checkpoint = make_checkpoint(root / "base")
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    for seed, name in enumerate(("alpha", "beta", "gamma")):
        model.add_expert(name, random_adapter(model.encoder.lora_layers, seed))
    make = collection_maker(root / "collections")
    collections = [Collection.load(make(name, shift)) for shift, name in ((1, "alpha"), (2, "beta"))]
    model.build_library(collections)
    model.save_pretrained(root / "model")
    index = Index.create(root / "index", model)
    for collection in collections:
        index.upsert(collection.documents, collection=collection.name)
    index.upsert([Document("y", "word9", "", {"year": 1999, "draft": True})], collection="dated")
    return root


@pytest.fixture(scope="session")
def adapter_files(built, tmp_path_factory):
    """One more expert, as plain PEFT writes it."""
    model = RouterRetriever.from_pretrained(built / "model", device="cpu")
    folder = tmp_path_factory.mktemp("delta")
    adapter = random_adapter(model.encoder.lora_layers, 9, rank=6)
    save_adapter(adapter, folder, base=model.encoder.base.id, revision=None)
    return folder


@contextmanager
def running(settings):
    """Serve in a thread until the block ends; yields a client for it."""
    app = create_app(replace(settings, device="cpu"))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=10)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            client.engine = app.state.engine
            yield client
    finally:
        server.should_exit = True
        thread.join()


def wait_until_ready(client, seconds=60):
    for _ in range(int(seconds / 0.05)):
        if client.get("/ready").status_code == 200:
            return client
        threading.Event().wait(0.05)
    raise AssertionError(client.get("/ready").text)


@pytest.fixture(scope="module")
def client(built):
    """A server that only reads."""
    with running(Settings(model=built / "model", index=str(built / "index"))) as found:
        yield wait_until_ready(found)


@pytest.fixture
def own(built, tmp_path):
    """Settings of a server with a model and an index of its own, both kinds of keys set."""
    shutil.copytree(built / "model", tmp_path / "model")
    shutil.copytree(built / "index", tmp_path / "index")
    return Settings(
        model=tmp_path / "model", index=str(tmp_path / "index"), api_keys=(API_KEY,), admin_keys=(ADMIN_KEY,)
    )


@pytest.fixture
def admin(own):
    """A server that may be changed; the client has the admin key."""
    with running(own) as found:
        found.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        yield wait_until_ready(found)
