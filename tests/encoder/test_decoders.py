"""Decoders as bases: causal masks, positions, grouped heads, padding on the left, the last token's vector."""

import json

import numpy as np
import pytest
import torch
from bases import edit, make_decoder
from commands import run, run_json
from models import TEXTS, load, with_experts, with_library
from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers import SentenceTransformer
from tiny import random_adapter
from transformers import AutoModel

from routerretriever import Collection, RouterRetriever, TrainingConfig, add_expert, train_expert
from routerretriever.encoder.query_batch import prepare_queries
from routerretriever.encoder.token_ids import TokenIds
from routerretriever.errors import ModelError
from routerretriever.kernels import attention
from routerretriever.lora.adapter import Kind
from routerretriever.sharing.export import export_expert

FAMILIES = ("qwen3", "llama", "mistral", "gemma3_text")


@pytest.fixture(scope="module", params=FAMILIES)
def base(request, tmp_path_factory):
    return make_decoder(tmp_path_factory.mktemp(request.param) / "base", request.param)


def create(path, **options):
    return RouterRetriever.create(str(path), device="cpu", **options)


def test_vectors_are_those_of_sentence_transformers_with_the_bases_own_setting(base):
    plain, model = SentenceTransformer(str(base), device="cpu"), create(base)
    assert plain.tokenizer.padding_side == "left" and model.encoder.is_opened
    for method in ("encode_query", "encode_document"):
        wanted = getattr(plain, method)(TEXTS)
        np.testing.assert_allclose(getattr(model, method)(TEXTS), wanted, atol=1e-5)
        alone = np.stack([getattr(model, method)(text) for text in TEXTS])
        np.testing.assert_allclose(alone, wanted, atol=1e-5)
    np.testing.assert_allclose(model.embed_texts(TEXTS), plain.encode_document(TEXTS), atol=1e-5)


@pytest.mark.parametrize("kinds", [("lora",), ("lora", "map", "both")], ids="-".join)
@pytest.mark.parametrize("route_layer", [None, -1])
def test_a_routed_batch_is_what_each_query_gets_alone(base, kinds, route_layer):
    model = with_library(with_experts(base, 6, kinds=kinds, branch_layer=1, route_layer=route_layer))
    routed = model.encode_routed(TEXTS)
    assert len(set(routed.experts)) > 3
    for text, vector in zip(TEXTS, routed.vectors, strict=True):
        np.testing.assert_allclose(model.encode_routed([text]).vectors[0], vector, atol=1e-4)
    pinned = [("e0", "e1", "e2", "e3", "base", "merged")[row % 6] for row in range(len(TEXTS))]
    mixed = model.encode_routed(TEXTS, pinned)
    for text, vector, expert in zip(TEXTS, mixed.vectors, pinned, strict=True):
        np.testing.assert_allclose(model.encode_query(text, expert=expert), vector, atol=1e-4)


def test_queries_resume_at_the_branch_layer(base):
    model = with_experts(base, 2)
    queries = prepare_queries(model.encoder, TEXTS, model.query_prompt)
    np.testing.assert_allclose(queries.route_embeddings(), model.route_embeddings(TEXTS), atol=1e-5)
    for expert in ("base", "e0", "merged"):
        found = queries.vectors(model.encoder.pinned_plan(expert))
        np.testing.assert_allclose(found, model.encode_query(TEXTS, expert=expert), atol=1e-5)


def test_an_expert_is_what_peft_makes_of_it(base, tmp_path):
    plain = AutoModel.from_pretrained(base)
    plain.config._name_or_path = plain.name_or_path = "base"
    torch.manual_seed(1)
    model = create(base)
    adapted = get_peft_model(plain, LoraConfig(r=4, target_modules=list(model.encoder.lora_layers)))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)

    add_expert(model, tmp_path / "adapter", name="e", force=True, trust_base=True)
    features = model.encoder.tokenized(TEXTS)
    peft = PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(tmp_path / "adapter")).eval()
    with torch.inference_mode():
        hidden = peft(features["input_ids"], attention_mask=features["attention_mask"]).last_hidden_state
    last = hidden[torch.arange(len(TEXTS)), features["attention_mask"].sum(dim=1) - 1]
    wanted = torch.nn.functional.normalize(last, dim=-1).numpy()
    found = model.encode_query(TEXTS, expert="e", prompt="")
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - model.encode_query(TEXTS, expert="base", prompt="")).max() > 0.01


