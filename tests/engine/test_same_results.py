"""An engine answers as torch does: the same routes, and vectors within 1e-4."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from bases import make_decoder
from models import TEXTS, with_experts, with_library
from tiny import ARCHITECTURES, make_checkpoint

from routerretriever import RouterRetriever, compile_model, open_model
from routerretriever.encoder.token_ids import TokenIds
from routerretriever.engine.compiled_model import CompiledModel

LONG = " ".join(TEXTS)  # longer than the base reads
KINDS = {
    "layers": ("lora",),
    "maps": ("map",),
    "both": ("both",),
    "mixed": ("lora", "map", "both"),
    "layers and maps": ("lora", "map"),
}


def compiled(model, folder):
    """The model as it is saved, by torch and by its engine."""
    model.save_pretrained(folder)
    compile_model(folder)
    return RouterRetriever.from_pretrained(folder, device="cpu").eval(), open_model(folder, engine="onnx")


def assert_same(by_torch, by_engine, texts, experts=None):
    wanted, found = by_torch.encode_routed(texts, experts), by_engine.encode_routed(texts, experts)
    assert found.experts == wanted.experts
    assert found.plans == wanted.plans
    assert (found.tokens == wanted.tokens).all()
    assert abs(found.route_embeddings - wanted.route_embeddings).max() < 1e-4
    assert abs(found.vectors - wanted.vectors).max() < 1e-4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture(tmp_path, architecture):
    base = make_checkpoint(tmp_path / "base", architecture)
    by_torch, by_engine = compiled(with_library(with_experts(base)), tmp_path / "model")
    assert isinstance(by_engine, CompiledModel)
    assert_same(by_torch, by_engine, [*TEXTS, LONG])
    for text in TEXTS[:3]:
        assert_same(by_torch, by_engine, [text])
    assert abs(by_engine.encode_document(TEXTS) - by_torch.encode_document(TEXTS)).max() < 1e-4


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_decoders(tmp_path, family):
    base = make_decoder(tmp_path / "base", family)
    model = with_library(with_experts(base, 4, kinds=("lora", "both"), branch_layer=1))
    by_torch, by_engine = compiled(model, tmp_path / "model")
    assert_same(by_torch, by_engine, [*TEXTS, LONG])
    for text in TEXTS[:3]:
        assert_same(by_torch, by_engine, [text], ["e1"])
    assert abs(by_engine.encode_document(TEXTS) - by_torch.encode_document(TEXTS)).max() < 1e-4


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_every_kind_of_expert(checkpoint, tmp_path, kinds):
    by_torch, by_engine = compiled(with_library(with_experts(checkpoint, kinds=kinds)), tmp_path / "model")
    assert_same(by_torch, by_engine, TEXTS)
    candidates = by_torch.state.candidates
    assert_same(
        by_torch, by_engine, TEXTS, [None, *candidates, *candidates, *candidates, None, "e1", "e1"][:24]
    )
    for candidate in candidates:
        wanted = by_torch.encode_query(TEXTS, expert=candidate)
        assert abs(by_engine.encode_query(TEXTS, expert=candidate) - wanted).max() < 1e-4


def test_many_rows_of_one_expert_beside_others(checkpoint, tmp_path):
    """More rows than run at a time."""
    by_torch, by_engine = compiled(with_library(with_experts(checkpoint)), tmp_path / "model")
    texts = [f"{text} {number}" for number in range(3) for text in TEXTS][:40]
    assert len(texts) == 40
    experts = ["e1" if row % 3 else ["e0", "e2", "base", "merged", "e3"][row % 5] for row in range(40)]
    assert experts.count("e1") > 16
    assert_same(by_torch, by_engine, texts, experts)
    assert_same(by_torch, by_engine, texts[:17], ["e1"] * 17)


@pytest.mark.parametrize(
    "settings",
    [
        {"mix": 3},
        {"mix": 7, "fallback_weight": 1.0},
        {"abstain": False},
        {"partial_weight": 0.2},
        {"margin": 1.0},
    ],
)
def test_every_rule(checkpoint, tmp_path, settings):
    """Shares of several experts, parts of one, and the fallback."""
    model = with_library(with_experts(checkpoint, kinds=("lora", "both")))
    policy = model.state.policy
    space = replace(policy.library.space, reject_threshold=0.2, trust_threshold=0.6)
    model.set_library(replace(policy.library, space=space))
    model.set_policy(**settings)
    by_torch, by_engine = compiled(model, tmp_path / "model")
    assert_same(by_torch, by_engine, [*TEXTS, "zap cord", "lamp", "tide tide"])


@pytest.mark.parametrize(
    "settings", [{"route_layer": -1}, {"branch_layer": 0}, {"branch_layer": 3}, {"similarity": "dot"}]
)
def test_every_layout(checkpoint, tmp_path, settings):
    by_torch, by_engine = compiled(with_library(with_experts(checkpoint, **settings)), tmp_path / "model")
    assert by_engine.similarity_fn_name == by_torch.similarity_fn_name
    assert_same(by_torch, by_engine, TEXTS)


def test_a_base_with_prompts_that_it_leaves_out_of_its_pooling(checkpoint, tmp_path):
    model = with_library(with_experts(checkpoint))
    model.prompts = {"query": "word1 word2 ", "document": "word3 "}
    model.encoder.head[0].include_prompt = False
    by_torch, by_engine = compiled(model, tmp_path / "model")
    assert by_engine.fingerprint == by_torch.fingerprint
    assert_same(by_torch, by_engine, [*TEXTS, LONG])
    assert abs(by_engine.encode_document(TEXTS) - by_torch.encode_document(TEXTS)).max() < 1e-4


def test_another_pooling(tmp_path):
    base = make_checkpoint(tmp_path / "base", pooling="cls")
    by_torch, by_engine = compiled(with_library(with_experts(base)), tmp_path / "model")
    assert_same(by_torch, by_engine, TEXTS)


def test_token_ids(checkpoint, tmp_path):
    by_torch, by_engine = compiled(with_library(with_experts(checkpoint)), tmp_path / "model")
    ids = [TokenIds((0, 7, 8, 2)), TokenIds((9, 10, 11, 12)), "word1"]
    assert_same(by_torch, by_engine, ids)


def test_a_model_without_experts_and_one_without_pilots(checkpoint, tmp_path):
    by_torch, by_engine = compiled(RouterRetriever.create(str(checkpoint), device="cpu"), tmp_path / "none")
    assert_same(by_torch, by_engine, TEXTS)
    by_torch, by_engine = compiled(with_experts(checkpoint, n=2), tmp_path / "no-pilots")
    assert_same(by_torch, by_engine, TEXTS[:3], [None, "e0", "merged"])


def test_routes_are_explained_alike(checkpoint, tmp_path):
    by_torch, by_engine = compiled(with_library(with_experts(checkpoint)), tmp_path / "model")
    for wanted, found in zip(by_torch.route(TEXTS), by_engine.route(TEXTS), strict=True):
        wanted, found = wanted.to_dict(), found.to_dict()
        assert json.dumps(_rounded(found)) == json.dumps(_rounded(wanted))


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 3) + 0.0 if isinstance(value, float) else value


def test_documents_in_any_order_and_number(checkpoint, tmp_path):
    by_torch, by_engine = compiled(with_library(with_experts(checkpoint)), tmp_path / "model")
    texts = [*TEXTS, LONG, ""]
    wanted = by_torch.encode_document(texts)
    assert abs(by_engine.encode_document(texts, batch_size=5) - wanted).max() < 1e-4
    assert abs(by_engine.embed_texts(texts) - wanted).max() < 1e-4
    assert by_engine.encode_document([]).shape == (0, 32)
    assert np.array_equal(by_engine.encode_document(texts[3]).shape, (32,))
    assert by_engine.token_counts(texts) == by_torch.encoder.token_counts(texts)


def test_an_engine_leaves_other_graphs_of_the_process_alone(checkpoint, tmp_path):
    for name in ("one", "other"):
        with_experts(checkpoint, n=2).save_pretrained(tmp_path / name)
        compile_model(tmp_path / name)  # the second time, an engine has answered before
        open_model(tmp_path / name, engine="onnx").encode_query(["a query"])
    graph = tmp_path / "one" / "engine" / "lower.onnx"
    assert onnxruntime.InferenceSession(str(graph)).get_inputs()
