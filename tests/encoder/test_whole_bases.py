"""Bases that cannot be opened: their experts are maps, and the router reads their finished vectors."""

import json

import numpy as np
import pytest
import torch
from bases import (
    make_transformer,
    save_bag_of_words,
    save_model2vec,
    save_static,
)
from commands import run, run_json
from models import TEXTS, load, with_experts, with_library
from sentence_transformers import SentenceTransformer
from tiny import random_adapter

from routerretriever import Collection, Index, RouterRetriever, TrainingConfig, diagnose, train_expert
from routerretriever.errors import ExpertError, FormatError, ModelError
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.lora.adapter import Kind

KINDS = {"static": save_static, "model2vec": save_model2vec, "bag-of-words": save_bag_of_words}


@pytest.fixture(scope="module", params=KINDS)
def base(request, tmp_path_factory):
    return KINDS[request.param](tmp_path_factory.mktemp(request.param) / "base")


def create(path, **options):
    return RouterRetriever.create(str(path), device="cpu", **options)


def test_vectors_are_those_of_sentence_transformers(base):
    model = create(base)
    if (base / "modules.json").exists():
        plain = SentenceTransformer(str(base), device="cpu")
        np.testing.assert_allclose(model.encode_query(TEXTS), plain.encode(TEXTS), atol=1e-6)
    assert not model.encoder.is_opened
    np.testing.assert_allclose(model.embed_texts(TEXTS), model.encode_document(TEXTS), atol=1e-6)
    np.testing.assert_allclose(model.encode_routed(TEXTS).vectors, model.encode_query(TEXTS), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(model.encode_query(TEXTS), axis=1), 1.0, atol=1e-5)


def test_a_routed_batch_is_what_each_query_gets_alone(base):
    model = with_library(with_experts(base, 3, kinds=("map",)))
    routed = model.encode_routed(TEXTS)
    assert {"e0", "e1", "e2"} <= set(routed.experts)
    for text, vector in zip(TEXTS, routed.vectors, strict=True):
        np.testing.assert_allclose(model.encode_routed([text]).vectors[0], vector, atol=1e-5)
    pinned = [("e0", "e1", "e2", "base", None)[row % 5] for row in range(len(TEXTS))]
    mixed = model.encode_routed(TEXTS, pinned)
    for text, vector, expert in zip(TEXTS, mixed.vectors, pinned, strict=True):
        np.testing.assert_allclose(model.encode_query(text, expert=expert), vector, atol=1e-5)
    np.testing.assert_allclose(model.encode_query(TEXTS), routed.vectors, atol=1e-6)
    base_vectors = model.encode_query(TEXTS, expert="base")
    np.testing.assert_allclose(model.route_embeddings(TEXTS), base_vectors, atol=1e-6)
    assert len(routed.tokens) == len(TEXTS) and (routed.tokens > 0).all()


def test_the_base_runs_once_for_a_routed_batch(base, monkeypatch):
    model, runs = with_library(with_experts(base, 3, kinds=("map",))), []
    forward = type(model.encoder.body).forward
    monkeypatch.setattr(
        type(model.encoder.body), "forward", lambda self, *given: runs.append(1) or forward(self, *given)
    )
    model.encode_routed(TEXTS)
    assert runs == [1]


def test_a_saved_model_is_loaded_as_it_was(base, tmp_path):
    model = with_library(with_experts(base, 3, kinds=("map",)))
    model.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.fingerprint == model.fingerprint and loaded.state.versions == model.state.versions
    np.testing.assert_allclose(loaded.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-6)
    assert json.loads((tmp_path / "model" / "routerretriever.json").read_text())["format_version"] == 3
    assert [finding for finding in diagnose(tmp_path / "model") if finding.severity == "error"] == []
    loaded.remove_expert("e1")
    loaded.save_experts(tmp_path / "model")
    assert list(load(tmp_path / "model").experts) == ["e0", "e2"]


def test_a_map_is_trained_and_searched_with(base, make_collection, tmp_path):
    collection = Collection.load(make_collection("aliases"))
    model = create(base)
    config = TrainingConfig(kind=TrainedKinds.AUTO, map_learning_rate=0.03, map_epochs=20, patience=100)
    report = train_expert(model, collection, config=config, force=True)
    assert report.kind == Kind.MAP and report.info.selection_gain > 0.05
    model.build_library([collection])
    model.save_pretrained(tmp_path / "model")
    index = Index.create(tmp_path / "index", load(tmp_path / "model"))
    index.upsert(collection.documents)
    assert len(index.search("word1 word2", k=5)) == 5


def test_kinds_that_change_layers_are_refused(base, make_collection):
    collection, model = Collection.load(make_collection("aliases")), create(base)
    for kind in (TrainedKinds.LORA, TrainedKinds.BOTH):
        with pytest.raises(ExpertError, match=f"kind '{kind}' is not possible. Train a map"):
            train_expert(model, collection, config=TrainingConfig(kind=kind))
    assert not model.experts


def test_what_only_layers_can_do_is_refused(base, checkpoint):
    with pytest.raises(ModelError, match="no layers that experts could change"):
        create(base, branch_layer=2)
    model = create(base)
    for precision in ("bf16", "int8"):
        with pytest.raises(ModelError, match="keeps its own precision"):
            model.embed_texts(TEXTS, precision=precision)
    assert model.document_precision("auto") == "fp32"
    other = RouterRetriever.create(str(checkpoint), device="cpu")
    with pytest.raises(ExpertError, match="cannot be opened here. Train a map"):
        model.add_expert("layers", random_adapter(other.encoder.lora_layers, 1))