def test_a_saved_model_is_loaded_as_it_was_and_its_base_keeps_its_settings(base, tmp_path):
    model = with_library(with_experts(base, 3, kinds=("lora", "map", "both")))
    model.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.fingerprint == model.fingerprint and loaded.state.versions == model.state.versions
    np.testing.assert_allclose(loaded.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-5)
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert settings["padding_side"] == "left"
    assert model.encoder.tokenizer.padding_side == "right"
    export_expert(model, "e2", tmp_path / "plain")
    exported = SentenceTransformer(str(tmp_path / "plain"), device="cpu")
    assert exported.tokenizer.padding_side == "left"
    np.testing.assert_allclose(
        exported.encode_query(TEXTS), model.encode_query(TEXTS, expert="e2"), atol=1e-4
    )


def test_token_ids_stand_for_their_text(base):
    model = create(base)
    ids = [TokenIds(model.encoder.tokenizer(text)["input_ids"]) for text in TEXTS]
    np.testing.assert_allclose(
        model.encode_routed(ids).vectors, model.encode_routed(TEXTS).vectors, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["lora", "map"])
def test_an_expert_learns(base, kind, make_collection, tmp_path):
    collection = Collection.load(make_collection("aliases"))
    model = create(base)
    config = TrainingConfig(
        kind=kind, rank=4, epochs=6, learning_rate=1e-2, map_learning_rate=0.03, map_epochs=20, patience=100
    )
    report = train_expert(model, collection, config=config, force=True)
    assert report.kind == Kind(kind) and report.info.selection_gain > 0.02


def test_a_tokeniser_without_a_pad_token_pads_with_what_the_base_names(tmp_path):
    named = make_decoder(tmp_path / "base", "qwen3")
    for folder, number in (("none", None), ("named", 2)):
        copy = make_decoder(tmp_path / folder, "qwen3")
        edit(copy / "tokenizer_config.json", pad_token=...)
        edit(copy / "config.json", pad_token_id=number)
    with pytest.raises(ModelError, match="has no pad token.*Set pad_token"):
        create(tmp_path / "none")
    model = create(tmp_path / "named")
    assert model.encoder.tokenizer.pad_token == "</s>"
    np.testing.assert_allclose(model.encode_query(TEXTS), create(named).encode_query(TEXTS), atol=1e-5)
    model.save_pretrained(tmp_path / "model")
    np.testing.assert_allclose(load(tmp_path / "model").encode_query(TEXTS), model.encode_query(TEXTS))


def test_a_decoder_that_sees_both_ways_is_opened_too(tmp_path, monkeypatch):
    # EmbeddingGemma: no causal mask, the mean of all tokens.
    base = make_decoder(
        tmp_path / "base",
        "gemma3_text",
        side="right",
        pooling="mean",
        use_bidirectional_attention=True,
        num_key_value_heads=4,
    )
    monkeypatch.setattr(attention, "_pays", lambda query: True)
    model, plain = with_library(with_experts(base, 3)), SentenceTransformer(str(base), device="cpu")
    np.testing.assert_allclose(model.encode_query(TEXTS, expert="base"), plain.encode_query(TEXTS), atol=1e-5)
    routed = model.encode_routed(TEXTS)
    for text, vector in zip(TEXTS, routed.vectors, strict=True):
        np.testing.assert_allclose(model.encode_routed([text]).vectors[0], vector, atol=1e-4)


def test_the_attention_of_encoders_is_not_used_by_decoders(base, checkpoint):
    assert create(base).encoder.body.model.config._attn_implementation == "sdpa"
    assert create(checkpoint).encoder.body.model.config._attn_implementation == attention.NAME


def test_the_first_token_of_a_decoder_does_not_decide_where_a_query_goes(base):
    encoder = create(base).encoder
    hidden, mask = torch.randn(1, 6, 32), torch.ones(1, 6)
    longer = hidden.clone()
    longer[0, 0] *= 1000
    torch.testing.assert_close(encoder.layered.read(hidden, mask), encoder.layered.read(longer, mask))


def test_the_command_trains_on_a_decoder(tmp_path, make_collection):
    base, collection = make_decoder(tmp_path / "base", "qwen3"), make_collection("aliases")
    run("train", tmp_path / "model", collection, "--base", base, "--force", "--epochs", "1")
    run("library", tmp_path / "model", collection)
    run("index", tmp_path / "model", tmp_path / "index", collection)
    assert run_json("search", tmp_path / "index", "word1 word2")["hits"]
    run("doctor", tmp_path / "model")


def test_random_adapters_change_every_projection(base):
    model = create(base, branch_layer=0)
    names = {name.rpartition(".")[2] for name in model.encoder.lora_layers}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    model.add_expert("e", random_adapter(model.encoder.lora_layers, 1))
