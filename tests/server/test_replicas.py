"""Replicas on a real Ray cluster of this machine, asked over HTTP, killed, and told to stop."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psutil
import pytest
from clients import eventually, free_port, upload
from serving import ADMIN_KEY, API_KEY
from typer.testing import CliRunner

from routerretriever import Index, RouterRetriever
from routerretriever.cli.app import app
from routerretriever.errors import MissingExtraError, ServerError

try:
    from routerretriever.server.replicas import Replicas
except MissingExtraError as error:
    pytest.skip(f"no replicas here: {error}", allow_module_level=True)

START_SECONDS = 180
BUSY_SECONDS = 10  # for what is stated to take 2 on a machine with time for it


class Served:
    """``routerretriever serve --cluster local`` in a process of its own."""

    def __init__(self, own, replicas):
        folder, self.own, self.port = own.model.parent, own, free_port()
        for name, key in (("api", API_KEY), ("admin", ADMIN_KEY)):
            (folder / name).write_text(key)
        self.log = folder / "serve.log"
        command = [
            *(sys.executable, "-m", "routerretriever", "serve", str(own.model), "--index", own.index),
            *(
                "--api-key-file",
                str(folder / "api"),
                "--admin-key-file",
                str(folder / "admin"),
                "--device",
                "cpu",
            ),
            *("--cluster", "local", "--replicas", replicas, "--port", str(self.port)),
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            )
        eventually(self._has_started, START_SECONDS)

    def _has_started(self):
        assert self.process.poll() is None, self.log.read_text()
        return "The page:" in self.log.read_text()

    def client(self, key=ADMIN_KEY):
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=60)

    def all_processes(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def replicas(self):
        """Process ids."""
        found = []
        for process in self.all_processes():
            try:
                title = "".join(process.cmdline())
            except psutil.Error:
                continue
            if title.startswith("ray::ServeReplica:routerretriever"):
                found.append(process.pid)
        return found

    def names(self, client, requests=30):
        """Of the replicas that answered some requests."""
        return {re.search(r'replica="(\w+)"', client.get("/metrics").text)[1] for _ in range(requests)}

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                for process in [*self.all_processes(), self.process]:
                    process.kill()


@contextmanager
def serving(own, replicas):
    served = Served(own, replicas)
    try:
        yield served
    finally:
        served.close()


def write(client, name, **metadata):
    document = {"id": name, "text": "word5 word9", "metadata": metadata}
    return client.post("/v1/documents", json={"collection": "new", "documents": [document]})


def stored(own):
    index = Index.open(own.index, RouterRetriever.from_pretrained(own.model, device="cpu"))
    return {hit.id for hit in index.search("word5", k=20_000, where={"collection": "new"}, exact=True)}


@pytest.mark.cluster
def test_replicas_share_experts_and_documents_and_one_dies(own, adapter_files):
    """One start for all of it, since that is what takes long."""
    with serving(own, "2") as served, served.client() as client:
        answer_as_one(served, client)
        share_experts(client, adapter_files)
        change_experts_at_the_same_time(served, client, adapter_files)
        written_at_the_same_time(served)
        lose_one(served, client)
        stop(served, client)


def answer_as_one(served, client):
    assert len(served.names(client)) == len(served.replicas()) == 2
    page = client.get("/")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert client.get("/health").json() == {"status": "alive"}
    assert client.post("/v1/search", json={"query": "word1 word2"}).json()["results"][0]["hits"]
    assert httpx.post(f"{client.base_url}/v1/search", json={"query": "x"}).status_code == 401
    with served.client(API_KEY) as reader:
        assert write(reader, "never").status_code == 403
    assert client.post("/v1/search", content=b" " * (17 * 2**20)).status_code == 413


def share_experts(client, adapter_files):
    assert upload(client, adapter_files, gains='{"alpha": 0.9}').status_code == 201

    def everywhere(present):  # /v1/route does not look at the saved model by itself
        answers = [client.post("/v1/route", json={"query": "word100"}).json()["routes"][0] for _ in range(20)]
        return all(("delta" in answer["gains"]) is present for answer in answers)

    eventually(lambda: everywhere(True), BUSY_SECONDS)
    assert client.delete("/v1/experts/delta").status_code == 200
    eventually(lambda: everywhere(False), BUSY_SECONDS)


def change_experts_at_the_same_time(served, client, adapter_files):
    def add(name):
        with served.client() as own_client:
            return name, upload(own_client, adapter_files, name).status_code

    with ThreadPoolExecutor(4) as pool:
        answers = dict(pool.map(add, [f"n{number}" for number in range(8)]))
    assert set(answers.values()) == {201}
    saved = set(RouterRetriever.from_pretrained(served.own.model, device="cpu").experts)
    assert saved == {"alpha", "beta", "gamma", *answers}
    assert {entry["name"] for entry in client.get("/v1/experts").json()["experts"]} == saved


def written_at_the_same_time(served):
    """Also with new fields, which change the index's columns."""

    def put(number):
        with served.client() as own_client:
            return write(own_client, f"m{number}", **{f"field{number // 4}": number}).status_code

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(put, range(16))) == {200}
    assert stored(served.own) == {f"m{number}" for number in range(16)}


