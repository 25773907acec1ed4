"""Experts that change the finished vector."""

import numpy as np
import pytest
import torch
from models import TEXTS, layers_of, load, with_experts
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from tiny import random_adapter
from torch.nn import functional as F

from routerretriever import RouterRetriever
from routerretriever.encoder.query_batch import EncodedQueries
from routerretriever.lora.adapter import VECTOR_MAP, Kind
from routerretriever.lora.layers import TrainingPlan


@pytest.fixture
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


def added(model, name, kind, seed=0):
    adapter = random_adapter(layers_of(model.encoder, kind), seed)
    model.add_expert(name, adapter)
    return adapter


def mapped(vectors, adapter):
    """The map by its formula."""
    a, b = adapter.factors[VECTOR_MAP]
    return (vectors + adapter.scaling * vectors @ a.T @ b.T).numpy()


def test_a_base_of_unit_vectors_stays_one(checkpoint, tmp_path):
    plain = SentenceTransformer(str(checkpoint), device="cpu")
    plain.append(Normalize())
    plain.save(str(tmp_path / "base"))
    model = RouterRetriever.create(str(tmp_path / "base"), device="cpu")
    adapter = added(model, "m", "map")
    base = torch.as_tensor(model.encode_query(TEXTS, expert="base"))
    found = model.encode_query(TEXTS, expert="m")
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(found, F.normalize(torch.as_tensor(mapped(base, adapter)), dim=-1), atol=1e-5)


def test_a_map_is_what_its_formula_says(model):
    adapter = added(model, "m", "map")
    base = torch.as_tensor(model.encode_query(TEXTS, expert="base"))
    assert adapter.kind == Kind.MAP
    np.testing.assert_allclose(model.encode_query(TEXTS, expert="m"), mapped(base, adapter), atol=1e-4)


def test_a_map_comes_after_the_layers(model):
    both = added(model, "both", "both")
    model.add_expert("layers", both.layers)
    assert (both.kind, both.layers.kind) == (Kind.BOTH, Kind.LORA)
    layers = torch.as_tensor(model.encode_query(TEXTS, expert="layers"))
    np.testing.assert_allclose(model.encode_query(TEXTS, expert="both"), mapped(layers, both), atol=1e-4)
    again = both.layers.with_map(both)
    assert again.fingerprint == both.fingerprint


def test_base_documents_and_fingerprint_know_nothing_of_maps(model):
    before, state = model.encode_document(TEXTS), set(model.encoder.state_dict())
    fingerprint = model.fingerprint
    added(model, "m", "map")
    assert (model.encode_document(TEXTS) == before).all()
    assert (model.encode_query(TEXTS, expert="base") == before).all()
    assert set(model.encoder.state_dict()) == state and model.fingerprint == fingerprint


def test_merged_is_the_mean_of_the_maps(model):
    first, second = added(model, "a", "map", 1), added(model, "b", "map", 2)
    base = torch.as_tensor(model.encode_query(TEXTS, expert="base"))
    total = sum(base @ x.factors[VECTOR_MAP][0].T @ x.factors[VECTOR_MAP][1].T for x in (first, second))
    wanted = (base + 0.5 * first.scaling * total).numpy()
    np.testing.assert_allclose(model.encode_query(TEXTS, expert="merged"), wanted, atol=1e-4)


def test_finished_queries_are_mapped_as_a_whole_pass_does(model):
    both = added(model, "both", "both")
    queries = EncodedQueries.of(model.encoder, TEXTS, model.query_prompt)
    finished = queries.finished(TrainingPlan(both.layers))
    np.testing.assert_allclose(
        finished.vectors(TrainingPlan(both)), model.encode_query(TEXTS, expert="both"), atol=1e-4
    )


@pytest.mark.parametrize("kinds", [("map",), ("both",), ("lora", "map", "both")], ids="-".join)
def test_a_model_with_maps_is_saved_and_loaded(checkpoint, kinds, tmp_path):
    model = with_experts(checkpoint, 3, kinds=kinds)
    wanted = [model.encode_query(TEXTS, expert=name) for name in model.experts]
    model.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.state.versions == model.state.versions
    for name, vectors in zip(model.experts, wanted, strict=True):
        np.testing.assert_allclose(loaded.encode_query(TEXTS, expert=name), vectors, atol=1e-6)
