"""A base behind an OpenAI-compatible endpoint: our own server, and one that misbehaves."""

import json
import threading
import time
from collections import Counter

import numpy as np
import pytest
from commands import run, run_json
from embedding_server import EmbeddingEndpoint, answer, vector_of
from models import TEXTS, load, with_library
from tiny import random_adapter

from routerretriever import Collection, RouterRetriever, TrainingConfig, train_expert
from routerretriever.encoder import remote_requests
from routerretriever.encoder.remote_embedding import RemoteEmbedding
from routerretriever.endpoint import KEY_VARIABLE
from routerretriever.errors import FingerprintError, FormatError, ModelError
from routerretriever.experts.training_config import TrainedKinds

KEY = "sk-not-to-be-saved"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(remote_requests, "BACKOFF", 0.01)
    monkeypatch.setattr(remote_requests, "TIMEOUT", 2.0)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def endpoint():
    running = []

    def start(behave=None):
        running.append(EmbeddingEndpoint(behave))
        return running[-1]

    yield start
    for server in running:
        server.close()


def create(server, **options):
    return RouterRetriever.create("openai:tiny", endpoint=server.url, device="cpu", **options)


def with_maps(model, n=3):
    for number in range(n):
        model.add_expert(f"e{number}", random_adapter(model.encoder.adapted_layers, number, rank=2))
    return with_library(model)


def test_vectors_are_those_of_the_endpoint(endpoint):
    server = endpoint()
    model = create(server)
    wanted = [vector_of(text) for text in TEXTS]
    for found in (model.encode_query(TEXTS), model.encode_document(TEXTS), model.embed_texts(TEXTS)):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert model.encoder.base.id == "openai:tiny" and not model.encoder.is_opened
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert {body["model"] for body in server.requests} == {"tiny"}


def test_no_text_is_paid_for_twice(endpoint, tmp_path):
    server = endpoint()
    model = with_maps(create(server))
    model.encode_query(TEXTS)
    model.embed_texts([*TEXTS, *TEXTS])
    model.save_pretrained(tmp_path / "model")
    before = len(server.requests)
    again = load(tmp_path / "model")
    again.encode_routed(TEXTS)
    again.route(TEXTS[:3])
    assert len(server.requests) == before
    assert max(Counter(server.texts).values()) == 1


def test_many_texts_go_in_batches_at_the_same_time(endpoint, monkeypatch):
    server = endpoint(lambda body, number: time.sleep(0.05) or answer(body["input"]))
    model = create(server)
    texts = [f"word{n} and some more" for n in range(300)]
    model.embed_texts(texts)
    sizes = [len(body["input"]) for body in server.requests]
    assert max(sizes) == remote_requests.BATCH and sum(sizes) == len(server.texts)
    assert 1 < server.most_under_way <= remote_requests.AT_ONCE
    monkeypatch.setattr(remote_requests, "BATCH_CHARACTERS", 100)
    model.embed_texts([f"{text} {'long ' * 30}" for text in texts[:5]])
    assert len(server.requests) == len(sizes) + 5


def test_a_model_is_saved_without_the_key_and_loaded_without_the_endpoint(endpoint, tmp_path):
    server = endpoint()
    model = with_maps(create(server))
    wanted = model.encode_query(TEXTS)
    model.save_pretrained(tmp_path / "model")
    server.close()
    loaded = load(tmp_path / "model")
    assert loaded.fingerprint == model.fingerprint
    np.testing.assert_allclose(loaded.encode_query(TEXTS), wanted, atol=1e-6)
    for file in (tmp_path / "model").rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes()


def test_noise_of_a_provider_is_no_other_model(endpoint, tmp_path):
    server = endpoint(lambda body, number: answer(body["input"], noise=1e-3))
    model = create(server)
    model.save_pretrained(tmp_path / "model")
    assert create(server).fingerprint == model.fingerprint
    load(tmp_path / "model").encode_query("something new")


@pytest.mark.parametrize("change", [{"seed": 1}, {"size": 12}], ids=["vectors", "dimension"])
def test_a_provider_that_changes_the_model_is_noticed(endpoint, change, tmp_path):
    options = {}
    server = endpoint(lambda body, number: answer(body["input"], **options))
    model = create(server)
    kept = model.encode_query(TEXTS)
    model.save_pretrained(tmp_path / "model")
    options.update(change)
    loaded = load(tmp_path / "model")
    with pytest.raises(FingerprintError, match="another model under the name 'tiny'.*create a new one"):
        loaded.encode_query("something new")
    np.testing.assert_allclose(loaded.encode_query(TEXTS), kept, atol=1e-6)  # what was kept stays
    assert create(server).fingerprint != model.fingerprint


