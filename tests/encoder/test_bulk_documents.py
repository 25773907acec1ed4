from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import needs_int8, random_adapter

from routerretriever import RouterRetriever
from routerretriever.encoder.bulk_documents import encode_documents, resolved_precision
from routerretriever.encoder.token_batches import batches
from routerretriever.errors import ModelError

LONG, SHORT = " ".join(f"word{n % 90}" for n in range(60)), "word1 word2"
TEXTS = [LONG if number % 5 == 0 else f"{SHORT} word{number % 70}" for number in range(40)]


@pytest.fixture
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


def test_batches_hold_every_row_once_and_keep_the_budget():
    lengths = list(np.random.default_rng(0).integers(1, 300, size=500))
    found = list(batches(lengths, 1000))
    assert sorted(row for batch in found for row in batch) == list(range(500))
    assert all(len(batch) * max(lengths[row] for row in batch) <= 1000 for batch in found)
    # Longest first, so that what does not fit in memory fails at once.
    firsts = [lengths[batch[0]] for batch in found]
    assert firsts == sorted(firsts, reverse=True)
    # No two neighbours could have been one batch.
    assert all(lengths[a[0]] * (len(a) + 1) > 1000 for a, _ in pairwise(found))


def test_a_text_over_the_budget_goes_alone():
    assert list(batches([5, 9000, 5], 1000)) == [[1], [0, 2]]
    assert list(batches([], 1000)) == []


def test_vectors_are_those_of_encode_document(model):
    done = []
    found = encode_documents(model, TEXTS, done=done.append)
    np.testing.assert_allclose(found, model.encode_document(TEXTS), atol=1e-5)
    assert (found.dtype, sum(done)) == (np.float32, len(TEXTS))
    assert encode_documents(model, []).shape == (0, model.encoder.dimension)


def test_prompts_of_documents_are_kept(model):
    model.prompts["document"] = "word9 word9 word9: "
    plain = encode_documents(model, TEXTS)
    np.testing.assert_allclose(plain, model.encode_document(TEXTS), atol=1e-5)
    del model.prompts["document"]
    assert np.abs(plain - encode_documents(model, TEXTS)).max() > 1e-3


def test_bfloat16_is_close_and_has_a_cache_of_its_own(model, monkeypatch):
    exact = model.embed_texts(TEXTS)
    half = model.embed_texts(TEXTS, precision="bf16")
    cosines = (exact * half).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(half, axis=1)
    assert cosines.min() > 0.999
    assert np.abs(exact - half).max() > 1e-5
    monkeypatch.setattr(model, "encode_document", lambda *a, **k: pytest.fail("all of these are cached"))
    assert np.array_equal(model.embed_texts(TEXTS), exact)
    assert np.array_equal(model.embed_texts(TEXTS, precision="bf16"), half)


@needs_int8
def test_int8_is_close_and_leaves_everything_else_alone(model):
    exact, pinned = encode_documents(model, TEXTS), model.encode_query(TEXTS)
    rounded = encode_documents(model, TEXTS, precision="int8")
    cosines = (exact * rounded).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert cosines.min() > 0.99
    assert np.abs(exact - rounded).max() > 1e-5
    assert np.array_equal(encode_documents(model, TEXTS), exact)
    assert np.array_equal(model.encode_query(TEXTS), pinned)
    assert np.array_equal(
        encode_documents(pickle.loads(pickle.dumps(model)), TEXTS, precision="int8"), rounded
    )


@needs_int8
def test_int8_holds_for_one_thread_and_for_documents(model):
    model.add_expert("one", random_adapter(model.encoder.lora_layers, 1))
    exact, pinned = encode_documents(model, TEXTS), model.encode_query(TEXTS, expert="one")
    with model.encoder.in_int8(), ThreadPoolExecutor() as pool:
        assert np.array_equal(pool.submit(encode_documents, model, TEXTS).result(), exact)
        assert np.array_equal(model.encode_query(TEXTS, expert="one"), pinned)
        rounded = encode_documents(model, TEXTS, precision="int8")
        assert np.array_equal(encode_documents(model, TEXTS), rounded)  # the outer block still holds


@needs_int8
def test_int8_computes_without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    first = encode_documents(model, TEXTS, precision="int8")
    assert np.array_equal(encode_documents(model, TEXTS, precision="int8"), first)


def test_int8_is_refused_where_it_cannot_be_computed(model, monkeypatch):
    with pytest.raises(ModelError, match="is on 'cuda'. Choose bf16"):
        resolved_precision("int8", torch.device("cuda"))

    def gone(*args):
        raise AttributeError("no such operator")

    monkeypatch.setattr(torch, "quantize_per_channel", gone)
    with pytest.raises(ModelError, match="cannot multiply in 8 bits here"):
        encode_documents(model, TEXTS, precision="int8")
    encode_documents(model, TEXTS)


@pytest.mark.parametrize("capable", [True, False])
def test_auto_asks_the_device(monkeypatch, capable):
    monkeypatch.setattr("routerretriever.encoder.bulk_documents.has_bfloat16", lambda device: capable)
    assert resolved_precision("auto", torch.device("cpu")) == ("bf16" if capable else "fp32")


def test_an_unknown_precision_is_refused(model):
    with pytest.raises(ModelError, match="fp32, bf16, int8, auto"):
        model.embed_texts(TEXTS, precision="fp8")
