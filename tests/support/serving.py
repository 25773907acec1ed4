"""A small model with experts, pilots and an index, served for real on a port of this machine."""

from __future__ import annotations

import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace

import httpx
import uvicorn
from tiny import collection_maker, make_checkpoint, random_adapter

from routerretriever import Collection, Index, RouterRetriever
from routerretriever.data.document import Document
from routerretriever.lora.peft_files import save_adapter
from routerretriever.server import Settings, create_app

API_KEY, ADMIN_KEY = "api-key-for-the-tests", "admin-key-for-the-tests"


def build(root):
    """Write ``model`` and ``index`` into a folder."""
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


def save_one_more_expert(built, folder):
    """Write an expert for the model as plain PEFT does."""
    model = RouterRetriever.from_pretrained(built / "model", device="cpu")
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


def only_reading(built):
    """Settings of a server that changes neither model nor index."""
    return Settings(model=built / "model", index=str(built / "index"))


def with_keys(built, folder):
    """Settings of a server with copies of model and index, and both kinds of keys."""
    shutil.copytree(built / "model", folder / "model")
    shutil.copytree(built / "index", folder / "index")
    return Settings(
        model=folder / "model", index=str(folder / "index"), api_keys=(API_KEY,), admin_keys=(ADMIN_KEY,)
    )