FAULTS = {
    "dimension": (lambda body, number: answer(body["input"], size=7), "vectors of 7 numbers instead of 24"),
    "fewer": (lambda body, number: answer(body["input"][1:]), "vectors for 20 texts"),
    "nan": (
        lambda body, number: {"data": [{"index": 0, "embedding": [float("nan")] * 24}] * len(body["input"])},
        "not finite",
    ),
    "words": (lambda body, number: {"data": ["no"] * len(body["input"])}, "not a list of vectors"),
    "never": (lambda body, number: time.sleep(5), "no answer within"),
    "busy": (lambda body, number: (429, {}), "status 429"),
    "broken": (lambda body, number: (500, {}), "status 500"),
    "long pause": (lambda body, number: (429, {"Retry-After": "90000"}), "after 1 attempts: status 429"),
    "wrong": (lambda body, number: (400, {}), "after 1 attempts: status 400"),
    "no key": (lambda body, number: (401, {}), f"refuses every request.*key in {KEY_VARIABLE}"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_have_names_and_nothing_is_half_added(endpoint, fault, monkeypatch):
    behave, message = FAULTS[fault]
    server = endpoint()
    model = create(server)
    model.encode_query("so that the provider was looked at")
    monkeypatch.setattr(remote_requests, "ATTEMPTS", 3)
    monkeypatch.setattr(remote_requests, "TIMEOUT", 0.3)
    good, server.behave = server.behave, behave
    model.encoder.body._requests = remote_requests.EmbeddingRequests(server.url, "tiny")  # not as patient
    with pytest.raises(ModelError, match=message) as error:
        model.embed_texts(TEXTS[:20])
    assert KEY not in str(error.value)
    server.behave = good
    np.testing.assert_allclose(
        model.embed_texts(TEXTS[:20]), [vector_of(text) for text in TEXTS[:20]], atol=1e-4
    )


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_fault_that_passes_is_waited_for(endpoint, status):
    server = endpoint(
        lambda body, number: (status, {"Retry-After": "0"}) if number % 3 else answer(body["input"])
    )
    np.testing.assert_allclose(create(server).encode_query("word1"), vector_of("word1"), atol=1e-4)


def test_what_was_answered_before_a_fault_is_kept(endpoint, monkeypatch):
    monkeypatch.setattr(remote_requests, "BATCH", 8)
    server = endpoint()
    model = create(server)
    server.behave = lambda body, number: (400, {}) if "bad" in body["input"] else answer(body["input"])
    texts = [*TEXTS[:16], *(f"other {n}" for n in range(8)), "bad"]
    with pytest.raises(ModelError, match="status 400"):
        model.embed_texts(texts)
    asked = len(server.texts)
    server.behave = lambda body, number: answer(body["input"])
    model.embed_texts(texts)
    assert len(server.texts) - asked <= 8


@pytest.mark.parametrize(
    ("name", "url", "message"),
    [
        ("openai:", "http://localhost:1/v1", "names no model"),
        ("openai:tiny", "localhost:1/v1", "is not an endpoint"),
        ("openai:tiny", "https://me:secret@localhost:1/v1", "saved with the model"),
        ("all-MiniLM-L6-v2", "http://localhost:1/v1", "is none. Name it openai:MODEL"),
    ],
)
def test_addresses_that_are_none_are_refused(name, url, message):
    with pytest.raises(ModelError, match=message) as error:
        RouterRetriever.create(name, endpoint=url, device="cpu")
    assert "secret" not in str(error.value)


def test_a_remote_base_is_not_exported_but_has_a_card(endpoint, tmp_path):
    model = with_maps(create(endpoint()))
    with pytest.raises(ModelError, match="behind an endpoint"):
        model.export_expert("e1", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
    model.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "`openai:tiny`" in card and "base_model:" not in card and "None tokens" not in card


def test_damaged_files_are_named(endpoint, tmp_path):
    create(endpoint()).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "0_RemoteEmbedding" / "probes.safetensors").write_bytes(b"no")
    with pytest.raises(FormatError, match=r"does not describe a remote base \(probes.safetensors"):
        load(tmp_path / "model")


def test_threads_share_an_endpoint(endpoint):
    model, found = create(endpoint()), {}

    def encode(number):
        found[number] = model.encode_query(f"word{number}", expert="base")

    threads = [threading.Thread(target=encode, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, vector in found.items():
        np.testing.assert_allclose(vector, vector_of(f"word{number}"), atol=1e-4)


def test_a_map_learns_on_a_remote_base(endpoint, make_collection):
    collection, model = Collection.load(make_collection("aliases")), create(endpoint())
    config = TrainingConfig(kind=TrainedKinds.AUTO, map_learning_rate=0.03, map_epochs=20, patience=100)
    report = train_expert(model, collection, config=config, force=True)
    assert report.info.selection_gain > 0.05


def test_the_command_trains_and_searches_with_a_remote_base(endpoint, make_collection, tmp_path):
    collection, server, model = make_collection("aliases"), endpoint(), tmp_path / "model"
    options = ("--base", "openai:tiny", "--endpoint", server.url, "--force", "--epochs", "3")
    assert "so the expert is a map" in run("train", model, collection, *options).stderr
    run("library", model, collection)
    run("index", model, tmp_path / "index", collection)
    assert len(run_json("search", tmp_path / "index", "word1 word2")["hits"]) == 10
    run("doctor", model)
    assert max(Counter(server.texts).values()) <= 4  # probe texts, once for each process that asks
    assert "knows its endpoint" in run("train", model, collection, *options, code=1).stderr
    assert json.loads((model / "0_RemoteEmbedding" / "remote.json").read_text())["endpoint"] == server.url


def test_our_own_server_can_be_the_endpoint(built, client):
    local = load(built / "model")
    remote = RemoteEmbedding.create("openai:base", str(client.base_url.join("/v1")))
    found = remote(remote.preprocess(TEXTS))["sentence_embedding"].numpy()
    np.testing.assert_allclose(found, local.encode_query(TEXTS, expert="base"), atol=1e-5)


def test_the_garbage_collector_waits_for_no_endpoint(endpoint):
    """It may collect one in a thread that holds what the end of another one needs."""
    requests = remote_requests.EmbeddingRequests(endpoint().url, "tiny")
    background, busy = requests._started(), threading.Event()
    background.loop.call_soon_threadsafe(busy.wait)
    closing = threading.Thread(target=background.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
    busy.set()
    while not background.loop.is_closed():
        time.sleep(0.01)
