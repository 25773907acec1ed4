"""Two servers on one model folder: each sees what the other saves, and neither undoes it."""

import asyncio
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from clients import eventually, upload, vector
from filelock import FileLock
from serving import ADMIN_KEY, running, wait_until_ready
from tiny import make_checkpoint, random_adapter
from typer.testing import CliRunner

from routerretriever import RouterRetriever, add_expert
from routerretriever.cli.app import app
from routerretriever.lora.peft_files import save_adapter
from routerretriever.server.access import EVERYTHING
from routerretriever.server.engine import Engine
from routerretriever.server.read_saved import read_saved
from routerretriever.storage import locks
from routerretriever.storage.locks import lock_file
from routerretriever.storage.saved_version import SavedVersion


@pytest.fixture
def pair(own):
    """Clients of two servers on one model and index."""
    with running(own) as first, running(own) as second:
        for client in (first, second):
            client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
            wait_until_ready(client)
        yield first, second


@pytest.fixture
def other_files(built, tmp_path):
    """Another adapter than ``adapter_files``."""
    model = RouterRetriever.from_pretrained(built / "model", device="cpu")
    save_adapter(
        random_adapter(model.encoder.lora_layers, 21),
        tmp_path / "other",
        base=model.encoder.base.id,
        revision=None,
    )
    return tmp_path / "other"


def names(client):
    """Without asking the server, which would make it look."""
    return list(client.engine.model.experts)


def test_an_expert_is_added_replaced_and_removed_on_both(pair, adapter_files, other_files):
    first, second = pair
    assert upload(first, adapter_files, gains='{"alpha": 0.9}').status_code == 201
    eventually(lambda: names(second)[-1] == "delta")
    added = vector(first, "delta")
    np.testing.assert_allclose(vector(second, "delta"), added, atol=1e-6)
    query = {"query": "word100 word100 word60"}
    one, two = (client.post("/v1/route", json=query).json()["routes"][0]["gains"] for client in pair)
    assert one == pytest.approx(two) and one["delta"] > 0
    assert first.delete("/v1/experts/delta").status_code == 200
    eventually(lambda: "delta" not in names(second))
    assert upload(first, other_files).status_code == 201
    replaced = vector(first, "delta")
    assert not np.allclose(replaced, added, atol=1e-3)
    eventually(lambda: "delta" in names(second))
    np.testing.assert_allclose(vector(second, "delta"), replaced, atol=1e-6)


def test_who_asks_for_a_new_expert_gets_it_at_once(own, adapter_files):
    from dataclasses import replace

    with running(replace(own, follow_seconds=3600)) as client:
        client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        wait_until_ready(client)
        model = RouterRetriever.from_pretrained(own.model, device="cpu")
        add_expert(model, adapter_files, "delta", force=True)
        model.save_experts(own.model)
        np.testing.assert_allclose(
            vector(client, "delta"), model.encode_query(["word1 word2"], expert="delta")[0], atol=1e-5
        )
        assert upload(client, adapter_files).status_code == 409
        assert client.post("/v1/embeddings", json={"input": "x", "model": "epsilon"}).status_code == 404


def test_what_the_command_line_changes_is_followed_and_no_request_fails(pair, own):
    stop, answered = threading.Event(), []

    def ask(client):
        while not stop.is_set():
            answer = client.post(
                "/v1/embeddings", json={"input": ["word1 word2", "word7"], "model": "routed"}
            )
            answered.append(answer.status_code)

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask, client) for client in pair]
        try:
            done = CliRunner().invoke(app, ["experts", "remove", str(own.model), "beta", "--device", "cpu"])
            assert done.exit_code == 0, done.output
            eventually(lambda: all(names(client) == ["alpha", "gamma"] for client in pair))
        finally:
            stop.set()
        for future in asking:
            future.result()
    assert answered and set(answered) == {200}
    assert pair[0].post("/v1/embeddings", json={"input": "x", "model": "beta"}).status_code == 404


def test_a_rollback_is_followed(pair, own, adapter_files):
    first, second = pair
    before = vector(second, "routed")
    assert (
        upload(first, adapter_files).status_code == 201
    )  # the folder's history begins with what stood there
    eventually(lambda: all(names(client)[-1] == "delta" for client in pair))
    assert CliRunner().invoke(app, ["experts", "rename", str(own.model), "alpha", "law"]).exit_code == 0
    eventually(lambda: all("law" in names(client) for client in pair))
    done = CliRunner().invoke(app, ["experts", "rollback", str(own.model), "1"])
    assert done.exit_code == 0, done.output
    eventually(lambda: all(names(client) == ["alpha", "beta", "gamma"] for client in pair))
    np.testing.assert_allclose(vector(second, "routed"), before, atol=1e-6)


