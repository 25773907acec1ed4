import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tiny import random_adapter

from routerretriever import RouterRetriever
from routerretriever.encoder.query_batch import EncodedQueries
from routerretriever.encoder.token_ids import TokenIds
from routerretriever.lora.layers import TrainingPlan, initial_adapter

TEXTS = [f"word{n} word{n + 1} " * (1 + n % 4) for n in range(20)]
PROMPT = "word90 word91 word92 "


@pytest.fixture(scope="module")
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


@pytest.fixture(scope="module")
def prompted(checkpoint, tmp_path_factory):
    """A base with a prompt for queries, which its pooling leaves out."""
    folder = tmp_path_factory.mktemp("prompted")
    modules = [Transformer(str(checkpoint)), Pooling(32, "mean", include_prompt=False)]
    SentenceTransformer(modules=modules, prompts={"query": PROMPT}, device="cpu").save_pretrained(str(folder))
    model = RouterRetriever.create(str(folder), device="cpu")
    model.add_expert("a", random_adapter(model.encoder.lora_layers, seed=1))
    return model


def test_cached_hidden_states_do_not_change_the_vectors(model):
    queries = EncodedQueries.of(model.encoder, TEXTS, None)
    plan = TrainingPlan(initial_adapter(model.encoder.lora_layers, 4, 8.0, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        features, hidden = queries.batch(range(20))
        resumed = model.encoder.finish(plan, features, hidden)
        whole = model.encoder.finish(plan, features, None)
    assert (resumed - whole).abs().max() < 1e-6
    assert abs(resumed.numpy() - model.encode_query(TEXTS)).max() < 1e-5
    assert abs(queries.vectors(plan) - resumed.numpy()).max() < 1e-5
    assert abs(queries.route_embeddings() - model.route_embeddings(TEXTS)).max() < 1e-5
    uncached = EncodedQueries.of(model.encoder, TEXTS, None, budget=0)
    assert uncached.hidden is None
    assert abs(uncached.vectors(plan) - resumed.numpy()).max() < 1e-5
    assert abs(uncached.route_embeddings() - queries.route_embeddings()).max() < 1e-5


@pytest.mark.parametrize("expert", ["base", "a"])
@pytest.mark.parametrize("budget", [0, 2**30])
def test_a_prompt_that_the_pooling_leaves_out_is_left_out_everywhere(prompted, expert, budget):
    """Training, gains and evaluation read the vectors that search and server give."""
    queries = EncodedQueries.of(prompted.encoder, TEXTS, prompted.query_prompt, budget)
    measured = queries.vectors(prompted.encoder.pinned_plan(expert))
    served = prompted.encode_routed(TEXTS, [expert] * len(TEXTS)).vectors
    public = prompted.encode_query(TEXTS, expert=expert)
    np.testing.assert_allclose(measured, public, atol=1e-5)
    np.testing.assert_allclose(served, public, atol=1e-5)
    assert abs(public - prompted.encode_query(TEXTS, expert=expert, prompt="")).max() > 1e-3
    pooled = Pooling(32, "mean")
    assert abs(public - _vectors_with(prompted, pooled, expert)).max() > 1e-3  # the case is one that matters


def _vectors_with(model, pooling, expert):
    own, model.encoder.head[0] = model.encoder.head[0], pooling
    try:
        return model.encode_query(TEXTS, expert=expert)
    finally:
        model.encoder.head[0] = own


@pytest.mark.parametrize("special", [False, True])
def test_token_ids_give_the_vector_of_their_text(prompted, special):
    """Also where the tokeniser does not know a word, which decoding would drop."""
    texts = ["word1 unheard word2", "word3", "unheard of"]
    tokenizer = prompted.encoder.tokenizer
    ids = [TokenIds(tokenizer(text, add_special_tokens=special)["input_ids"]) for text in texts]
    assert any(tokenizer.unk_token_id in row for row in ids)
    wanted = prompted.encode_query(texts, expert="a")
    found = prompted.encode_routed(ids, ["a"] * len(ids))
    np.testing.assert_allclose(found.vectors, wanted, atol=1e-5)
    mixed = prompted.encode_routed([ids[0], texts[1], ids[2]], ["a"] * len(ids))
    np.testing.assert_allclose(mixed.vectors, wanted, atol=1e-5)
    np.testing.assert_allclose(prompted.encode_document(ids), prompted.encode_document(texts), atol=1e-5)


def test_long_token_ids_are_cut_like_their_text(prompted):
    text = "word5 " * 500
    ids = TokenIds(prompted.encoder.tokenizer(text, add_special_tokens=False)["input_ids"])
    found = prompted.encode_routed([ids], ["base"])
    np.testing.assert_allclose(found.vectors, prompted.encode_query([text], expert="base"), atol=1e-5)
    assert found.tokens[0] == prompted.max_seq_length
