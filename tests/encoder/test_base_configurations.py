"""What a base's files ask for is honoured as Sentence Transformers does, or refused by name."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

from routerretriever import RouterRetriever
from routerretriever.errors import ModelError

TEXTS = [f"word{n} word{n + 1} " * (1 + n % 40) for n in range(12)]
PROMPTS = {"query": "word90 word91 ", "document": "word3 "}


def saved(checkpoint, folder, *, pooling="mean", head=(), length=None, dtype=None, **options):
    transformer = Transformer(str(checkpoint))
    if length is not None:
        transformer.max_seq_length = length
    modules = [transformer, Pooling(32, pooling), *head]
    model = SentenceTransformer(modules=modules, device="cpu", **options)
    model.to(dtype or torch.float32).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    "asked",
    [
        {"prompts": PROMPTS},
        {"prompts": {"query": "word90 ", "passage": "word3 "}},
        {"prompts": {"other": "word7 "}, "default_prompt_name": "other"},
        {"prompts": {**PROMPTS, "other": ""}, "default_prompt_name": "other"},
        {"pooling": "cls"},
        {"pooling": "max"},
        {"pooling": "weightedmean"},
        {"pooling": "lasttoken"},
        {"pooling": "mean_sqrt_len_tokens"},
        {"pooling": ("mean", "cls")},
        {"head": (Normalize(),)},
        {"head": (Dense(32, 16),)},
        {"length": 10},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float16},
        {"similarity_fn_name": "dot"},
    ],
    ids=str,
)
def test_a_model_without_experts_encodes_as_its_base(checkpoint, tmp_path, asked):
    folder = saved(checkpoint, tmp_path / "base", **asked)
    base = SentenceTransformer(str(folder), device="cpu")
    RouterRetriever.create(str(folder), device="cpu").save_pretrained(tmp_path / "model")
    for own in (
        RouterRetriever.create(str(folder), device="cpu"),
        RouterRetriever.from_pretrained(tmp_path / "model", device="cpu"),
    ):
        for method in ("encode", "encode_query", "encode_document"):
            wanted = getattr(base, method)(TEXTS)
            np.testing.assert_allclose(getattr(own, method)(TEXTS), wanted, atol=1e-5, err_msg=method)
        np.testing.assert_allclose(own.embed_texts(TEXTS), base.encode_document(TEXTS), atol=1e-2)
        np.testing.assert_allclose(own.encode_routed(TEXTS).vectors, base.encode_query(TEXTS), atol=1e-5)
        assert own.max_seq_length == base.max_seq_length
        assert own.similarity_fn_name == base.similarity_fn_name


def edited(folder, name, **settings):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 500}, "asks for 500 tokens .* has places for 80"),
        ("sentence_bert_config.json", {"unheard_of": 1}, "could not be loaded .*unheard_of"),
        ("config.json", {"hidden_size": 64}, "could not be loaded"),
    ],
)
def test_settings_that_make_other_vectors_or_none_are_refused(checkpoint, tmp_path, name, settings, message):
    folder = edited(saved(checkpoint, tmp_path / "base"), name, **settings)
    with pytest.raises(ModelError, match=message):
        RouterRetriever.create(str(folder), device="cpu")


def test_a_base_may_be_without_a_name(checkpoint, tmp_path):
    folder = edited(saved(checkpoint, tmp_path / "base"), "config.json", _name_or_path=None)
    assert RouterRetriever.create(str(folder), device="cpu").encoder.base.id == "base"


def test_a_base_that_cuts_its_vectors_is_refused(checkpoint, tmp_path):
    folder = saved(checkpoint, tmp_path / "base", truncate_dim=8)
    with pytest.raises(ModelError, match=r"cuts its vectors to 8 numbers \(truncate_dim\)"):
        RouterRetriever.create(str(folder), device="cpu")