def lose_one(served, client):
    names, stop, acknowledged, failed = served.names(client), threading.Event(), [], []

    def ask(number):
        with served.client() as own_client:
            for turn in range(100_000):
                if stop.is_set():
                    return
                try:
                    if number < 2:
                        answer = write(own_client, f"k{number}-{turn}")
                    else:
                        answer = own_client.post("/v1/embeddings", json={"input": "word1 word2"})
                except httpx.TransportError as error:
                    failed.append(error)
                    continue
                if answer.status_code != 200:
                    failed.append(answer.text)
                elif number < 2:
                    acknowledged.append(f"k{number}-{turn}")

    victim = served.replicas()[0]
    with ThreadPoolExecutor(5) as pool:
        asking = [pool.submit(ask, number) for number in range(5)]
        eventually(lambda: len(acknowledged) > 6, 60)
        os.kill(victim, signal.SIGKILL)
        before = len(acknowledged)
        eventually(lambda: len(acknowledged) > before + 6, 60)
        eventually(lambda: len(set(served.replicas()) - {victim}) == 2, START_SECONDS)
        eventually(lambda: len(served.names(client) - names) == 1, START_SECONDS)
        stop.set()
        for future in asking:
            future.result()
    assert len(failed) <= 5, failed  # each client had one request in flight
    assert stored(served.own) >= set(acknowledged)


def stop(served, client):
    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(client.post, "/v1/embeddings", json={"input": ["word1 word2 word3"] * 500})
        time.sleep(0.3)
        processes = served.all_processes()
        served.process.terminate()
        assert served.process.wait(90) == 0, served.log.read_text()
        assert last.result().status_code == 200
    eventually(lambda: not any(process.is_running() for process in processes), 20)
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", served.port), timeout=1),
    ):
        pass


@pytest.mark.cluster
def test_replicas_follow_the_queue_and_die_with_their_command(own):
    with serving(own, "1-2") as served:
        assert len(served.replicas()) == 1
        over = threading.Event()

        def ask(_):
            with served.client() as client:
                while not over.is_set():
                    client.post("/v1/embeddings", json={"input": ["word1 word2 word3"] * 64})

        with ThreadPoolExecutor(48) as pool:
            asking = [pool.submit(ask, number) for number in range(48)]
            eventually(lambda: len(served.replicas()) == 2, START_SECONDS)
            over.set()
            for future in asking:
                future.result()
        processes = served.all_processes()
        serving_ones = [
            process for process in processes if "".join(process.cmdline()).startswith("ray::Serve")
        ]
        assert len(serving_ones) == 3  # the controller and two replicas
        served.process.kill()
        eventually(lambda: not any(process.is_running() for process in serving_ones), 20)
        with (
            pytest.raises(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", served.port), timeout=1),
        ):
            pass
        # Ray's own agents look for their node once a minute.
        eventually(lambda: not any(process.is_running() for process in processes), 120)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--replicas", "2"), "--cluster ADDRESS"),
        (("--cluster", "local", "--replicas", "many"), "not a number of replicas"),
        (("--cluster", "local", "--replicas", "3-2"), "3 to 2 replicas"),
        (("--cluster", "local", "--replicas", "0"), "at least 1"),
        (("--cluster", "127.0.0.1:1"), "There is no Ray cluster at '127.0.0.1:1'"),
        (("--cluster", "local", "--index", "nowhere"), "There is no index at nowhere"),
    ],
)
def test_what_cannot_be_served_says_why(own, options, message):
    given = [] if "--index" in options else ["--index", own.index]
    done = CliRunner().invoke(app, ["serve", str(own.model), *given, *options])
    assert done.exit_code == 1
    assert "ServerError" in done.output and message in " ".join(done.output.split())


def test_a_port_that_is_taken(own):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["serve", str(own.model), "--cluster", "local", "--port", port])
    assert done.exit_code == 1 and "listens on" in done.output


def test_numbers_of_replicas():
    assert Replicas.parse("3") == Replicas(3, 3)
    assert Replicas.parse(" 1-4 ") == Replicas(1, 4)
    for wrong in ("", "-1", "1-", "1-2-3", "2.5", "٣x"):
        with pytest.raises(ServerError):
            Replicas.parse(wrong)