def test_changes_at_the_same_time_wait_for_each_other(pair, own, adapter_files):
    """No update is lost; of two with one name, one is refused."""
    with ThreadPoolExecutor(2) as pool:

        def both(work):
            return [answer.status_code for answer in pool.map(work, pair, "xy")]

        for number in range(4):
            assert both(lambda client, side, n=number: upload(client, adapter_files, f"n{n}{side}")) == [
                201,
                201,
            ]
        assert sorted(both(lambda client, side: upload(client, adapter_files, "same"))) == [201, 409]
        assert both(lambda client, side: client.delete(f"/v1/experts/n0{side}")) == [200, 200]
    expected = {"alpha", "beta", "gamma", "same"} | {
        f"n{number}{side}" for number in (1, 2, 3) for side in "xy"
    }
    assert set(RouterRetriever.from_pretrained(own.model, device="cpu").experts) == expected
    for client in pair:
        eventually(lambda client=client: set(names(client)) == expected)


def test_a_model_that_is_held_for_too_long_is_not_changed(admin, own, adapter_files, monkeypatch):
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.1)
    with FileLock(lock_file(own.model)):
        answer = upload(admin, adapter_files)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
        assert answer.headers["Retry-After"] == "5"
        assert admin.get("/v1/experts").status_code == 200
    assert upload(admin, adapter_files).status_code == 201


def test_a_model_of_another_base_is_not_followed(admin, own, adapter_files, tmp_path, caplog):
    before = vector(admin, "alpha")
    other = make_checkpoint(tmp_path / "base", "roberta")
    RouterRetriever.create(str(other), device="cpu").save_pretrained(tmp_path / "other")
    shutil.rmtree(own.model)
    (tmp_path / "other").rename(own.model)
    eventually(lambda: "belong to another base" in caplog.text)
    time.sleep(2.5)
    assert caplog.text.count("belong to another base") == 1
    np.testing.assert_array_equal(vector(admin, "alpha"), before)
    assert upload(admin, adapter_files).status_code == 400
    shutil.rmtree(own.model)
    time.sleep(1.5)
    np.testing.assert_array_equal(vector(admin, "alpha"), before)


def test_only_what_changed_is_new_and_two_versions_are_never_mixed(own, adapter_files):
    reader = RouterRetriever.from_pretrained(own.model, device="cpu")
    writer = RouterRetriever.from_pretrained(own.model, device="cpu")
    writer.save_experts(own.model)
    assert read_saved(own.model, reader).fresh == ()
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            if "delta" in writer.experts:
                writer.remove_expert("delta")
            else:
                add_expert(writer, adapter_files, "delta", force=True)
            writer.save_experts(own.model)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(come_and_go)
        seen, reads = set(), 0
        deadline = time.monotonic() + 120
        while (reads < 60 or len(seen) < 2) and time.monotonic() < deadline:
            reads += 1
            saved = read_saved(own.model, reader)
            assert saved.state.library.experts == tuple(saved.state.experts) == tuple(saved.state.infos)
            assert saved.fresh == tuple(name for name in saved.state.experts if name == "delta")
            assert saved.state.experts["alpha"] is reader.state.experts["alpha"]
            seen.add(len(saved.state.experts))
        stop.set()
        writing.result()
    assert seen == {3, 4}


def test_a_change_goes_on_when_its_client_is_gone(own, adapter_files):
    """Some servers cancel the task of such a request; a change must not stay half done."""
    files = {
        name: (adapter_files / name).read_bytes()
        for name in ("adapter_config.json", "adapter_model.safetensors")
    }

    async def change():
        engine = Engine(own)
        engine.load()
        before = SavedVersion.of(own.model)
        adding = asyncio.create_task(engine.experts.add("delta", files, EVERYTHING))
        while "delta" not in engine.model.experts:
            await asyncio.sleep(0.001)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        while SavedVersion.of(own.model) == before:
            await asyncio.sleep(0.01)
        await engine.experts.remove("alpha", EVERYTHING)  # waits for the first
        engine.close()
        return list(engine.model.experts)

    assert asyncio.run(change()) == ["beta", "gamma", "delta"]
    assert list(RouterRetriever.from_pretrained(own.model, device="cpu").experts) == [
        "beta",
        "gamma",
        "delta",
    ]
