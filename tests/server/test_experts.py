"""Experts that come and go at run time."""

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch
from clients import upload, vector
from safetensors.torch import load_file, save_file
from serving import ADMIN_KEY

from routerretriever import RouterRetriever
from routerretriever.storage.history import History


def test_an_uploaded_expert_serves_at_once_and_after_a_restart(admin, own, adapter_files):
    answer = upload(admin, adapter_files, gains='{"alpha": 0.9}')
    assert answer.status_code == 201, answer.text
    entry = answer.json()["experts"][-1]
    assert (entry["name"], entry["measured"]) == ("delta", ["alpha"])
    plain = RouterRetriever.from_pretrained(own.model, device="cpu")  # as saved
    expected = plain.encode_query(["word1 word2"], expert="delta")[0]
    np.testing.assert_allclose(vector(admin, "delta"), expected, atol=1e-5)
    query = next(
        example
        for example, s in zip(plain.library.examples, plain.library.sources, strict=True)
        if s == "alpha"
    )
    assert admin.post("/v1/route", json={"query": query}).json()["routes"][0]["gains"]["delta"] > 0.5
    assert admin.delete("/v1/experts/delta").status_code == 200
    assert admin.post("/v1/embeddings", json={"input": "x", "model": "delta"}).status_code == 404
    assert "delta" not in RouterRetriever.from_pretrained(own.model, device="cpu").experts


def test_what_a_server_changes_is_in_the_models_history(admin, own, adapter_files):
    assert upload(admin, adapter_files, gains='{"alpha": 0.9}').status_code == 201
    assert admin.delete("/v1/experts/delta").status_code == 200
    entries = History(own.model).entries
    assert [[action["what"] for action in entry.actions] for entry in entries[-2:]] == [
        ["added", "measured"],
        ["removed"],
    ]
    before = History(own.model).rollback(entries[-2].number)
    assert "delta" in before.experts and before.gains["alpha"]["delta"] == pytest.approx(0.9)
    assert "delta" in RouterRetriever.from_pretrained(own.model, device="cpu").experts


def test_an_unmeasured_expert_is_pinned_but_not_routed_to(admin, adapter_files):
    assert upload(admin, adapter_files).json()["experts"][-1]["measured"] == []
    route = admin.post("/v1/route", json={"query": "word100 word100 word60"}).json()["routes"][0]
    assert route["expert"] != "delta" and route["gains"]["delta"] == 0
    assert np.isfinite(vector(admin, "delta")).all()


@pytest.mark.parametrize("name", ["base", "routed", "a/b", "..", "", "x" * 300, "a b"])
def test_a_name_that_cannot_be_one(admin, own, adapter_files, name):
    answer = upload(admin, adapter_files, name)
    assert answer.status_code in (400, 422) and answer.json()["error"]["param"] == "name"
    assert sorted(p.name for p in (own.model / "experts").iterdir()) == ["alpha", "beta", "gamma"]


def test_a_taken_name_and_an_unknown_one(admin, adapter_files):
    assert upload(admin, adapter_files, "alpha").status_code == 409
    assert admin.delete("/v1/experts/nobody").status_code == 404


@pytest.mark.parametrize(
    "gains", ["nonsense", "[1]", '{"nowhere": 0.1}', '{"alpha": 7}', '{"alpha": [0.1]}', '{"alpha": "x"}']
)
def test_gains_that_do_not_fit_leave_the_model_as_it_was(admin, adapter_files, gains):
    answer = upload(admin, adapter_files, gains=gains)
    assert answer.status_code in (400, 422), answer.text
    assert [entry["name"] for entry in admin.get("/v1/experts").json()["experts"]] == [
        "alpha",
        "beta",
        "gamma",
    ]


