"""What clients of a server do."""

import socket
import time

import numpy as np

STATED_SECONDS = 2  # docs/server.md says so


def upload(client, files, name="delta", **fields):
    opened = {
        "config": ("../../etc/passwd", (files / "adapter_config.json").read_bytes()),
        "weights": ("w", (files / "adapter_model.safetensors").read_bytes()),
    }
    return client.post("/v1/experts", data={"name": name, **fields}, files=opened)


def vector(client, name):
    answer = client.post("/v1/embeddings", json={"input": "word1 word2", "model": name})
    return np.array(answer.json()["data"][0]["embedding"])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(condition, seconds=STATED_SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
