"""The server as a process of its own: killed, told to stop, started wrongly."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from clients import free_port
from commands import run
from serving import ADMIN_KEY, API_KEY, wait_until_ready

from routerretriever import Index, RouterRetriever

HEADERS = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture
def command(own, tmp_path):
    """The command line of a server with both keys."""
    for name, key in (("api", API_KEY), ("admin", ADMIN_KEY)):
        (tmp_path / name).write_text(key)
    return [
        *(sys.executable, "-m", "routerretriever", "serve", str(own.model), "--index", own.index),
        *(
            "--api-key-file",
            str(tmp_path / "api"),
            "--admin-key-file",
            str(tmp_path / "admin"),
            "--device",
            "cpu",
        ),
    ]


@contextmanager
def started(command):
    """The process and a client with the admin key; killed at the end if it still runs."""
    port = free_port()
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=HEADERS, timeout=30) as client:
            for _ in range(2400):  # a start is a few seconds, and more where other tests run beside this one
                try:
                    client.get("/health")
                    break
                except httpx.TransportError:
                    assert process.poll() is None, process.stdout.read()
                    time.sleep(0.05)
            yield process, wait_until_ready(client)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_killed_while_documents_come_in_nothing_acknowledged_is_lost(command, own):
    acknowledged = []

    def write(client):
        for number in range(10_000):
            ids = [f"k{number}-{part}" for part in range(5)]
            documents = [{"id": name, "text": f"word{number % 100} word5"} for name in ids]
            answer = client.post("/v1/documents", json={"collection": "killed", "documents": documents})
            if answer.status_code == 200:
                acknowledged.append(ids)

    for _ in range(2):
        with started(command) as (process, client), ThreadPoolExecutor(1) as pool:
            begun = len(acknowledged)
            writing = pool.submit(write, client)
            while len(acknowledged) < begun + 8:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                writing.result()
    model = RouterRetriever.from_pretrained(own.model, device="cpu")
    index = Index.open(own.index, model)
    found = {hit.id for hit in index.search("word5", k=20_000, where={"collection": "killed"}, exact=True)}
    assert found >= {name for ids in acknowledged for name in ids}
    complete = {name.split("-")[0] for name in found}
    assert len(found) == 5 * len(complete)  # a request is stored whole or not at all


@pytest.mark.slow
def test_killed_while_experts_come_and_go_the_model_stays_whole(command, own, adapter_files):
    files = {
        "config": ("c", (adapter_files / "adapter_config.json").read_bytes()),
        "weights": ("w", (adapter_files / "adapter_model.safetensors").read_bytes()),
    }
    states = {}

    def change(client):
        for number in range(10_000):
            name = f"n{number}"
            if client.post("/v1/experts", data={"name": name}, files=files).status_code == 201:
                states[name] = "there"
            if number % 2:
                states[name] = "going"
                if client.delete(f"/v1/experts/{name}").status_code == 200:
                    states[name] = "gone"

    with started(command) as (process, client), ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change, client)
        while len(states) < 6:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            changing.result()
    experts = set(RouterRetriever.from_pretrained(own.model, device="cpu").experts)
    assert experts >= {"alpha", "beta", "gamma", *(n for n, s in states.items() if s == "there")}
    assert not experts & {n for n, s in states.items() if s == "gone"}
    with started(command) as (_, client):
        listed = {entry["name"] for entry in client.get("/v1/experts").json()["experts"]}
        assert listed == experts
    leftovers = [path.name for path in own.model.parent.iterdir() if path.name.endswith(".tmp")]
    assert leftovers == []


@pytest.mark.slow
def test_told_to_stop_it_finishes_what_it_accepted(command):
    with started(command) as (process, client), ThreadPoolExecutor(4) as pool:
        texts = [f"word{number % 200} word{number % 7}" for number in range(2000)]
        large = [pool.submit(client.post, "/v1/embeddings", json={"input": texts}) for _ in range(4)]
        while "routerretriever_waiting_requests 0.0" in client.get("/metrics").text:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        answers = [future.result() for future in large]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert all(len(answer.json()["data"]) == 2000 for answer in answers)
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)
        assert b"Traceback" not in process.stdout.read()


@pytest.mark.slow
def test_its_output_holds_neither_keys_nor_queries(command):
    with started(command) as (process, client):
        client.post("/v1/embeddings", json={"input": "word7 private"})
        client.get("/v1/models", headers={"Authorization": "Bearer somebodys-wrong-key"})
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        output = process.stdout.read().decode()
    assert "http://127.0.0.1" in output
    for secret in (API_KEY, ADMIN_KEY, "private", "somebodys"):
        assert secret not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--admin-key-file", "nowhere"], "key file nowhere"),
    ],
)
def test_what_it_will_not_do_is_said_in_a_sentence(own, arguments, message):
    said = run("serve", own.model, *arguments, code=1).stderr
    assert message in said and "Traceback" not in said


def test_a_model_that_is_not_there(tmp_path):
    assert "is not a RouterRetriever model" in run("serve", tmp_path / "nothing", code=1).stderr