def damaged(files, folder, change):
    tensors = load_file(files / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_bytes((files / "adapter_config.json").read_bytes())
    save_file(change(tensors), folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v * 0 for k, v in t.items()}, "changes no query vector"),
        (lambda t: {k: v * float("nan") for k, v in t.items()}, "not finite"),
        (lambda t: {k: v * 1e30 for k, v in t.items()}, "not finite"),
        (
            lambda t: {k: torch.cat([v, v], dim=1 if "lora_A" in k else 0) for k, v in t.items()},
            "does not fit",
        ),
        (lambda t: dict(itertools.islice(t.items(), 1)), "incomplete|lora_B|no LoRA"),
        (lambda t: {k.replace("layer", "floor"): v for k, v in t.items()}, "not a linear layer"),
    ],
)
def test_weights_that_cannot_be_served_are_refused(admin, adapter_files, tmp_path, change, message):
    answer = upload(admin, damaged(adapter_files, tmp_path, change))
    assert answer.status_code == 400
    text = answer.json()["error"]["message"]
    assert any(part in text for part in message.split("|")), text
    assert str(tmp_path.parent) not in text and "/tmp" not in text
    assert "delta" not in admin.get("/v1/experts").text


def test_pickles_are_not_read(admin, adapter_files):
    import pickle

    files = {
        "config": ("c", (adapter_files / "adapter_config.json").read_bytes()),
        "weights": ("w", pickle.dumps({"a": 1})),
    }
    answer = admin.post("/v1/experts", data={"name": "delta"}, files=files)
    assert answer.status_code == 400 and "damaged" in answer.json()["error"]["message"]


def test_another_bases_adapter_needs_a_word(admin, adapter_files, tmp_path):
    config = json.loads((adapter_files / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "someone/else"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(
        (adapter_files / "adapter_model.safetensors").read_bytes()
    )
    assert upload(admin, tmp_path).status_code == 400
    assert upload(admin, tmp_path, trust_base="true").status_code == 201


def test_what_cannot_be_saved_is_taken_back(admin, own, adapter_files, monkeypatch):
    from routerretriever.errors import StorageError

    def full(self, path):
        raise StorageError("the disk is full")

    monkeypatch.setattr(RouterRetriever, "save_experts", full)
    answer = upload(admin, adapter_files, gains='{"alpha": 0.9}')
    assert answer.status_code == 503 and "disk is full" in answer.json()["error"]["message"]
    assert "delta" not in admin.get("/v1/experts").text
    assert admin.post("/v1/embeddings", json={"input": "x", "model": "delta"}).status_code == 404
    monkeypatch.undo()
    assert upload(admin, adapter_files).status_code == 201


def test_experts_come_and_go_under_load(admin, adapter_files):
    """No request fails, none is answered by another expert than the one it asked for."""
    expected = {name: vector(admin, name) for name in ("base", "alpha", "beta", "gamma")}
    stop, wrong, answered = threading.Event(), [], itertools.count()
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}

    def ask(name):
        with httpx.Client(base_url=admin.base_url, headers=headers, timeout=30) as client:
            while not stop.is_set():
                if not np.allclose(vector(client, name), expected[name], atol=1e-5):
                    wrong.append(name)
                next(answered)

    with ThreadPoolExecutor(len(expected)) as pool:
        asking = [pool.submit(ask, name) for name in expected]
        for _ in range(10):
            assert upload(admin, adapter_files).status_code == 201
            assert np.isfinite(vector(admin, "delta")).all()
            assert admin.delete("/v1/experts/delta").status_code == 200
        stop.set()
        for future in asking:
            future.result()
    assert not wrong and next(answered) > 20


def test_queries_of_the_last_hour_are_counted(admin):
    for name in ("alpha", "alpha", "base"):
        vector(admin, name)
    listing = admin.get("/v1/experts").json()
    assert {e["name"]: e["served_last_hour"] for e in listing["experts"]} == {
        "alpha": 2,
        "beta": 0,
        "gamma": 0,
    }
    assert listing["others_last_hour"] == {"base": 1, "merged": 0}
