"""A cross-encoder as the last stage of a search."""

import numpy as np
import pytest
from cross_encoders import make_cross_encoder, make_plain_encoder
from sentence_transformers import CrossEncoder
from torch import nn

from routerretriever import Index, Reranker, RouterRetriever
from routerretriever.data.document import Document
from routerretriever.errors import ModelError, VectorIndexError

PAIRS = [("word1 word2", "word2 word3"), ("word1", "word9 word8 word7"), ("word5", "")]


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    return make_cross_encoder(checkpoint, tmp_path_factory.mktemp("reranker") / "model")


@pytest.fixture(scope="module")
def index(checkpoint, tmp_path_factory):
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    made = Index.create(tmp_path_factory.mktemp("index") / "index", model)
    made.upsert([Document(f"d{n}", f"word{n} word{n % 7}", f"title{n % 3}") for n in range(80)])
    return made


def test_probabilities_are_those_of_sentence_transformers(folder):
    logits = CrossEncoder(str(folder), device="cpu").predict(PAIRS, activation_fn=nn.Identity())
    wanted = 1 / (1 + np.exp(-np.asarray(logits)))
    found = Reranker.load(folder, device="cpu").probabilities(PAIRS)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert Reranker.load(folder).probabilities([]).shape == (0,)


def test_the_best_fifty_are_read_and_the_most_relevant_come_first(index, folder):
    reranker = Reranker.load(folder, device="cpu")
    queries = ["word3 word13", "word5"]
    for query, hits in zip(queries, index.search_many(queries, 5, rerank=reranker), strict=True):
        first = index.search(query, 50)
        scores = reranker.probabilities([(query, hit.content) for hit in first])
        order = np.argsort(-scores, kind="stable")[:5]
        assert [hit.id for hit in hits] == [first[place].id for place in order]
        np.testing.assert_allclose([hit.relevance for hit in hits], scores[order], atol=1e-5)


def test_hits_below_the_least_relevance_are_left_out(index, folder):
    reranker = Reranker.load(folder, device="cpu")
    every = index.search("word3", 20, rerank=reranker)
    limit = every[9].relevance
    kept = index.search("word3", 20, rerank=reranker, min_relevance=limit)
    assert kept == [hit for hit in every if hit.relevance >= limit]
    assert index.search("word3", rerank=reranker, min_relevance=1.0) == []


def test_a_least_relevance_needs_something_that_says_it(index):
    with pytest.raises(VectorIndexError, match=r"within 0\.\.1"):
        index.search("word3", min_relevance=1.5)
    with pytest.raises(VectorIndexError, match="library MODEL.*rerank"):
        index.search("word3", min_relevance=0.5)
    # Also where nothing is found, and with advice that fits the mode.
    with pytest.raises(VectorIndexError, match="'hybrid' or 'vector', or rerank"):
        index.search("absent", mode="text", min_relevance=0.5)


def test_what_is_no_cross_encoder_is_refused_by_name(checkpoint, tmp_path):
    with pytest.raises(ModelError, match="not a cross-encoder: it is a BertModel"):
        Reranker.load(make_plain_encoder(checkpoint, tmp_path / "plain"))
    with pytest.raises(ModelError, match="3 scores"):
        Reranker.load(make_cross_encoder(checkpoint, tmp_path / "three", labels=3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        Reranker.load(tmp_path / "empty")
