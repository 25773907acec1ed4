"""What the first version wrote still loads, and gives what it gave."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from routerretriever import Collection, Index, RouterRetriever
from routerretriever.encoder.embedding_cache import EmbeddingCache

V1 = Path(__file__).parent / "v1"
EXPECTED = json.loads((V1 / "expected.json").read_text(encoding="utf-8"))
QUERIES = ["word1 word2", "lamp tide", "zap cord word77"]


@pytest.fixture(scope="module")
def model():
    return RouterRetriever.from_pretrained(V1 / "model", device="cpu")


@pytest.fixture
def index(model, tmp_path):
    return Index.open(shutil.copytree(V1 / "index", tmp_path / "index"), model)


def test_its_model_encodes_and_routes_as_it_did(model):
    assert model.fingerprint == EXPECTED["fingerprint"]
    np.testing.assert_allclose(model.encode_query(QUERIES), EXPECTED["queries"], atol=2e-6)
    documents = model.encode_document(["word1 word2 word3"])
    np.testing.assert_allclose(documents, EXPECTED["documents"], atol=2e-6)
    routes = model.route(QUERIES[:2])
    for route, expected in zip(routes, EXPECTED["routes"], strict=True):
        assert route.expert == expected["expert"]
        assert route.gains == pytest.approx(expected["gains"], abs=1e-4)


def test_its_model_can_be_changed_and_saved(model, tmp_path):
    shutil.copytree(V1 / "model", tmp_path / "model")
    changed = RouterRetriever.from_pretrained(tmp_path / "model", device="cpu")
    changed.remove_expert("beta")
    changed.save_pretrained(tmp_path / "model")
    again = RouterRetriever.from_pretrained(tmp_path / "model", device="cpu")
    assert list(again.experts) == ["alpha"]


def test_its_index_finds_what_it_found(index):
    modes = ("vector", "text", "hybrid")
    for mode, expected in zip(modes, EXPECTED["hits"], strict=True):
        hits = index.search(QUERIES[0], 5, mode=mode)
        assert [hit.id for hit in hits] == [document_id for document_id, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_its_index_takes_new_documents(index):
    document = Collection.load(V1 / "collections" / "two").documents[0]
    index.upsert([document], collection="two")
    assert len(index) == 25


def test_its_cache_is_read(model, monkeypatch, tmp_path):
    monkeypatch.setenv("ROUTERRETRIEVER_CACHE", str(shutil.copytree(V1 / "cache", tmp_path / "cache")))
    texts = Collection.load(V1 / "collections" / "one").contents

    def nothing_is_new(block, done):
        raise AssertionError(block)

    cache = EmbeddingCache(model.fingerprint, model.encoder.dimension)
    assert len(cache.vectors(texts, nothing_is_new)) == len(texts)