def test_the_command_trains_a_map_and_says_so(base, make_collection, tmp_path):
    collection, model = make_collection("aliases"), tmp_path / "model"
    options = ("--base", base, "--force", "--epochs", "3")
    said = run("train", model, collection, *options)
    assert "so the expert is a map" in said.stderr
    run("library", model, collection)
    listed = run_json("experts", "list", model)
    assert listed["experts"]["aliases"]["kind"] == "map"
    run("index", model, tmp_path / "index", collection)
    assert len(run_json("search", tmp_path / "index", "word1 word2")["hits"]) == 10
    run("doctor", model)
    assert "--kind map" in run("train", model, collection, "--kind", "lora", "--force", code=1).stderr


def test_embeddings_in_half_precision_have_exact_maps(tmp_path):
    base = save_static(tmp_path / "base", dtype=torch.float16)
    model = with_experts(base, 1, kinds=("map",))
    wanted = with_experts(save_static(tmp_path / "whole"), 1, kinds=("map",)).encode_query(TEXTS, expert="e0")
    np.testing.assert_allclose(model.encode_query(TEXTS, expert="e0"), wanted, atol=2e-3)


@pytest.mark.parametrize("architecture", ["t5", "gpt2", "deberta-v2"])
def test_a_transformer_whose_layers_cannot_run_by_themselves_is_used_as_a_whole(architecture, tmp_path):
    base = make_transformer(tmp_path / "base", architecture)
    model = with_experts(base, 2, kinds=("map",))
    assert not model.encoder.is_opened
    plain = SentenceTransformer(str(base), device="cpu")
    np.testing.assert_allclose(model.encode_query(TEXTS, expert="base"), plain.encode(TEXTS), atol=1e-6)
    model.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.fingerprint == model.fingerprint and not loaded.encoder.is_opened
    np.testing.assert_allclose(
        loaded.encode_query(TEXTS, expert="e1"), model.encode_query(TEXTS, expert="e1")
    )


@pytest.mark.parametrize("architecture", ["distilbert", "electra"])
def test_a_transformer_whose_layers_do_is_opened(architecture, tmp_path):
    base = make_transformer(tmp_path / "base", architecture)
    model = with_library(with_experts(base, 3))
    assert model.encoder.is_opened
    pinned = [("e0", "e1", "e2", "base")[row % 4] for row in range(len(TEXTS))]
    for text, expert, vector in zip(TEXTS, pinned, model.encode_routed(TEXTS, pinned).vectors, strict=True):
        np.testing.assert_allclose(model.encode_query(text, expert=expert), vector, atol=1e-5)


def test_an_opened_base_with_maps_alone_runs_once_where_the_router_reads_the_end(checkpoint, monkeypatch):
    model = with_library(with_experts(checkpoint, 3, kinds=("map",), route_layer=-1))
    runs, forward = [], type(model.encoder.body).forward
    monkeypatch.setattr(
        type(model.encoder.body), "forward", lambda self, *given: runs.append(1) or forward(self, *given)
    )
    routed = model.encode_routed(TEXTS)
    assert runs == [1]
    model.add_expert("layers", random_adapter(model.encoder.lora_layers, 9))
    again = model.encode_routed(TEXTS)
    assert len(runs) > 2  # once more to try the new expert, twice to route
    np.testing.assert_allclose(routed.route_embeddings, again.route_embeddings, atol=1e-6)


def test_an_exported_map_is_a_plain_model(base, tmp_path):
    model = with_experts(base, 2, kinds=("map",))
    model.export_expert("e1", tmp_path / "plain")
    exported = SentenceTransformer(str(tmp_path / "plain"), device="cpu")
    np.testing.assert_allclose(exported.encode(TEXTS), model.encode_query(TEXTS, expert="e1"), atol=1e-5)


def test_pilots_of_queries_without_a_known_word_are_zero(make_collection, tmp_path):
    model, path = with_experts(save_bag_of_words(tmp_path / "base"), 2, kinds=("map",)), make_collection("a")
    rows = [json.loads(line) for line in (path / "queries.jsonl").read_text().splitlines()]
    lines = [json.dumps(row | {"text": f"{row['_id']} unheard of"}) for row in rows]
    (path / "queries.jsonl").write_text("\n".join(lines) + "\n")
    library = model.build_library([Collection.load(path)])
    assert len(library) > 0 and not library.centroids.any()
    assert np.isfinite(model.encode_query(["nobody knows", "word1"])).all()


def test_other_embeddings_have_another_fingerprint(tmp_path):
    first = create(save_static(tmp_path / "a")).fingerprint
    assert create(save_static(tmp_path / "b")).fingerprint == first
    assert create(save_static(tmp_path / "c", dtype=torch.float16)).fingerprint != first
    assert create(save_static(tmp_path / "d", normalize=False)).fingerprint != first


def test_a_module_of_foreign_making_is_not_loaded(tmp_path):
    model = with_experts(save_static(tmp_path / "base"), 1, kinds=("map",))
    model.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "routerretriever.json"
    info = json.loads(path.read_text())
    info["body"]["type"] = "os.system"
    path.write_text(json.dumps(info))
    with pytest.raises(FormatError, match="names the module os.system"):
        load(tmp_path / "model")
